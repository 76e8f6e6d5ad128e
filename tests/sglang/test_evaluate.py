"""`paced evaluate FOLDER... --launch PYTHON`: a server that the verb itself starts, ends, and gives each
model's weights in turn."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import psutil
import pytest

from loop.recipes import QUICKSTART, records, some_lines
from paced_megatron.cli import main
from paced_megatron.evaluation.measurement import Measurement, read_measurements
from sglang.rollouts import noisy_student
from sglang_server import STARTUP_S, Launch

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(STARTUP_S + 120)]

PROBLEMS = 12


def as_one_command(launch: Launch, path: Path, started_with: Path) -> Path:
    """An interpreter for `--launch`, which knows no environment: with what SGLang needs on a CPU. It notes
    its arguments in a file, one a line."""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in launch.env.items())
    note = f'printf "%s\\n" "$@" >> {shlex.quote(str(started_with))}\n'
    path.write_text(f'#!/bin/sh\n{note}{exports}exec {shlex.quote(str(launch.python))} "$@"\n')
    path.chmod(0o755)
    return path


def attempts(out: Path, name: str) -> dict[str, tuple[list[int], str]]:
    """Problem id -> tokens and outcome of its greedy attempt."""
    (path,) = (out / name).glob("words/greedy-*/attempts.jsonl")
    return {line["problem_id"]: (line["token_ids"], line["outcome"]) for line in records(path)}


def of(out: Path, name: str) -> Measurement:
    (one,) = read_measurements(out / name)
    return one


def test_the_verb_starts_a_server_whose_numbers_are_those_of_the_embedded_engine_and_ends_it(
    sglang_launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.jsonl").write_text(some_lines(QUICKSTART / "test.jsonl", PROBLEMS))
    student = tmp_path / "student"  # a copy: other tests' servers may be on the original
    shutil.copytree(QUICKSTART / "student", student)
    noisy = noisy_student(tmp_path / "noisy")
    asked = ["evaluate", str(student), str(noisy), "--benchmark", str(tmp_path / "words.jsonl")]
    asked += ["--preset", "greedy", "--max-new-tokens", "24"]
    asked += ["--prompts-of", str(QUICKSTART / "quickstart.yaml")]
    started_with = tmp_path / "started-with"
    python = as_one_command(sglang_launch, tmp_path / "python", started_with)
    launch = ["--launch", str(python), "--launch-args", shlex.join(sglang_launch.args)]
    out, embedded = tmp_path / "served", tmp_path / "embedded"

    assert main([*asked, *launch, "--out", str(out)]) == 0, server_log(out)
    said = capsys.readouterr().out
    left = [p for p in psutil.process_iter(["cmdline"]) if str(student) in (p.info["cmdline"] or [])]
    assert not left
    started = started_with.read_text().splitlines()
    assert started.count("sglang.launch_server") == 1  # for both models
    assert started[-len(sglang_launch.args) :] == list(sglang_launch.args)
    assert main([*asked, "--out", str(embedded)]) == 0
    for name in ("student", "noisy"):
        assert attempts(out, name) == attempts(embedded, name)
        served, own = of(out, name), of(embedded, name)
        assert (served.metrics, served.outcomes, served.tokens) == (own.metrics, own.outcomes, own.tokens)
        assert (served.engine, own.engine) == ("sglang", "embedded")
    # There is something to be equal: the weights in turn are others, and some problems are solved.
    assert attempts(out, "student") != attempts(out, "noisy")
    assert 0 < of(out, "student").metrics["avg@1"].mean < 1
    rows = {path: json.loads((path / "results.json").read_text())["rows"] for path in (out, embedded)}
    assert rows[out] == rows[embedded]
    assert f"words: {PROBLEMS} problems x 1 attempts; preset greedy" in said and "sglang" in said

    # Told again no server is started: this one could not be.
    python.write_text("#!/bin/sh\nexit 3\n")
    assert main([*asked, *launch, "--out", str(out)]) == 0


def server_log(out: Path) -> str:
    log = out / "logs" / "sglang.log"
    return log.read_text(errors="replace")[-3000:] if log.exists() else f"no {log}"
