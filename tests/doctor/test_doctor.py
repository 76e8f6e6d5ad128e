"""`paced doctor`: all checks together, the table, JSON and the exit code."""

from __future__ import annotations

import json

import pytest
import yaml

from loop.recipes import QUICKSTART
from paced_megatron import doctor
from paced_megatron.cli import main
from paced_megatron.doctor.check import Finding, Status, note, ok, problem
from paced_megatron.doctor.show import verdict


@pytest.fixture
def only(monkeypatch):
    """Called with the checks that there shall be."""
    return lambda **checks: monkeypatch.setattr(doctor, "CHECKS", checks)


def test_where_the_quickstart_runs_it_ends_with_0_and_has_written_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["for"] == "paced quickstart" and said["works"] is True
    assert [row["name"] for row in said["checks"]] == list(doctor.CHECKS)
    assert {row["status"] for row in said["checks"]} <= {"ok", "note"}
    assert all(row["says"] for row in said["checks"])
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_work_ends_with_1_and_its_rows_are_named(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    document = yaml.safe_load((QUICKSTART / "quickstart.yaml").read_text())
    document |= {"run_dir": str(tmp_path / "run"), "student": {"path": "nowhere"}}
    recipe.write_text(yaml.safe_dump(document))
    assert main(["doctor", str(recipe), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    wrong = {row["name"]: row["says"] for row in said["checks"] if row["status"] == "problem"}
    assert said["works"] is False and said["for"] == str(recipe)
    assert list(wrong) == ["models"] and str(tmp_path / "nowhere") in wrong["models"]


@pytest.mark.parametrize(
    "error", [RuntimeError("it broke\nand more"), SystemExit("it broke"), OSError("it broke")]
)
def test_a_check_that_raises_is_a_problem_with_the_exceptions_line_and_the_others_go_on(only, capsys, error):
    def breaks(asked):
        raise error

    only(before=lambda asked: ok("one"), broken=breaks, after=lambda asked: ok("three"))
    assert main(["doctor", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["checks"]
    assert [(row["name"], row["status"]) for row in rows] == [
        ("before", "ok"),
        ("broken", "problem"),
        ("after", "ok"),
    ]
    assert f"{type(error).__name__}: it broke" in rows[1]["says"] and "and more" not in rows[1]["says"]


def test_the_table_shows_every_row_with_its_remedy_and_ends_with_what_it_comes_to(only, capsys):
    only(
        fine=lambda asked: ok("is [here]"),
        bad=lambda asked: problem("is not", "get it"),
        so=lambda asked: note("so"),
    )
    assert main(["doctor"]) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "fine ok is [here]" in lines and "bad problem is not" in lines and "-> get it" in lines
    assert lines[-1] == "In the way of paced quickstart: bad."


def test_notes_alone_do_not_stand_in_the_way():
    findings = {"a": Finding(Status.NOTE, "x"), "b": Finding(Status.OK, "y")}
    assert verdict(findings, doctor.Asked(None, "it")) == "Nothing stands in the way of it."


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["training.lr=1"], "training.lr=1: name a CONFIG before it"),
        ([str(QUICKSTART / "quickstart.yaml"), "training.lrr=1"], "training.lrr"),
    ],
)
def test_a_wrong_configuration_ends_with_2_and_one_line(capsys, arguments, words):
    assert main(["doctor", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and len(said.err.splitlines()) == 1 and said.out == ""
