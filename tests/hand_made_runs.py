"""Small run folders written by hand, with numbers that one can work out on paper; for the report's tests."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from paced_megatron.config.io import config_from_dict, dump_config

LEVELS = {"e1": "easy", "e2": "easy", "h1": "hard", "h2": "hard"}
STRATA = {"e1": "always", "e2": "frontier", "h1": "frontier", "h2": "never"}

# Training problems: correct attempts of 4, before and after; and the weights of p(1-p) with mean 1.
BEFORE = {"a": 0, "b": 1, "c": 2, "d": 4, "e": 1}
AFTER = {"a": 0, "b": 3, "c": 4, "d": 4, "e": 0}
WEIGHTS = {"b": 0.9, "c": 1.2, "e": 0.9}  # p(1-p) = 3/16, 4/16, 3/16

# Held-out problems: correct attempts of 2 (sampled), before and after.
HELD_OUT = ({"e1": 2, "e2": 1, "h1": 0, "h2": 0}, {"e1": 2, "e2": 2, "h1": 1, "h2": 0})
LOSSES = (0.5, 0.25, 0.125)
FAILURES = ("incorrect", "truncated", "unparsable", "timed_out")  # how attempts fail, in turn


def config_dict(path: Path, seed: int = 1, **sections: Any) -> dict[str, Any]:
    """A configuration whose run takes three steps; `sections` replace parts of it."""
    return {
        "seed": seed,
        "run_dir": str(path),
        "problems": {"train": "train.jsonl", "test": "test.jsonl"},
        "student": {"path": "student"},
        "teacher": {"path": "teacher"},
        "rollout": {"attempts": 4},
        "stages": [{"divergence": "forward_kl", "train_iters": len(LOSSES)}],
        "evaluation": {"attempts": 2, "pass_rates_after": True, "strata_attempts": 4},
    } | sections


def write_run(
    path: Path,
    *,
    seed: int = 1,
    weights: Mapping[str, float] = WEIGHTS,
    after: Mapping[str, int] = AFTER,
    held_out: Sequence[Mapping[str, int]] = HELD_OUT,
    losses: Sequence[float | None] = LOSSES,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A finished run's folder, as far as a report reads it. Returns `path`."""
    stage = path / "stage-1"
    stage.mkdir(parents=True)
    written = config_from_dict(dict(config or config_dict(path, seed)), where="by hand")
    (path / "config.yaml").write_text(dump_config(written))
    (stage / "hf").mkdir()
    lines(
        stage / "pass_rates.jsonl",
        [
            _rate(name, k) | {"kept": name in weights, "weight": weights.get(name, 0.0)}
            for name, k in BEFORE.items()
        ],
    )
    if written.evaluation.pass_rates_after:
        lines(stage / "pass_rates_after.jsonl", [_rate(name, k) for name, k in after.items()])
    lines(path / "problems.jsonl", [_problem(name) for name in BEFORE])
    lines(stage / "attempts.jsonl", _of_four(BEFORE, seed))
    if written.evaluation.pass_rates_after:
        lines(stage / "attempts_after.jsonl", _of_four(after, seed))
    lines(stage / "metrics.jsonl", [_step(number, loss) for number, loss in enumerate(losses, start=1)])
    if written.problems.test:
        _write_evaluation(path, seed, held_out, STRATA if written.evaluation.strata_attempts else {})
    if written.evaluation.strata_attempts:
        lines(path / "strata.jsonl", [{"problem_id": name, "stratum": of} for name, of in STRATA.items()])
    lines(
        path / "timings.jsonl",
        [
            _timing("attempts", seconds=2.0, tokens=200),
            _timing("responses", seconds=1.0, tokens=30),
            _timing("evaluation", seconds=0.5, tokens=40),
            _timing("evaluation", seconds=0.25, tokens=44),
        ],
    )
    (path / "environment.json").write_text(json.dumps({"commit": "c0ffee", "packages": {"torch": "9.9"}}))
    return path


def write_stages(
    path: Path, moments: Sequence[Mapping[str, tuple[int, int]]], steps: int = 3, **sections: Any
) -> Path:
    """A finished run of several stages, without held-out problems: problem -> (correct attempts, attempts)
    before each stage, and after the last. Weights are p(1-p), not brought to a mean. Returns `path`."""
    sections = {"problems": {"train": "t"}, "evaluation": {"pass_rates_after": True}} | sections
    stages = [{"divergence": "forward_kl", "train_iters": steps}] * (len(moments) - 1)
    config = config_dict(path, stages=stages, **sections)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(dump_config(config_from_dict(config, where="by hand")))
    for number, moment in enumerate(moments, start=1):
        records = [
            {"problem_id": name, "correct": k, "attempts": n, "pass_rate": k / n, "on_frontier": 0 < k < n}
            for name, (k, n) in moment.items()
        ]
        if number == len(moments):
            lines(path / f"stage-{number - 1}" / "pass_rates_after.jsonl", records)
            break
        for record in records:
            weight = record["pass_rate"] * (1 - record["pass_rate"])
            record |= {"kept": record["on_frontier"], "weight": weight}
        lines(path / f"stage-{number}" / "pass_rates.jsonl", records)
        taken = [_step(step, 1 / step) | {"stage": number} for step in range(1, steps + 1)]
        lines(path / f"stage-{number}" / "metrics.jsonl", taken)
    return path


