"""`paced evaluate FOLDER...` with real (tiny) models: attempts, tables, going on, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from loop.forked import Forkery
from loop.recipes import QUICKSTART, ROOT, records, write_recipe
from paced_megatron.cli import main
from paced_megatron.commands import evaluate_folders
from paced_megatron.config import PromptConfig
from paced_megatron.config.io import dump_config, load_config
from paced_megatron.evaluation import memory
from paced_megatron.evaluation.benchmarks import read_benchmark
from paced_megatron.evaluation.forgotten import forgotten, in_words, read_measurement
from paced_megatron.evaluation.measurement import read_measurements
from paced_megatron.evaluation.targets import find_targets
from paced_megatron.evaluation.task import make_protocol, make_task
from paced_megatron.exit_codes import STOPPED
from paced_megatron.problems.tokenizer import load_tokenizer
from paced_megatron.rollout.embedded import EmbeddedEngine
from paced_megatron.runtime.files import sha256
from paced_megatron.runtime.gpus import Gpu

STUDENT, TEACHER = QUICKSTART / "student", QUICKSTART / "teacher"
ASKED = ["--prompts-of", str(QUICKSTART / "quickstart.yaml"), "--max-new-tokens", "24"]
# Every 20th problem, of all levels; the student solves some of them at temperature 1.
TWENTY = 20
OWN_TASKS = ["--forgetting-include-path", str(ROOT / "tests" / "evaluation" / "tasks")]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = (QUICKSTART / "test.jsonl").read_text().splitlines(keepends=True)
    path = tmp_path_factory.mktemp("problems") / "words.jsonl"
    path.write_text("".join(lines[:: len(lines) // TWENTY][:TWENTY]))
    return path


def asked(problems: Path, *more: str | Path) -> list[str]:
    arguments = ["--benchmark", problems, *ASKED, "--preset", "tip", "--attempts", "4", "--pass-at", "1,4"]
    return [str(argument) for argument in (*arguments, *more)]


@pytest.fixture(scope="module")
def compared(problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of student and teacher; not to be changed."""
    out = tmp_path_factory.mktemp("compared") / "out"
    assert main(["evaluate", str(STUDENT), str(TEACHER), *asked(problems, "--out", out)]) == 0
    return out


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is an error."""

    def load(engine: EmbeddedEngine, folder: Path, version: str) -> None:
        raise AssertionError(f"{folder} was loaded")

    monkeypatch.setattr(EmbeddedEngine, "load_weights", load)


def test_a_model_has_its_attempts_its_numbers_and_a_difference_from_the_first(compared: Path) -> None:
    student, teacher = (read_measurements(compared / name)[0] for name in ("student", "teacher"))
    for one in (student, teacher):
        (attempts,) = (compared / one.target).glob("words/*/attempts.jsonl")
        made = records(attempts)
        assert len(made) == 4 * TWENTY == sum(one.outcomes.values())
        correct = sum(attempt["outcome"] == "correct" for attempt in made)
        assert one.metrics["avg@4"].mean == pytest.approx(correct / len(made))
        assert set(one.metrics) == {"avg@4", "pass@1", "pass@4", "maj@1", "maj@4"}
        assert one.verifier == {"kind": "exact", "answer_marker": "#"}
        assert one.prompts["template"] == "{problem}"
    assert 0.1 < student.metrics["avg@4"].mean < 0.9
    assert student.metrics["avg@4"].low is not None
    record = json.loads((compared / "results.json").read_text())
    (gain,) = [
        row["difference"] for row in record["rows"] if (row["metric"], row["target"]) == ("avg@4", "teacher")
    ]
    assert gain["mean"] == pytest.approx(teacher.metrics["avg@4"].mean - student.metrics["avg@4"].mean)
    assert gain["low"] > 0
    assert "minus student" in (compared / "results.md").read_text()


def test_what_is_there_is_told_again_without_a_model(
    compared: Path, problems: Path, tmp_path: Path, no_model: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(compared, tmp_path / "out")
    asking = asked(problems, "--out", tmp_path / "out")
    asking[asking.index("1,4")] = "2"  # what is told is no setting of the attempts
    assert main(["evaluate", str(STUDENT), str(TEACHER), *asking]) == 0
    said = capsys.readouterr().out
    assert "pass@2" in said and "pass@4" not in said
    assert "preset tip (TIP, as XFDG reads it; changed: attempts 4 in place of 16" in said


def test_other_weights_in_the_same_folder_are_attempted_anew(problems: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(STUDENT, model)
    assert main(["evaluate", str(model), *asked(problems)]) == 0
    assert not (tmp_path / "evaluations").exists()
    (first,) = read_measurements(model / "evaluation")
    shutil.copy(TEACHER / "model.safetensors", model)
    for name in ("config.json", "generation_config.json"):
        shutil.copy(TEACHER / name, model)
    assert main(["evaluate", str(model), *asked(problems)]) == 0
    both = read_measurements(model / "evaluation")
    assert first in both and len({one.weights for one in both}) == 2
    assert max(one.metrics["avg@4"].mean for one in both) > first.metrics["avg@4"].mean


def recorded(out: Path) -> int:
    """Attempts that are in the file."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob("words/*/attempts.jsonl"))


def test_one_that_was_killed_or_stopped_goes_on_and_ends_with_the_attempts_of_one_that_was_not(
    problems: Path, tmp_path: Path, forkery: Forkery
) -> None:
    # Batches of 4: one of 64 would have nearly all of them at once.
    words = ["evaluate", str(STUDENT), *asked(problems, "--batch-size", "4")]
    out = tmp_path / "interrupted"
    ends = {signal.SIGKILL: -9, signal.SIGTERM: STOPPED}
    for number, (sent, code) in enumerate(ends.items(), start=1):
        before = recorded(out)
        job = forkery.start([*words, "--out", str(out)])
        deadline = time.monotonic() + 60
        while recorded(out) < before + 4:
            assert time.monotonic() < deadline and job.runs, job.said()
            time.sleep(0.001)
        job.ranks[0].send(sent)
        assert job.wait() == [code], job.said()
        assert before + 4 <= recorded(out) < 4 * TWENTY, f"interruption {number} came too late"
    assert f"{recorded(out)} of {4 * TWENTY} attempts are in {out}" in job.said()
    kept = recorded(out)
    last = forkery.start([*words, "--out", str(out)])
    assert last.wait() == [0], last.said()
    assert f"words, student: {kept}/{4 * TWENTY} attempts\n" in last.said()
    forkery.run([*words, "--out", str(tmp_path / "whole")])
    whole, interrupted = (next(one.glob("words/*/attempts.jsonl")) for one in (tmp_path / "whole", out))
    assert sha256(whole) == sha256(interrupted)


