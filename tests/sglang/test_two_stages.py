"""`paced run` with `rollout.engine: sglang`: it starts a server, and gives it new weights between stages and,
on the student's own text, between steps."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from loop.recipes import ATTEMPTS, QUICKSTART, TRAIN_PROBLEMS, keys, records, run_paced, write_recipe
from paced_megatron.config import PromptConfig
from paced_megatron.models.hidden_states import transformers_states
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.prompts import prompt_token_ids
from sglang.rollouts import noisy_student
from sglang_server import STARTUP_S, Launch

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(STARTUP_S + 360)]

ITERS, ON_POLICY_STEPS, BATCH = 4, 3, 4


@pytest.fixture(scope="module")
def run(sglang_launch: Launch, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two-stages")
    launch = {
        "python": str(sglang_launch.python),
        "args": shlex.join(sglang_launch.args),
        "env": dict(sglang_launch.env),
    }
    recipe = write_recipe(
        folder,
        teacher={"path": str(noisy_student(folder / "teacher"))},
        rollout={"engine": "sglang", "attempts": ATTEMPTS, "max_new_tokens": 16, "launch": launch},
        stages=[
            {"divergence": "forward_kl", "train_iters": ITERS},
            {"divergence": "reverse_kl", "train_iters": 2},
            {"divergence": "reverse_kl", "text": "rollouts", "train_iters": ON_POLICY_STEPS},
        ],
        evaluation={"every": 0, "attempts": 1, "greedy": True},
    )
    code, output, errors = run_paced("run", recipe, timeout=STARTUP_S + 300)
    assert code == 0, output + errors
    return folder / "run"


@dataclass(frozen=True)
class Judged:
    """Attempts as a folder's weights see them.

    Attributes:
        log_likelihood: of all their tokens, in nats.
        off: by how many standard deviations that is off its mean, were the tokens drawn from these weights.
        argmax: by attempt, whether each token is the likeliest one.
    """

    log_likelihood: float
    off: float
    argmax: list[list[bool]]


def judge(folder: Path, attempts: Sequence[dict[str, Any]], problems: Path) -> Judged:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    by_id = {line["id"]: line for line in records(problems)}
    prompts = [
        prompt_token_ids(tokenizer, Problem("", by_id[attempt["problem_id"]]["problem"], ""), PromptConfig())
        for attempt in attempts
    ]
    states = transformers_states(
        folder, [[*prompt, *attempt["token_ids"]] for prompt, attempt in zip(prompts, attempts, strict=True)]
    )
    said = entropy = variance = 0.0
    argmax = []
    for number, (prompt, attempt) in enumerate(zip(prompts, attempts, strict=True)):
        length, ids = len(attempt["token_ids"]), torch.tensor(attempt["token_ids"])
        logs = states.log_softmax_at(number, slice(len(prompt) - 1, len(prompt) - 1 + length))
        mean = (logs.exp() * logs).sum(-1)
        said += logs.gather(1, ids[:, None]).sum().item()
        entropy -= mean.sum().item()
        variance += ((logs.exp() * logs**2).sum(-1) - mean**2).sum().item()
        argmax.append((logs.argmax(-1) == ids).tolist())
    return Judged(said, (said + entropy) / math.sqrt(variance), argmax)


def test_every_attempt_is_there_once_with_the_weights_that_made_it(run):
    for stage, version in ((1, "initial"), (2, "stage-1")):
        attempts = records(run / f"stage-{stage}" / "attempts.jsonl")
        assert {attempt["weight_version"] for attempt in attempts} == {version}
        named = keys(run / f"stage-{stage}" / "attempts.jsonl")
        assert len(set(named)) == len(named) == TRAIN_PROBLEMS * ATTEMPTS
        responses = records(run / f"stage-{stage}" / "responses.jsonl")
        assert responses and {response["weight_version"] for response in responses} == {"teacher"}


def test_attempts_of_the_second_stage_were_drawn_from_the_new_weights_and_not_from_the_old(run):
    attempts = records(run / "stage-2" / "attempts.jsonl")
    new = judge(run / "stage-1" / "hf", attempts, run / "problems.jsonl")
    old = judge(QUICKSTART / "student", attempts, run / "problems.jsonl")
    assert abs(new.off) < 5
    assert abs(old.off) > 10
    assert new.log_likelihood - old.log_likelihood > 50  # the evidence for the new ones is e^50 to 1


def test_greedy_answers_after_the_first_stage_are_token_for_token_those_of_the_new_weights(run):
    path = run / "stage-1" / "evaluation" / f"step-{ITERS:07d}" / "test-greedy.jsonl"
    attempts, problems = records(path), run.parent / "test.jsonl"
    assert {attempt["weight_version"] for attempt in attempts} != {"initial"}
    assert all(all(tokens) for tokens in judge(run / "stage-1" / "hf", attempts, problems).argmax)
    assert not all(all(tokens) for tokens in judge(QUICKSTART / "student", attempts, problems).argmax)


def test_each_on_policy_step_has_attempts_by_the_weights_of_the_step_before(run):
    folder = run / "stage-3"
    for step in range(1, ON_POLICY_STEPS + 1):
        path = folder / "rollouts" / f"step-{step:07d}.jsonl"
        assert {attempt["weight_version"] for attempt in records(path)} == {f"stage-3 step-{step - 1}"}
        assert len(set(keys(path))) == len(keys(path)) == BATCH * ATTEMPTS
    first = records(folder / "rollouts" / "step-0000001.jsonl")
    assert abs(judge(run / "stage-2" / "hf", first, run / "problems.jsonl").off) < 5
    assert not (folder / "responses.jsonl").exists()
    steps = records(folder / "metrics.jsonl")
    assert [step["rollout"]["attempts"] for step in steps] == [BATCH * ATTEMPTS] * ON_POLICY_STEPS
    before, after = (load_file(run / f"stage-{n}" / "hf" / "model.safetensors") for n in (2, 3))
    assert any((before[name] != after[name]).any() for name in before)


def test_nothing_of_the_server_is_left_when_the_run_has_ended(run):
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if str(run.parent) in " ".join(process.info["cmdline"] or [])
    ]
    assert not left
