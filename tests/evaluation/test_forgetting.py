"""lm-eval's tasks on a tiny student: its scores against our own in float64, and what was forgotten."""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version as lm_eval_version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from paced_megatron.commands.forgetting import add_forgetting, check_forgetting, evaluate_forgetting
from paced_megatron.errors import UserError
from paced_megatron.evaluation import forgetting
from paced_megatron.evaluation.forgetting import check_tasks, measure_forgetting
from paced_megatron.evaluation.forgetting_files import Asked, measure_missing, missing_tasks, outdated
from paced_megatron.evaluation.forgotten import (
    TaskMeasurement,
    TaskRow,
    forgotten,
    in_words,
    read_measurement,
    write_measurement,
)
from tiny_models import make_tiny_qwen3

TASKS = Path(__file__).parent / "tasks"
STUDENT = Path(__file__).resolve().parents[2] / "examples" / "quickstart" / "student"
SHOTS, EXAMPLES = 2, 4  # EXAMPLES: as tasks/local_data.py has it
ASKED = Asked(fewshot=SHOTS, limit=3, include_path=TASKS)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("student"), seed=3)


@pytest.fixture(scope="module")
def measured(student: Path) -> TaskMeasurement:
    """The group of the form of MMLU, on all of its documents."""
    random.seed(11)
    np.random.seed(11)
    torch.manual_seed(11)
    before = _random_states()
    (one,) = measure_forgetting(student, ["tiny_mmlu"], num_fewshot=SHOTS, include_path=TASKS, weights="w")
    assert _random_states() == before, "a run draws other numbers where lm-eval was asked"
    return one


def _random_states() -> list[str]:
    return [repr(random.getstate()), repr(np.random.get_state()), repr(torch.get_rng_state().tolist())]


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TASKS / f"{name}.jsonl").read_text().splitlines()]


def _prompt(row: dict[str, Any]) -> str:
    choices = "".join(f"{letter}. {text}\n" for letter, text in zip("ABCD", row["choices"], strict=True))
    return f"{row['question']}\n{choices}Answer:"


@torch.no_grad()
def _own_scores(student: Path, name: str) -> dict[str, float]:
    """Document -> whether the right letter is the likeliest, by a forward pass in float64 per letter."""
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(student)
    rows = _rows(name)
    shots = "".join(f"{_prompt(row)} {'ABCD'[row['answer']]}\n\n" for row in rows[:SHOTS])
    scores = {}
    for number, row in enumerate(rows[EXAMPLES:]):
        context = tokenizer(shots + _prompt(row)).input_ids
        likelihoods = []
        for letter in "ABCD":
            ids = tokenizer(f"{shots}{_prompt(row)} {letter}").input_ids
            assert ids[: len(context)] == context
            log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            likelihoods.append(sum(log_probs[t - 1, ids[t]].item() for t in range(len(context), len(ids))))
        scores[f"tiny_mmlu_{name}/{number}"] = float(likelihoods.index(max(likelihoods)) == row["answer"])
    return scores


def test_every_documents_score_is_that_of_log_probabilities_in_float64(student: Path, measured) -> None:
    expected = _own_scores(student, "sums") | _own_scores(student, "letters")
    assert {name: scores["acc"] for name, scores in measured.scores.items()} == expected
    assert 0 < sum(expected.values()) < len(expected)
    (row,) = measured.rows
    assert row.value == pytest.approx(sum(expected.values()) / len(expected))
    assert (row.task, row.metric, row.documents, row.num_fewshot) == ("tiny_mmlu", "acc", 32, SHOTS)
    assert row.standard_error is not None and 0 < row.standard_error < 0.2 and row.higher_is_better
    assert measured.cut_requests == 0 and measured.lm_eval_version


