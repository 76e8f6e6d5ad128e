"""How attempts ended, and the examples of each kind on the page."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from hand_made_runs import LEVELS, config_dict, lines, write_run
from paced_megatron.problems import rows
from paced_megatron.problems.outcome import Outcome
from paced_megatron.report import write_report
from paced_megatron.report.outcomes import MOST_EXAMPLES
from paced_megatron.report.wording import OUTCOME_NAMES
from paced_megatron.report.write import read_content
from paced_megatron.run_folder import RunFolder

KINDS = [outcome.value for outcome in Outcome]


def counts(content: dict[str, Any], phase: str, step: int | None = None) -> list[tuple[Any, list[int]]]:
    return [
        (record["arm"], [record["kinds"][kind]["count"] for kind in KINDS])
        for record in content["outcomes"]
        if (record["phase"], record["step"]) == (phase, step)
    ]


def test_every_kind_has_a_name():
    assert list(OUTCOME_NAMES) == KINDS


def test_each_file_of_attempts_is_counted_by_kind(run_report: Any):
    # Correct ones: 0 + 1 + 2 + 4 + 1 of 5 problems; the others fail by their place, as in FAILURES.
    assert counts(run_report.content, "attempts") == [(None, [8, 1, 4, 3, 4])]
    assert counts(run_report.content, "attempts_after") == [(None, [11, 2, 2, 2, 3])]
    assert counts(run_report.content, "evaluation", 3) == [(None, [5, 3, 0, 0, 0])]


def test_a_file_of_attempts_that_somebody_emptied_is_only_not_counted(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    for name in ("attempts.jsonl", "attempts_after.jsonl"):
        (folder / "stage-1" / name).write_text("")
    write_report(folder)
    content = json.loads((folder / "report" / "report.json").read_text())
    assert [record["phase"] for record in content["outcomes"]] == ["evaluation", "evaluation"]


def test_what_arms_share_is_counted_once_and_what_they_do_not_by_arm(experiment_report: Any):
    assert counts(experiment_report.content, "attempts") == [(None, [24, 3, 12, 9, 12])]  # of 3 seeds
    after = counts(experiment_report.content, "evaluation", 3)
    # By seed the arms solve h2 0, 1, 2 or 1, 2, 0 ... times of 2; the sums over seeds are the same.
    assert after == [(arm, [18, 6, 0, 0, 0]) for arm in ("unweighted", "paced", "permuted", "solvable")]


def test_an_example_has_its_problem_the_answer_that_was_read_and_the_right_one(run_report: Any):
    found = [each for each in run_report.content["examples"] if each["phase"] == "attempts"]
    assert {each["outcome"] for each in found} == set(KINDS)
    for each in found:
        name = each["problem_id"]
        assert each["problem"] == f"What is {name}?" and each["gold"] == f"1{name}"
        assert each["answer"] == {"correct": f"1{name}", "incorrect": "no"}.get(each["outcome"])
    [held_out] = [each for each in run_report.content["examples"] if each["step"] == 0][:1]
    assert held_out["problem"] is None and held_out["gold"] is None  # there is no test.jsonl


def held_out_examples(tmp_path: Path, text: str, source: str = "test.jsonl") -> list[dict[str, Any]]:
    """Those of the test set, where its file has this text; its strata were attempted too."""
    (tmp_path / "test.jsonl").write_text(text)
    test = source if source.startswith("hf://") else str(tmp_path / source)
    problems = {"train": "train.jsonl", "test": test}
    folder = write_run(tmp_path / "run", config=config_dict(tmp_path, problems=problems))
    attempts = (folder / "stage-1/evaluation/step-0000000/test-sampled.jsonl").read_text()
    RunFolder(folder).stage(1).strata_attempts.write_text(attempts)
    examples = read_content(folder)["examples"]
    return [each for each in examples if each["phase"] in ("evaluation", "strata")]


def test_an_example_of_a_held_out_problem_has_its_text_where_the_set_s_file_is_there(tmp_path: Path):
    made = [{"id": name, "problem": f"Held out: {name}", "answer": f"9{name}"} for name in LEVELS]
    found = held_out_examples(tmp_path, "".join(json.dumps(row) + "\n" for row in made))
    assert {each["phase"] for each in found} == {"evaluation", "strata"}
    for each in found:
        assert each["problem"] == f"Held out: {each['problem_id']}"
        assert each["gold"] == f"9{each['problem_id']}"


@pytest.mark.parametrize(("text", "source"), [("{", "test.jsonl"), ("", "gone.jsonl"), ("", "hf://a/b")])
def test_a_set_that_is_not_there_any_more_leaves_its_examples_without_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, source: str
):
    monkeypatch.setattr(rows, "_hub_rows", None)  # a report asks no network
    found = held_out_examples(tmp_path, text, source)
    assert found and all(each["problem"] is None and each["gold"] is None for each in found)


def test_a_page_has_few_examples_of_a_kind_from_as_many_places_as_there_are(experiment_report: Any):
    for kind in KINDS:
        found = [each for each in experiment_report.content["examples"] if each["outcome"] == kind]
        places = [(each["arm"], each["phase"], each["step"]) for each in found]
        assert len(found) <= MOST_EXAMPLES
        if kind == "correct":
            assert len(found) == MOST_EXAMPLES == len(set(places)) + places.count(places[0]) - 1


def test_the_csv_has_every_count(run_report: Any):
    rows = list(csv.DictReader((run_report.folder / "report" / "outcomes.csv").open()))
    attempts = {row["outcome"]: int(row["attempts"]) for row in rows if row["phase"] == "attempts"}
    assert attempts == dict(zip(KINDS, [8, 1, 4, 3, 4], strict=True))


def test_hostile_text_is_shown_as_text(tmp_path: Path):
    """Markup, an end of the element that it stands in, a style, control characters, half a surrogate pair."""
    hostile = (
        "</pre></details></body><script>alert(1)</script><style>*{display:none}</style>"
        "<img src=x onerror=alert(1)>{{ 7*7 }}{% raw %}&amp;\u0000\u001b[2J\ud800 \\boxed{<b>no</b>}"
    )
    folder = write_run(tmp_path / "run")
    path = folder / "stage-1" / "attempts.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    lines(path, [each | {"text": hostile, "finish_reason": "stop"} for each in records])
    problems = [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
    lines(folder / "problems.jsonl", [each | {"problem": hostile, "answer": hostile} for each in problems])
    html = write_report(folder).read_text(encoding="utf-8")
    for markup in ("<script", "<style>*", "<img", "<b>no", "\x00", "\x1b", "49"):
        assert html.lower().count(markup) == (markup == "49") * html.count("49")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "{{ 7*7 }}{% raw %}&amp;amp;" in html
    assert html.count("</pre>") == html.count("<pre")
    assert "&lt;b&gt;no&lt;/b&gt;" in html  # the answer that was read
