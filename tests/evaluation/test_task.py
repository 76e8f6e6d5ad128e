"""What decides a measurement's attempts: presets, what is changed of them, prompts, weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from paced_megatron.config import PromptConfig
from paced_megatron.errors import UserError
from paced_megatron.evaluation.benchmarks import BOXED, MATH, ProblemList
from paced_megatron.evaluation.presets import PRESETS, in_words
from paced_megatron.evaluation.targets import Target
from paced_megatron.evaluation.task import Protocol, Task, make_protocol, make_task
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.tokenizer import load_tokenizer
from paced_megatron.rollout.engine import Sampling

PROBLEMS = ProblemList(
    "own",
    "own",
    "own.jsonl",
    [Problem("1", "1+1?", "2"), Problem("2", "the longer: 2+2?", "4")],
    2,
    BOXED,
    MATH,
)


@pytest.fixture(scope="session")
def model(byte_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose template reads enable_thinking, and a config.json; no weights."""
    folder = tmp_path_factory.mktemp("model") / "m"
    shutil.copytree(byte_tokenizer, folder)
    (folder / "config.json").write_text('{"max_position_embeddings": 512}')
    return folder


def task(model: Path, protocol: Protocol, problems: ProblemList = PROBLEMS, weights: str = "w" * 64) -> Task:
    return make_task(
        Target("m", model, model / "evaluation"),
        problems,
        protocol,
        tokenizer=load_tokenizer(model),
        weights=weights,
        engine="embedded",
        out=model / "evaluation",
    )


def short(preset: str = "paper", **changes) -> Protocol:
    return make_protocol(preset, max_new_tokens=8, **changes)


def test_the_paper_s_preset_is_avg_at_8_with_the_authors_sampling() -> None:
    protocol = make_protocol("paper")
    assert (protocol.attempts, protocol.pass_at, protocol.thinking) == (8, (8,), False)
    assert protocol.sampling == Sampling(temperature=0.7, top_p=0.8, top_k=20, max_new_tokens=16384)
    assert protocol.changed == ()
    assert make_protocol("authors").attempts == 16
    assert make_protocol("tip").sampling == Sampling(1.0, 1.0, -1, 16384)


def test_greedy_is_one_attempt_and_tells_no_majority() -> None:
    protocol = make_protocol("greedy")
    assert (protocol.attempts, protocol.pass_at, protocol.sampling.temperature) == (1, (), 0.0)


def test_what_is_changed_of_a_preset_is_told() -> None:
    protocol = make_protocol("paper", attempts=4, max_new_tokens=64, thinking=True)
    assert protocol.changed == (
        "attempts 4 in place of 8",
        "max_new_tokens 64 in place of 16384",
        "thinking True in place of False",
    )
    assert make_protocol("paper", attempts=8).changed == ()


@pytest.mark.parametrize(
    ("preset", "changes", "words"),
    [
        ("papr", {}, ["--preset papr", "did you mean paper?"]),
        ("paper", {"pass_at": [16]}, ["pass@16 needs at least 16 attempts", "makes 8", "--attempts"]),
        ("paper", {"attempts": 2, "pass_at": [1, 4]}, ["pass@4", "makes 2"]),
        ("paper", {"pass_at": [0]}, ["--pass-at 0"]),
        ("paper", {"attempts": 0}, ["--attempts 0"]),
        ("paper", {"max_new_tokens": 0}, ["--max-new-tokens 0"]),
        ("greedy", {"attempts": 8}, ["--attempts 8", "greedy", "all the same"]),
    ],
)
def test_what_cannot_be_measured_is_refused(preset: str, changes: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        make_protocol(preset, **changes)
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize("preset", ["greedy", "paper"])  # the latter asks whether the template can think
def test_a_tokenizer_with_several_templates_and_no_default_is_refused_in_words(
    preset: str, model: Path
) -> None:
    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = dict.fromkeys(("tool_use", "rag"), str(tokenizer.chat_template))  # type: ignore[assignment]
    target = Target("m", model, model)
    with pytest.raises(UserError, match=r"several chat templates and none called default \(tool_use, rag\)"):
        make_task(
            target, PROBLEMS, short(preset), tokenizer=tokenizer, weights="", engine="embedded", out=model
        )


def test_each_preset_is_said_in_words() -> None:
    assert in_words(PRESETS["paper"].sampling, False) == (
        "T 0.7, top_p 0.8, top_k 20, 16,384 new tokens, no thinking"
    )
    assert in_words(PRESETS["greedy"].sampling, None) == "greedy, 16,384 new tokens"
    assert "top_k off" in in_words(PRESETS["tip"].sampling, None)


def test_thinking_reaches_the_prompt_where_the_template_reads_it(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    text = tokenizer.decode(task(model, short()).token_ids["1"])
    assert text.endswith("<think>\n\n</think>\n\n") and "1+1?\n\nPlease reason step by step" in text
    assert "<think>" not in tokenizer.decode(task(model, short("antisd")).token_ids["1"])  # it doesn't say
    asked = replace(PROBLEMS, prompts=PromptConfig(chat_template_kwargs={"enable_thinking": True}))
    assert "<think>" not in tokenizer.decode(task(model, short(), asked).token_ids["1"])


def test_a_template_that_knows_no_thinking_is_left_alone_unless_somebody_asks(
    model: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.jinja"
    plain.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    problems = replace(PROBLEMS, prompts=replace(BOXED, chat_template=plain))
    tokenizer = load_tokenizer(model, problems.prompts)
    arguments = {"tokenizer": tokenizer, "weights": "w", "engine": "embedded", "out": tmp_path}
    target = Target("m", model, tmp_path)
    assert make_task(target, problems, short(), **arguments).prompts.chat_template_kwargs == {}
    with pytest.raises(UserError, match="does not read 'enable_thinking'"):
        make_task(target, problems, short(thinking=False), **arguments)


def test_an_answer_that_does_not_fit_the_context_is_refused_with_one_that_does(model: Path) -> None:
    with pytest.raises(UserError, match="its context is 512 tokens; the prompt of problem 2") as refused:
        task(model, make_protocol("paper"))
    room = int(str(refused.value).rsplit(" ", 1)[1])
    task(model, make_protocol("paper", max_new_tokens=room))
    with pytest.raises(UserError, match="context"):
        task(model, make_protocol("paper", max_new_tokens=room + 1))


def test_whatever_changes_the_attempts_changes_the_folder_and_nothing_else_does(model: Path) -> None:
    first = task(model, short())
    other = replace(PROBLEMS, problems=[*PROBLEMS.problems[:1], Problem("2", "the longer: 2+2?", "5")])
    marked = replace(PROBLEMS, verifier=replace(MATH, answer_marker="#"))
    folders = [
        first.folder,
        task(model, short(), weights="v" * 64).folder,
        task(model, short("tip")).folder,
        task(model, short(attempts=4)).folder,
        task(model, short(seed=5)).folder,
        task(model, make_protocol("paper", max_new_tokens=9)).folder,
        task(model, short(thinking=True)).folder,
        task(model, short(), other).folder,
        task(model, short(), marked).folder,
        replace(first, engine="sglang").folder,
    ]
    assert len(set(folders)) == len(folders)
    assert task(model, short(pass_at=[1, 2])).folder == first.folder
    workers = replace(PROBLEMS, verifier=replace(MATH, workers=1))
    assert task(model, short(), workers).folder == first.folder
    assert first.folder.parent == model / "evaluation" / "own" and first.folder.name.startswith("paper-")
