"""A step's numbers: what they are, and under which names trackers get them."""

from __future__ import annotations

import importlib.util
import sys
import time
import types
from dataclasses import asdict, fields

import pytest

from paced_megatron.config import LoggingConfig
from paced_megatron.errors import UserError
from paced_megatron.training.examples import Example
from paced_megatron.training.metrics import StepMetrics, step_metrics, stratum
from paced_megatron.training.step import StepSums
from paced_megatron.training.timers import PHASES
from paced_megatron.training.writers import SCALARS, check_installed, open_writers, scalars

SUMS = StepSums(loss=0.5, tokens=40.0, kept=30.0, divergence=20.0, student_entropy=60.0, teacher_entropy=30.0)


def example(weight: float, pass_rate: float | None) -> Example:
    return Example("p", (1,), (1,), (2, 3), weight, pass_rate)


def metrics(batch, grad_norm: float = 2.0, clip_grad: float = 1.0) -> StepMetrics:
    return step_metrics(
        batch,
        SUMS,
        weights=[example.weight for example in batch],
        stage=1,
        step=3,
        grad_norm=grad_norm,
        lr=1e-3,
        clip_grad=clip_grad,
        step_time=0.25,
        timing_s=dict.fromkeys(PHASES, 0.05),
        rollout={},
    )


def test_weight_is_shared_out_among_the_strata_of_the_pass_rate():
    found = metrics([example(1.0, 0.125), example(2.0, 0.5), example(1.0, 0.2), example(4.0, 1.0)])
    assert found.weight_share == pytest.approx({"0-0.2": 0.25, "0.4-0.6": 0.25, "1": 0.5})
    assert found.pass_rate_mean == pytest.approx((0.125 + 0.5 + 0.2 + 1.0) / 4)
    assert found.weight_ess == pytest.approx(8.0**2 / (1 + 4 + 1 + 16))
    assert found.tokens_per_s == 160
    assert found.tokens_kept == 0.75


def test_without_pass_rates_nothing_is_said_of_them():
    found = metrics([example(1.0, None)])
    assert found.weight_share == {} and found.pass_rate_mean is None
    assert "pace/pass_rate/mean" not in scalars(found)


@pytest.mark.parametrize(
    ("rate", "name"),
    [
        (0.0, "0"),
        (0.0001, "0-0.2"),
        (0.2, "0-0.2"),
        (0.25, "0.2-0.4"),
        (0.6, "0.4-0.6"),
        (0.875, "0.8-1"),
        (1, "1"),
    ],
)
def test_a_stratum_is_named_by_its_bounds(rate, name):
    assert stratum(rate) == name


@pytest.mark.parametrize(
    ("grad_norm", "clip_grad", "clipped"), [(2.0, 1.0, True), (0.5, 1.0, False), (2.0, 0.0, False)]
)
def test_a_step_is_clipped_when_its_gradient_is_longer_than_allowed(grad_norm, clip_grad, clipped):
    assert metrics([example(1.0, 0.5)], grad_norm, clip_grad).clipped is clipped


def test_trackers_get_every_field_under_the_names_of_such_trackers():
    found = scalars(metrics([example(1.0, 0.5), example(1.0, 0.125)]))
    assert {field.name for field in fields(StepMetrics)} == {*SCALARS.values(), "stage", "step"}
    assert found["train/loss"] == 0.5 and found["train/grad_norm"] == 2.0 and found["train/clipped"] == 1.0
    assert found["pace/weight/ess"] == 2.0 and found["pace/weight/share/0.4-0.6"] == 0.5
    assert {name for name in found if name.startswith("timing_s/")} == {f"timing_s/{name}" for name in PHASES}


@pytest.mark.parametrize(
    ("logging", "package"),
    [(LoggingConfig(tensorboard=True), "tensorboard"), (LoggingConfig(wandb_project="mine"), "wandb")],
)
def test_a_tracker_without_its_package_is_refused_with_the_remedy(logging, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"needs the package {package}: `pip install {package}`"):
        check_installed(logging)
    check_installed(LoggingConfig())


def test_wandb_gets_what_was_dropped_and_then_each_step(tmp_path, monkeypatch):
    """A stand-in: the package wants an account and a network. Its two calls, init and log, are its oldest."""
    logged, begun = [], {}
    stand_in = types.ModuleType("wandb")

    def init(**settings):
        begun.update(settings)
        return types.SimpleNamespace(log=lambda values, step: logged.append((step, values)))

    stand_in.init = init
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    (write,) = open_writers(LoggingConfig(wandb_project="mine"), tmp_path / "run", 2, {"k0": 3, "kK": 4})
    step = metrics([example(1.0, 0.5)])
    write(scalars(step), step.step)
    assert begun["project"] == "mine" and begun["name"] == "run-stage-2" and begun["resume"] == "allow"
    assert logged == [(0, {"pace/dropped/k0": 3, "pace/dropped/kK": 4}), (3, scalars(step))]


def test_tensorboard_reads_back_what_was_written(tmp_path):
    pytest.importorskip("tensorboard", reason="the optional package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (write,) = open_writers(LoggingConfig(tensorboard=True), tmp_path, 1, {"k0": 3, "kK": 4})
    step = metrics([example(1.0, 0.5)])
    write(scalars(step), step.step)
    events = EventAccumulator(str(tmp_path / "stage-1" / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"pace/dropped/k0", "pace/dropped/kK", *scalars(step)}
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 0.5)]


def test_in_tensorboard_steps_that_are_taken_again_take_the_place_of_those_that_were_lost(tmp_path):
    pytest.importorskip("tensorboard", reason="the optional package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # step -> loss; the second start goes on from a checkpoint of step 1
    for done, losses in ((0, {1: 0.1, 2: 0.2, 3: 0.3}), (1, {2: 0.25, 3: 0.35, 4: 0.4})):
        (write,) = open_writers(LoggingConfig(tensorboard=True), tmp_path, 1, {"k0": 3, "kK": 4}, done)
        for step, loss in losses.items():
            write({"train/loss": loss}, step)
        time.sleep(1.1)  # a file's name has the second in which it was begun
    events = EventAccumulator(str(tmp_path / "stage-1" / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert [loss for _, loss in found] == pytest.approx([0.1, 0.25, 0.35, 0.4])
    assert [event.step for event in events.Scalars("pace/dropped/k0")] == [0]


def test_a_line_of_metrics_is_plain_json():
    import json

    assert json.loads(json.dumps(asdict(metrics([example(1.0, 0.5)]))))["timing_s"]["loss"] == 0.05