def test_a_metric_that_is_no_mean_has_its_standard_error_without_a_process_started(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matthews' correlation is bootstrapped by lm-eval, in a pool of processes forked from this one."""

    def no_pool(*arguments: Any) -> None:
        raise AssertionError("forked")

    monkeypatch.setattr(multiprocessing, "Pool", no_pool)
    monkeypatch.setattr(forgetting, "BOOTSTRAP_DRAWS", 20)  # a draw takes milliseconds
    monkeypatch.delenv("DISABLE_MULTIPROC", raising=False)
    tasks = shutil.copytree(TASKS, tmp_path / "tasks")
    correlation = "metric_list:\n  - {metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}\n"
    form = (tasks / "tiny_mmlu_sums.yaml").read_text().replace("tiny_mmlu_sums", "tiny_mcc")
    (tasks / "tiny_mcc.yaml").write_text(form + correlation)
    (one,) = measure_forgetting(student, ["tiny_mcc"], num_fewshot=0, include_path=tasks)
    (row,) = one.rows
    assert row.metric == "mcc" and row.standard_error is not None
    assert "DISABLE_MULTIPROC" not in os.environ


def test_a_context_that_was_cut_is_counted() -> None:
    """The quickstart's student has 64 positions."""
    (one,) = measure_forgetting(
        STUDENT, ["tiny_mmlu_sums"], num_fewshot=2, limit=2, include_path=TASKS, batch_size=3
    )
    assert one.cut_requests == 2 * 4 and one.rows[0].documents == 2


@pytest.mark.parametrize(
    ("task", "yaml", "words"),
    [
        ("tiny_mmlu_sum", "", "has no task tiny_mmlu_sum; did you mean tiny_mmlu_sums?"),
        ("far", "task: far\ndataset_path: nobody/far-away\n", "the data of task far can't be fetched"),
        ("odd", "task: odd\ndataset_path: json\noutput_type: divination\n", "task odd can't be loaded"),
    ],
)
def test_a_task_that_is_none_is_told_in_a_line(tmp_path: Path, task: str, yaml: str, words: str) -> None:
    folder = TASKS
    if yaml:
        folder = tmp_path
        (tmp_path / "task.yaml").write_text(yaml)
    with pytest.raises(UserError) as told:
        check_tasks([task], folder)
    assert str(told.value).startswith("evaluation.forgetting_tasks: ") and words in str(told.value)
    assert "\n" not in str(told.value)


def test_a_missing_package_or_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"/none: no such folder; evaluation.forgetting_include_path names"):
        check_tasks(["tiny_sorting"], tmp_path / "none")
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "lm_eval" else real(name))
    with pytest.raises(UserError, match=r"--forgetting needs the package lm-eval: `pip install 'paced-meg"):
        check_tasks(["mmlu"], where="--forgetting")


# -------------------------------------------------------------------------------------- what was forgotten


def _by_hand(scores: list[float], value: float | None = None, **changes: Any) -> TaskMeasurement:
    mean = sum(scores) / len(scores)
    row = TaskRow("t", "acc", mean if value is None else value, 0.1, len(scores), 5)
    documents = {f"t/{number}": {"acc": score} for number, score in enumerate(scores)}
    return TaskMeasurement("t", 5, None, "w", "1.0", 0, [row], documents, **changes)


def test_what_was_forgotten_is_paired_over_documents() -> None:
    (one,) = forgotten(_by_hand([1, 1, 0, 1]), _by_hand([1, 0, 0, 0]))
    # Differences 0, 1, 0, 1: mean 1/2, deviation sqrt(1/3), t of three degrees of freedom 3.182.
    assert (one.before, one.after, one.forgotten, one.paired) == (0.75, 0.25, 0.5, True)
    assert one.standard_error == pytest.approx((1 / 3) ** 0.5 / 2)
    assert one.interval == pytest.approx((0.5 - 3.182 * one.standard_error, 0.5 + 3.182 * one.standard_error))
    assert "+50.00 points forgotten" in in_words(one) and "paired over 4 documents" in in_words(one)


def test_documents_that_all_lost_the_same_give_no_interval_and_the_line_says_why() -> None:
    (one,) = forgotten(_by_hand([1, 1, 0, 1]), _by_hand([1, 1, 0, 1]))
    assert (one.forgotten, one.standard_error, one.interval) == (0, 0, None)
    assert "+0.00 points forgotten (no interval: the same on each of 4 documents)" in in_words(one)


@pytest.mark.parametrize("after", [_by_hand([1, 0, 0]), _by_hand([1, 0, 0, 0], value=0.3)])
def test_a_value_that_is_no_mean_over_the_same_documents_is_not_paired(after: TaskMeasurement) -> None:
    (one,) = forgotten(_by_hand([1, 1, 0, 1]), after)
    assert not one.paired and one.standard_error == pytest.approx(0.1 * 2**0.5)
    assert one.interval == pytest.approx(
        (one.forgotten - 1.959964 * one.standard_error, one.forgotten + 1.959964 * one.standard_error)
    )


def test_where_lower_is_better_more_is_forgotten() -> None:
    def lower(scores: list[float]) -> TaskMeasurement:
        row = TaskRow("t", "loss", sum(scores) / len(scores), None, len(scores), 0, higher_is_better=False)
        documents = {f"t/{number}": {"loss": score} for number, score in enumerate(scores)}
        return TaskMeasurement("t", 0, None, "w", "1.0", 0, [row], documents)

    (one,) = forgotten(lower([1.0, 2.0]), lower([2.0, 4.0]))
    assert one.forgotten == 1.5 and one.interval is not None and sum(one.interval) == pytest.approx(3.0)


# --------------------------------------------------------------------------------------------------- files


def test_a_measurement_comes_back_from_its_file_and_another_file_is_refused(tmp_path, measured) -> None:
    path = tmp_path / "deep" / "one.jsonl"
    assert read_measurement(path) is None
    write_measurement(path, measured)
    assert read_measurement(path) == measured
    path.write_text('{"task": "t"}\n')
    with pytest.raises(UserError, match=r"one.jsonl: not a measurement of this version .*; remove it"):
        read_measurement(path)