def write_experiment(path: Path, arms: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> Path:
    """An experiment's folder: every arm and seed a finished run, its accuracy by its place."""
    path.mkdir(parents=True)
    base = config_dict(path)
    base["rollout"] = {"attempts": 4, "respond_to": "all"}
    document = {"run_dir": str(path), "seeds": list(seeds), "arms": dict(arms), "base": base}
    (path / "experiment.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    for number, (name, overrides) in enumerate(arms.items()):
        for place, seed in enumerate(seeds):
            config = with_overrides(base, overrides) | {"seed": seed, "run_dir": str(path)}
            correct = dict(HELD_OUT[1], h2=(number + place) % 3)
            run = path / "arms" / name / f"seed-{seed}"
            write_run(run, seed=seed, held_out=(HELD_OUT[0], correct), config=config)
    return path


def with_overrides(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict with the value at each dotted key replaced."""
    tree: dict[str, Any] = json.loads(json.dumps(base))
    for dotted, value in overrides.items():
        *sections, key = dotted.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return tree


def lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _write_evaluation(
    path: Path, seed: int, held_out: Sequence[Mapping[str, int]], strata: Mapping[str, str]
) -> None:
    rows = []
    for step, correct in zip((0, len(LOSSES)), held_out, strict=True):
        shares = {name: k / 2 for name, k in correct.items()}
        row = {
            "stage": 1, "step": step, "problem_set": "test", "decoding": "sampled",
            "weight_version": f"stage-1 step-{step}", "accuracy": _mean(shares.values()),
            "standard_error": 0.25, "problems": len(shares), "attempts": 2, "tokens": 16,
            "outcomes": {"correct": sum(correct.values())},
            "accuracy_by_level": _by(LEVELS, shares), "accuracy_by_stratum": _by(strata, shares),
            "problems_by_stratum": Counter(strata.values()), "sampling": {},
        }  # fmt: skip
        rows.append(row)
        lines(
            path / "stage-1" / "evaluation" / f"step-{step:07d}" / "test-sampled.jsonl",
            [_attempt(name, index, index < k, seed) for name, k in correct.items() for index in range(2)],
        )
    (path / "evaluation.json").write_text(json.dumps({"rows": rows}))


def _by(groups: Mapping[str, str], shares: Mapping[str, float]) -> dict[str, float]:
    names = sorted(set(groups.values()))
    return {
        name: _mean([shares[problem] for problem, group in groups.items() if group == name]) for name in names
    }


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values)


def _rate(problem: str, correct: int) -> dict[str, Any]:
    return {
        "problem_id": problem, "correct": correct, "attempts": 4, "pass_rate": correct / 4,
        "on_frontier": 0 < correct < 4,
    }  # fmt: skip


def _step(step: int, loss: float | None) -> dict[str, Any]:
    return {
        "stage": 1, "step": step, "loss": loss, "grad_norm": 1.0, "lr": 0.001, "divergence": 0.1,
        "student_entropy": 0.1, "teacher_entropy": 0.1, "tokens": 100, "problems": 3, "weight_ess": 2.9,
        "step_time": 0.5,
    }  # fmt: skip


def _attempt(problem: str, index: int, correct: bool, seed: int) -> dict[str, Any]:
    return {
        "problem_id": problem, "index": index, "token_ids": [1, 2], "text": "x", "finish_reason": "stop",
        "outcome": "correct" if correct else "incorrect", "seed": seed, "weight_version": "v",
    }  # fmt: skip


def _problem(name: str) -> dict[str, Any]:
    return {"id": name, "problem": f"What is {name}?", "answer": f"1{name}", "solution": None, "level": None}


def _of_four(correct: Mapping[str, int], seed: int) -> list[dict[str, Any]]:
    """Four attempts at each problem, the first so many correct; the others fail by their place (FAILURES)."""
    return [
        _attempt(problem, index, index < k, seed)
        | _ending(problem, "correct" if index < k else FAILURES[index])
        for problem, k in correct.items()
        for index in range(4)
    ]


def _ending(problem: str, outcome: str) -> dict[str, Any]:
    text = {"correct": rf"\boxed{{1{problem}}}", "incorrect": r"\boxed{no}"}.get(outcome, "x")
    reason = "length" if outcome == "truncated" else "stop"
    return {"outcome": outcome, "text": text, "finish_reason": reason}


def _timing(phase: str, seconds: float, tokens: int) -> dict[str, Any]:
    return {"phase": phase, "stage": 1, "file": "f", "seconds": seconds, "tokens": tokens, "attempts": 1}
