"""What a run says of its devices before it begins. GPUs are made up, at the place where they are asked: here
is none, and what follows from their sizes is the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from loop.recipes import QUICKSTART, write_experiment, write_recipe
from paced_megatron import device_check
from paced_megatron.cli import main
from paced_megatron.config.io import load_config
from paced_megatron.errors import UserError
from paced_megatron.inputs import read_inputs
from paced_megatron.plan.from_config import planned_work
from paced_megatron.plan.memory import memory_by_stage
from paced_megatron.runtime.gpus import Gpu

SHORT = {
    "stages": [{"divergence": "forward_kl", "train_iters": 1}],
    "evaluation": {"every": 0, "attempts": 1},
}


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path, **SHORT)


@pytest.fixture
def found(monkeypatch):
    """Called with the GPU that rank 0 shall find."""

    def set_gpu(**fields) -> None:
        card = Gpu(**({"name": "Card", "total": 80 * 2**30, "free": 80 * 2**30} | fields))
        monkeypatch.setattr(device_check, "gpus_of_job", lambda world: [card])

    return set_gpu


def test_a_run_that_will_not_fit_ends_before_its_first_attempt_with_a_line(recipe, found, capsys):
    found(total=2**29, free=2**29)
    for verb in ("run", "rollout"):
        assert main([verb, str(recipe)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("paced: the GPU of rank 0 (Card) has 0.5 GB")
        assert line.endswith("`--skip-memory-check` tries it all the same")
        assert not list(recipe.parent.rglob("attempts.jsonl"))


def test_an_experiment_that_will_not_fit_ends_before_its_first_attempt_too(tmp_path, found, capsys):
    experiment = write_experiment(tmp_path, seeds=(1,), **SHORT)
    found(total=2**29, free=2**29)
    assert main(["compare", str(experiment)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("paced: the GPU of rank 0 (Card) has 0.5 GB")
    assert not list(tmp_path.rglob("attempts.jsonl"))


def test_what_one_arm_alone_asks_for_is_looked_at_before_the_first_attempt_too(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    arms = {"plain": {}, "kernels": {"training.loss_kernels": "triton"}}
    experiment = write_experiment(tmp_path, arms=arms, seeds=(1,), **SHORT)
    assert main(["compare", str(experiment)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("paced: training.loss_kernels=triton: ") and line.endswith("(arm kernels)")
    assert not list(tmp_path.rglob("attempts.jsonl"))


def test_asked_to_it_is_tried_all_the_same_with_a_warning(recipe, found, capsys):
    found(total=2**29, free=2**29)
    assert main(["rollout", str(recipe), "--skip-memory-check"]) == 0
    assert capsys.readouterr().out.startswith("warning: the GPU of rank 0 (Card) has 0.5 GB")
    assert list(recipe.parent.rglob("attempts.jsonl"))


def test_a_verb_that_loads_no_model_is_not_stopped(recipe, found, capsys):
    assert main(["rollout", str(recipe)]) == 0
    found(total=2**20, free=2**20)
    assert main(["weigh", str(recipe)]) == 0
    with pytest.raises(SystemExit):
        main(["weigh", str(recipe), "--skip-memory-check"])
    assert "warning: the GPU" not in capsys.readouterr().out


def test_the_longest_texts_that_can_come_are_compared(recipe):
    config = load_config(recipe, ["rollout.max_new_tokens=17"])
    inputs = read_inputs(config)
    texts = device_check.longest_texts(config, inputs)
    assert texts.response_tokens == 17
    assert texts.prompt_tokens == max(len(ids) for ids in inputs.train.prompts.values())


def test_an_old_gpu_is_warned_of_with_what_it_costs_and_a_new_one_is_not(recipe, found, capsys):
    found(capability=(7, 5))
    assert main(["rollout", str(recipe), "training.params_dtype=bfloat16"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("warning: the GPU has compute capability 7.5, below 8.0: no Triton")
    assert "bfloat16 is emulated" in out and "training.params_dtype=float32" in out
    found(capability=(8, 0))
    assert main(["respond", str(recipe)]) == 2  # there are no pass rates yet
    assert "compute capability" not in capsys.readouterr().out


def test_a_real_student_without_a_gpu_is_warned_of_with_the_reason_and_a_tiny_one_is_not(recipe):
    config = load_config(recipe, [])
    inputs = read_inputs(config)
    assert device_check.slow_on_cpu(config, inputs) == ""
    large = replace(inputs, student=replace(inputs.student, ffn_hidden_size=2**21))
    line = device_check.slow_on_cpu(config, large)
    assert line.startswith("no GPU is used: ") and "TFLOP of matrix products: slow on a CPU" in line
    if torch.version.cuda is None:
        assert f"torch {torch.__version__} is a build for the CPU" in line


def test_the_quickstart_says_nothing_of_devices(capsys, tmp_path):
    config = load_config(QUICKSTART / "quickstart.yaml", [f"run_dir={tmp_path / 'run'}"])
    assert device_check.slow_on_cpu(config, read_inputs(config)) == ""


def test_ranks_that_would_go_different_ways_are_told_before_they_wait_for_each_other():
    layers, triton, plain = "layers: Megatron-Core's own", "loss: Triton kernels", "loss: torch operations"
    device_check.check_alike([[layers, triton], [layers, triton]])
    with pytest.raises(UserError) as told:
        device_check.check_alike([[layers, triton], [layers, triton], [layers, plain]])
    assert str(told.value).startswith(
        f"rank 0 would take `{triton}` and rank 2 `{plain}`: their machines differ"
    )
    refused = UserError("training.loss_kernels=triton: cannot be")
    with pytest.raises(UserError, match=r"^rank 1: training\.loss_kernels=triton: cannot be$"):
        device_check.check_alike([[layers, triton], refused])
    with pytest.raises(UserError, match=r"^training\.loss_kernels=triton: cannot be$"):
        device_check.check_alike([refused])


def test_a_verb_is_refused_for_what_it_samples_itself_and_for_nothing_else(recipe, found, capsys):
    """The teacher's responses and an evaluation's long answers are others' than the rollouts."""
    large = ["rollout.batch_size=1000000", "evaluation.max_new_tokens=50", "rollout.max_new_tokens=12"]
    config = load_config(recipe, large)
    texts = device_check.longest_texts(config, read_inputs(config))
    (stage,) = memory_by_stage(planned_work(config, texts, "cuda"))
    rollouts, responses, evaluation = (
        stage.in_turn(turn) for turn in ("rollouts", "responses", "evaluation")
    )
    assert 1.3 * rollouts < min(responses, evaluation)
    found(total=1.12 * rollouts, free=1.12 * rollouts)
    assert main(["rollout", str(recipe), *large]) == 0
    for verb, turn in (
        ("respond", "responses"),
        ("evaluate-before", "evaluation"),
        ("evaluate", "evaluation"),
    ):
        capsys.readouterr()
        assert main([verb, str(recipe), *large]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"in the turn of {turn}, " in line and line.endswith("tries it all the same")
    assert main(["evaluate", str(recipe), *large, "--skip-memory-check"]) == 2
    assert "paced export" in capsys.readouterr().err  # it gets as far as to look for the student


def test_kernels_that_this_machine_lacks_are_no_matter_to_a_verb_that_does_not_train(
    recipe, capsys, monkeypatch
):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    asked = [str(recipe), "training.loss_kernels=triton"]
    assert main(["rollout", *asked]) == 0
    assert main(["train", *asked]) == 2
    assert "paced: training.loss_kernels=triton: " in capsys.readouterr().err


def test_a_verb_of_one_stage_is_compared_by_that_stage_alone(recipe, found, monkeypatch):
    """By what is handed on: steps of tiny models take much the same in every stage."""
    seen = []
    monkeypatch.setattr(device_check, "room_on", lambda gpus, works, turns: seen.append(works))
    found()
    stages = "stages=[{divergence: forward_kl, train_iters: 1}, {divergence: reverse_kl, train_iters: 1}]"
    main(["evaluate-before", str(recipe), stages])
    main(["evaluate-before", str(recipe), stages, "--stage", "2"])
    assert [[work.divergence for work in works] for works in seen] == [
        ["forward_kl", "reverse_kl"],
        ["reverse_kl"],
    ]