def test_a_run_is_evaluated_by_its_last_student(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "recipe", run_dir=str(tmp_path / "run"))
    run = tmp_path / "run"
    shutil.copytree(STUDENT, run / "stage-1" / "hf")
    (run / "config.yaml").write_text(dump_config(load_config(recipe)))
    arguments = asked(problems)
    arguments[arguments.index("--prompts-of") + 1] = str(run)
    assert main(["evaluate", str(run), *arguments, "--limit", "3"]) == 0
    (one,) = read_measurements(run / "evaluation")
    assert (one.target, one.problems, one.total_problems) == ("run", 3, TWENTY)
    assert one.verifier["answer_marker"] == "#"
    assert (run / "evaluation" / "results.md").is_file()
    assert "words: 3 of 20 problems x 4 attempts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--benchmark is missing", "math500"]),
        (["--benchmark", "aime24x"], ["--benchmark aime24x", "did you mean aime24?"]),
        (["--benchmark", "FILE", "--preset", "papers"], ["--preset papers", "did you mean paper?"]),
        (["--benchmark", "FILE", "--limit", "0"], ["--limit 0"]),
        (["--benchmark", "FILE", "--attempts", "4", "--pass-at", "8"], ["pass@8", "at least 8 attempts"]),
        (["--benchmark", "FILE"], ["context is", "lower --max-new-tokens"]),
        (["--benchmark", "FILE", "--batch-size", "0"], ["--batch-size 0"]),
        (["--benchmark", "FILE", "--benchmark", "FILE"], ["--benchmark words: two of this name"]),
        (["--benchmark", "FILE", "--field", "answer"], ["--field answer", "OURS=COLUMN"]),
        (["--benchmark", "FILE", "--field", "answers=x"], ["did you mean 'answer'?"]),
        (["--benchmark", "aime24", "--field", "id=x"], ["--field is for a file"]),
        (["--benchmark", "FILE", "--stage", "1"], ["--stage is for a run's YAML"]),
        (["--benchmark", "FILE", "--url", "http://127.0.0.1:9"], ["--url http://127.0.0.1:9"]),
        (["--benchmark", "FILE", "--launch", "/nowhere/python"], ["--launch /nowhere/python"]),
        (
            ["--benchmark", "FILE", *ASKED, "--launch-args=--tp-size 2"],
            ["--launch-args '--tp-size 2'", "--launch"],
        ),
        (["--benchmark", "FILE", "--prompts-of", "/nowhere.yaml"], ["/nowhere.yaml: no such file"]),
        (["--benchmark", "FILE", "--prompts-of", "/tmp"], ["--prompts-of /tmp", "config.yaml"]),
        (
            ["--benchmark", "FILE", *ASKED, "--forgetting", "none", *OWN_TASKS],
            ["--forgetting", "no task none"],
        ),
        (["--forgetting", "tiny_sorting", "--forgetting", "tiny_sorting", *OWN_TASKS], ["named twice"]),
        (["--forgetting", "tiny_sorting", *OWN_TASKS, "--limit", "0"], ["--limit 0"]),
        (["--forgetting", "x", "--forgetting-fewshot", "-1"], ["--forgetting-fewshot -1"]),
        (
            ["--forgetting", "x", "--forgetting-include-path", "/nowhere"],
            ["--forgetting-include-path /nowhere"],
        ),
        (["--benchmark", "FILE", *ASKED, *OWN_TASKS], ["are for --forgetting TASK"]),
    ],
)
def test_a_mistake_is_one_line_before_any_model_is_loaded(
    arguments: list[str],
    words: list[str],
    problems: Path,
    tmp_path: Path,
    no_model: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Nor are its weights read, at about a second a GB.
    monkeypatch.setattr(evaluate_folders, "fingerprint", None)
    given = [str(problems) if argument == "FILE" else argument for argument in arguments]
    assert main(["evaluate", str(STUDENT), *given, "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and all(word in lines[0] for word in words), lines
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("with_benchmark", [False, True])
def test_what_was_forgotten_is_told_with_and_without_a_benchmark(
    with_benchmark: bool,
    problems: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, twin = tmp_path / "out", tmp_path / "other" / "student"  # two of one name
    shutil.copytree(TEACHER, twin)
    asking = [*asked(problems), "--limit", "6"] if with_benchmark else []
    forgetting = ["--forgetting", "tiny_sorting", *OWN_TASKS]
    assert main(["evaluate", str(STUDENT), str(twin), *asking, *forgetting, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    first, second = "quickstart-student", "other-student"
    files = [out / "forgetting" / f"{name}-tiny_sorting.jsonl" for name in (first, second)]
    before, after = map(read_measurement, files)
    assert before is not None and after is not None
    (lost,) = forgotten(before, after)
    assert f"{second} against {first}: {in_words(lost)}\n" in said
    # --limit is the verb's own; 56 documents are all.
    assert lost.documents == (6 if with_benchmark else 56) and before.weights != after.weights
    assert (out / "results.json").exists() == with_benchmark


def test_a_folder_that_is_no_model_and_one_that_cannot_be_written_are_named(
    problems: Path, tmp_path: Path, no_model: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tmp_path), *asked(problems)]) == 2
    assert "no config.json here" in capsys.readouterr().err
    (tmp_path / "out").write_text("a file is in the way")
    assert main(["evaluate", str(STUDENT), *asked(problems, "--out", tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "can't be written" in line and "--out" in line
    forgetting = ["--forgetting", "tiny_sorting", *OWN_TASKS, "--out", str(tmp_path / "out")]
    assert main(["evaluate", str(STUDENT), *forgetting]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "can't be written" in line and "--out" in line


def test_a_yaml_is_the_phase_and_takes_no_benchmark(
    tmp_path: Path, problems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    assert main(["evaluate", str(recipe), "--benchmark", str(problems)]) == 2
    assert "--benchmark is for folders" in capsys.readouterr().err
    assert main(["evaluate", str(recipe), "--no-thinking"]) == 2
    assert "--thinking is for folders" in capsys.readouterr().err
    assert main(["evaluate", str(recipe), "--limit", "5"]) == 2
    assert "--limit is for folders; " in capsys.readouterr().err
    for name, value in (("preset", "greedy"), ("seed", "7"), ("batch-size", "8"), ("launch-args", "x")):
        assert main(["evaluate", str(recipe), f"--{name}", value]) == 2
        assert f"--{name} is for folders; " in capsys.readouterr().err
    assert main(["evaluate", str(recipe), "training.lrr=1"]) == 2
    assert "training.lrr" in capsys.readouterr().err
    assert main(["evaluate", str(recipe), "--stage", "2"]) == 2
    assert "--stage 2" in capsys.readouterr().err


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch):
    """Called with the size of the GPU that shall be found: here is none, and what follows from its size is
    the same. What is allowed asks the CPU."""

    def set_gpu(total: float, free: float | None = None) -> None:
        found = Gpu("Card", total, total if free is None else free)
        monkeypatch.setattr(memory, "gpu_of_engine", lambda: found)

    return set_gpu


def test_a_model_that_will_not_fit_is_told_before_it_is_loaded_and_what_is_there_already_is_not(
    compared: Path,
    problems: Path,
    tmp_path: Path,
    card,
    no_model: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    card(2**29)
    asking = [str(STUDENT), *asked(problems, "--out", tmp_path / "out")]
    assert main(["evaluate", *asking]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"paced: {STUDENT}: the GPU (Card) has 0.5 GB, and 64 attempts at a time with prompts"
    )
    assert "answers of 1 tokens" in line and "engine's weights" in line
    assert line.endswith("; `--skip-memory-check` tries it all the same")
    with pytest.raises(AssertionError, match="was loaded"):
        main(["evaluate", *asking, "--skip-memory-check"])
    assert "warning: " in capsys.readouterr().out

    def busy() -> Gpu:
        raise RuntimeError("CUDA-capable device(s) is/are busy or unavailable")

    monkeypatch.setattr(memory, "gpu_of_engine", busy)  # what is there needs no GPU
    shutil.copytree(compared, tmp_path / "there")
    there = asked(problems, "--out", tmp_path / "there")
    assert main(["evaluate", str(STUDENT), str(TEACHER), *there]) == 0
    assert "Card" not in capsys.readouterr().out


def test_answers_that_may_get_too_long_are_warned_of_with_the_batch_that_would_fit(
    problems: Path, tmp_path: Path, card, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They need not get so long: nothing is refused for them."""
    monkeypatch.setattr(memory, "OF_CUDA", 0)  # an allowance of 2^30 bytes would hide a tiny model's own
    card(1.2e6)

    def said(batch_size: int) -> str:
        asking = asked(problems, "--out", tmp_path / str(batch_size), "--batch-size", str(batch_size))
        asking[asking.index("--max-new-tokens") + 1] = "50"
        asking[asking.index("--attempts") + 1 :] = ["1", *asking[asking.index("--attempts") + 4 :]]
        assert main(["evaluate", str(STUDENT), *asking, "--pass-at", "1"]) == 0
        return " ".join(capsys.readouterr().out.split())

    line = said(64)
    assert f"warning: {STUDENT}: the GPU (Card) has 0.0 GB, and {TWENTY} attempts at a time" in line
    assert "answers of 50 tokens take 0.0 GB" in line and "with answers of 50 tokens too" in line
    fits = int(line.split("--batch-size ")[1].split()[0])
    assert 1 < fits < TWENTY
    assert "Card" not in said(fits)
    assert "Card" in said(fits + 1)


@pytest.mark.parametrize(
    "changed",
    [{"model_type": "another"}, {"dtype": None}, {"quantization_config": {"bits": 4}}],
    ids=str,
)
def test_nothing_is_said_of_a_model_whose_need_is_not_known(
    changed: dict, problems: Path, tmp_path: Path, card
) -> None:
    model = tmp_path / "model"
    shutil.copytree(STUDENT, model)
    card(2**20)
    (target,) = find_targets([model])
    one = make_task(
        target,
        replace(read_benchmark(str(problems), None, {}, None), prompts=PromptConfig(template="{problem}")),
        make_protocol("greedy", max_new_tokens=8),
        tokenizer=load_tokenizer(model),
        weights="",
        engine="embedded",
        out=tmp_path,
    )
    assert memory.check_memory([one], 64, skip=True)
    config = json.loads((model / "config.json").read_text()) | changed
    (model / "config.json").write_text(json.dumps(config))
    assert memory.check_memory([one], 64, skip=False) == []
