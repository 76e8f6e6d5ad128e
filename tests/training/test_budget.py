"""A stage's budget: what is spent, when a stage ends, the learning rate along it, where its end is read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from rich.console import Console

from paced_megatron.config import Budget, PacingConfig, TrainingConfig
from paced_megatron.errors import UserError
from paced_megatron.plan.work import Layout
from paced_megatron.run_folder import StageFolder
from paced_megatron.runtime.cpu import CPU, megatron_on_cpu
from paced_megatron.runtime.lead import Lead
from paced_megatron.runtime.world import World, parallel_groups
from paced_megatron.training import loop
from paced_megatron.training.budget import (
    EMPTY,
    SPENT,
    Meter,
    Spent,
    last_step,
    patience_with,
    steps_within,
    tokens_of,
    write_ended,
)
from paced_megatron.training.checkpoints.state import spent_in
from paced_megatron.training.examples import Example
from paced_megatron.training.optimizer import make_schedule
from paced_megatron.training.order import paced_batches
from paced_megatron.training.source import StoredText
from plan.counted import Case, examples, trainer_in
from tiny_models import make_tiny_qwen3

STEPS, TOKENS, SECONDS = (
    Budget(name, amount, f"stages.0.{name}")
    for name, amount in (("train_iters", 3), ("train_tokens", 100), ("train_seconds", 2.5))
)


def text(length: int, weight: float = 1.0, pass_rate: float = 0.5) -> Example:
    return Example(f"p{length}", (1,), (1,), (2,) * length, weight, pass_rate)


@pytest.mark.parametrize(("budget", "last"), [(STEPS, 3), (TOKENS, 4), (SECONDS, 5)])
def test_the_first_step_at_or_beyond_the_budget_is_the_last(budget: Budget, last: int) -> None:
    """Steps of 30 tokens and half a second: 100 tokens are passed by the fourth, 2.5 s are reached by the
    fifth."""
    meter, ended = Meter(budget), []
    for _ in range(last):
        meter.count(30, 0.5)
        ended.append(meter.why_ended(patience=10))
    assert ended == [None] * (last - 1) + [SPENT]
    assert meter.spent == Spent(last, 30 * last, 0.5 * last)
    assert meter.fraction == pytest.approx({STEPS: 1.0, TOKENS: 1.2, SECONDS: 1.0}[budget])


@pytest.mark.parametrize("budget", [STEPS, TOKENS, SECONDS])
def test_steps_without_a_text_end_a_stage_once_there_were_many_in_a_row_unless_steps_are_the_budget(
    budget: Budget,
) -> None:
    meter = Meter(Budget(budget.name, 1000, budget.key))
    for tokens in (0, 0, 5, 0, 0):
        meter.count(tokens, 1e-6)
        assert meter.why_ended(patience=3) is None
    meter.count(0, 1e-6)
    assert meter.why_ended(patience=3) == (None if budget is STEPS else EMPTY)


def test_patience_is_one_pass_over_the_problems_and_ten_steps_at_least() -> None:
    assert [patience_with(problems, 4) for problems in (3, 40, 41, 400)] == [10, 10, 11, 100]


def test_tokens_are_those_of_the_responses_of_weight_above_0() -> None:
    assert tokens_of([text(3), text(5, weight=0.0), text(7, weight=0.01)]) == 10


def test_a_budget_in_tokens_is_a_number_of_steps_where_the_texts_are_known_and_the_clock_tells_no_number():
    batches = {1: [text(3), text(4)], 2: [text(1), text(2)], 3: [text(9), text(9)]}
    for amount, steps in ((7, 1), (8, 2), (10, 2), (11, 3)):
        assert steps_within(Budget("train_tokens", amount, ""), batches.__getitem__) == steps
    assert steps_within(STEPS, batches.__getitem__) == 3
    assert steps_within(SECONDS, batches.__getitem__) is None


def test_sorted_easy_to_hard_are_the_texts_that_the_shuffled_batches_have_within_the_tokens() -> None:
    texts = [
        text(length, pass_rate=rate) for length, rate in zip(range(1, 8), (3, 1, 5, 2, 7, 4, 6), strict=True)
    ]
    setting: dict[str, Any] = {"batch_size": 2, "budget": Budget("train_tokens", 40, ""), "seed": 3}
    _, shuffled = paced_batches(PacingConfig(), texts, **setting)
    _, in_order = paced_batches(PacingConfig(order="easy_to_hard"), texts, **setting)
    tokens, wanted = 0, []
    for step in range(1, 100):
        wanted += shuffled(step)
        tokens += sum(len(texts[index].response) for index in shuffled(step))
        if tokens >= 40:
            break
    assert step >= 4
    found = [index for number in range(1, step + 1) for index in in_order(number)]
    assert sorted(found) == sorted(wanted)
    rates = [texts[index].pass_rate for index in found]
    assert rates == sorted(rates, reverse=True)


def test_the_learning_rate_goes_by_the_fraction_of_the_budget_that_is_spent() -> None:
    """1000 tokens, a fifth of them warm-up to 0.01, then linear to 0.002 at the end: by hand."""
    optimizer: Any = SimpleNamespace(param_groups=[{}])
    training = TrainingConfig(lr=0.01, min_lr=0.002, lr_decay_style="linear", lr_warmup_fraction=0.2)
    schedule = make_schedule(optimizer, training, Budget("train_tokens", 1000, ""))
    found = []
    for tokens in (0, 50, 150, 200, 300, 400):  # spent so far: 0, 50, 200, 400, 700, 1100
        schedule.step(increment=tokens)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([0.0, 0.0025, 0.01, 0.008, 0.005, 0.002], rel=1e-12)


def test_the_last_step_is_read_from_training_json_and_known_before_only_of_steps(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path, 1)
    assert last_step(folder, STEPS) == 3
    assert last_step(folder, TOKENS) is None
    write_ended(folder, Spent(17, 104, 1.5), SPENT)
    assert last_step(folder, TOKENS) == last_step(folder, SECONDS) == 17
    folder.training.write_text("{}")
    with pytest.raises(UserError, match=r"training.json can't be read .*`paced train` writes it again"):
        last_step(folder, TOKENS)


def test_a_checkpoint_of_a_time_without_budgets_has_spent_its_steps() -> None:
    assert spent_in({"iteration": 7}) == Spent(steps=7)
    spent = Spent(7, 104, 1.5, 2)
    assert spent_in(json.loads(json.dumps({"iteration": 7, "spent": asdict(spent)}))) == spent


CLOCKS = (0.25, 1.0)  # seconds between two looks at the clock, of ranks 0 and 1
LAYOUTS = {
    "DP 2": Case(Layout(data_parallel_size=2), "float32"),
    "TP 2": Case(Layout(tensor_model_parallel_size=2, teacher_tensor_model_parallel_size=2), "float32"),
}


def trained_by_clocks_that_differ(
    rank: int, world_size: int, folder: Path, model: Path, case: Case, budget: Budget
):
    """What is spent after a stage, on this rank; saving takes a minute."""
    now = 0.0

    def look() -> float:
        nonlocal now
        now += CLOCKS[rank]
        return now

    def save(*arguments: Any) -> None:
        nonlocal now
        now += 60.0

    with megatron_on_cpu(), pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=look))
        monkeypatch.setattr(loop, "save_checkpoint", save)
        parallel = case.parallel
        groups = parallel_groups(parallel.tensor_model_parallel_size, 1, 1, None)
        store = dist.FileStore(str(folder / "store"), world_size)
        world = World(rank, world_size, CPU, groups, Lead(rank, world_size, store))
        trainer = trainer_in(world, model, model, case, budget)
        batch = examples(case)
        loop.train_stage(
            trainer,
            StageFolder(folder, 1),
            StoredText(batch, lambda step: list(range(len(batch)))),
            patience=10,
            evaluate_every=0,
            on_evaluation=lambda step, chunks: None,
            console=Console(quiet=True),
        )
        world.lead.close()
        return trainer.meter.spent, trainer.schedule.num_steps


@pytest.mark.parallel
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rank_0_s_clock_alone_ends_a_stage_of_seconds_at_the_same_step_on_all_ranks(pool, tmp_path, layout):
    """Its steps take 0.25 s, so that the fourth is the last; rank 1 would stop after the first."""
    model = make_tiny_qwen3(tmp_path / "model", seed=1, num_hidden_layers=2)
    budget = Budget("train_seconds", 1.0, "stages.0.train_seconds")
    found = pool.run(trained_by_clocks_that_differ, 2, tmp_path, model, LAYOUTS[layout], budget, timeout=120)
    assert [(spent.steps, spent.seconds, place) for spent, place in found] == [(4, 1.0, 1.0)] * 2


@pytest.mark.parallel
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_are_those_of_the_whole_batch_so_that_all_ranks_end_with_the_same_step(pool, tmp_path, layout):
    model = make_tiny_qwen3(tmp_path / "model", seed=1, num_hidden_layers=2)
    case = LAYOUTS[layout]
    of_a_step = tokens_of(examples(case))
    budget = Budget("train_tokens", 2 * of_a_step + 1, "stages.0.train_tokens")
    found = pool.run(trained_by_clocks_that_differ, 2, tmp_path, model, case, budget, timeout=120)
    assert [spent.steps for spent, _ in found] == [3, 3]
    assert [spent.tokens for spent, _ in found] == [3 * of_a_step] * 2