@pytest.fixture
def made(student: Path, tmp_path: Path) -> Iterator[dict[str, Path]]:
    files = {"tiny_mmlu_sums": tmp_path / "sums.jsonl"}
    _measure(files, student, lambda kept: None)
    yield files


def _measure(files: dict[str, Path], student: Path, check: Any, again: Sequence[str] = ()) -> None:
    measure_missing(
        "here",
        files,
        ASKED,
        student,
        again,
        device="cpu",
        log=files["tiny_mmlu_sums"].parent / "lm-eval.log",
        console=Console(quiet=True),
        check=check,
    )


def _refuse(kept: str) -> None:
    raise KeyboardInterrupt(kept)


def test_what_is_there_is_not_made_again_unless_the_weights_or_the_question_differ(
    made: dict[str, Path], student: Path, tmp_path: Path
) -> None:
    content = made["tiny_mmlu_sums"].read_bytes()
    _measure(made, student, _refuse)  # no forward pass, so that nobody is asked
    assert made["tiny_mmlu_sums"].read_bytes() == content
    assert missing_tasks(made, ASKED, student) == []
    assert missing_tasks(made, Asked(fewshot=1, limit=3), student) == ["tiny_mmlu_sums"]
    assert missing_tasks(made, ASKED, STUDENT) == ["tiny_mmlu_sums"]
    assert missing_tasks(made | {"new": tmp_path / "new"}, ASKED, student) == ["new"]


def test_another_tokenizer_is_another_question_but_not_of_a_file_that_does_not_name_one(
    made: dict[str, Path], student: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(student, tmp_path / "copy")
    assert missing_tasks(made, ASKED, copy) == []
    (copy / "tokenizer_config.json").write_text("{}")
    assert missing_tasks(made, ASKED, copy) == ["tiny_mmlu_sums"]
    path = made["tiny_mmlu_sums"]
    head, *documents = map(json.loads, path.read_text().splitlines())
    del head["tokenizer"]
    path.write_text("".join(json.dumps(line) + "\n" for line in (head, *documents)))
    assert missing_tasks(made, ASKED, copy) == []


def test_of_measurements_by_several_versions_of_lm_eval_those_by_an_earlier_one_are_made_again(
    made: dict[str, Path], student: Path, tmp_path: Path
) -> None:
    path, now = made["tiny_mmlu_sums"], lm_eval_version("lm_eval")
    one, earlier = read_measurement(path), tmp_path / "earlier.jsonl"
    assert one is not None
    write_measurement(earlier, replace(one, lm_eval_version="0.0.1"))
    before = {"tiny_mmlu_sums": earlier}
    assert outdated([before, before], "KEY") == [[], []]  # alike, so that they can be compared
    assert outdated([before, made], "KEY") == [["tiny_mmlu_sums"], []]
    _measure(before, student, lambda kept: None)
    assert _version(earlier) == "0.0.1"
    _measure(before, student, lambda kept: None, again=["tiny_mmlu_sums"])
    assert _version(earlier) == now and outdated([before, made], "KEY") == [[], []]


def _version(path: Path) -> str:
    found = read_measurement(path)
    assert found is not None
    return found.lm_eval_version


def test_one_that_was_stopped_leaves_no_file(student: Path, tmp_path: Path) -> None:
    files = {"tiny_mmlu_sums": tmp_path / "sums.jsonl"}
    with pytest.raises(KeyboardInterrupt, match="tasks that are measured are kept"):
        _measure(files, student, _refuse)
    assert [path.name for path in tmp_path.iterdir()] == ["lm-eval.log"]


def test_of_several_folders_each_is_compared_with_the_first(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_tiny_qwen3(tmp_path / "other", seed=4)
    parser = argparse.ArgumentParser()
    add_forgetting(parser)
    options = parser.parse_args(
        [
            "--forgetting",
            "tiny_mmlu_sums",
            "--forgetting-fewshot",
            "1",
            "--forgetting-include-path",
            str(TASKS),
        ]
    )
    options.limit, options.batch_size = 6, 4  # the verb's own
    check_forgetting(options)
    for check in (lambda kept: None, _refuse):  # the second time nothing is measured
        evaluate_forgetting(
            options, {"one": student, "two": other}, tmp_path / "out", Console(width=200), check
        )
    files = [tmp_path / "out/forgetting" / f"{name}-tiny_mmlu_sums.jsonl" for name in ("one", "two")]
    before, after = map(read_measurement, files)
    assert before is not None and after is not None
    said = capsys.readouterr().out.splitlines()
    (lost,) = forgotten(before, after)
    assert said.count(f"two against one: {in_words(lost)}") == 2
    assert lost.paired and lost.documents == 6
