"""The keys of `problems`: which problems, how they are asked, how an attempt is scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from paced_megatron.config.key import Key


@dataclass(frozen=True)
class PromptConfig:
    """How a problem becomes the tokens that student and teacher continue."""

    system_prompt: Annotated[str | None, Key("text of the system message; null: none")] = None
    template: Annotated[str, Key("the user message; `{problem}` stands for the problem's text")] = "{problem}"
    chat_template: Annotated[
        Path | None, Key("a Jinja file to use instead of the tokenizer's chat template")
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any], Key("arguments passed on to the chat template, e.g. `enable_thinking: false`")
    ] = field(default_factory=dict)


@dataclass(frozen=True)
class VerifierConfig:
    """How an attempt is scored."""

    kind: Annotated[
        Literal["math", "exact"], Key("`math`: math-verify, equal in value; `exact`: equal as text")
    ] = "math"
    answer_marker: Annotated[
        str | None,
        Key('the answer is what follows the last such text, e.g. `"####"` (in quotes); null: none'),
    ] = None
    timeout_s: Annotated[float, Key("seconds after which scoring one attempt ends as timed out", above=0)] = (
        5.0
    )
    workers: Annotated[
        int, Key("processes of rank 0 that compare answers, started when one is needed", at_least=1)
    ] = 2
    memory_mib: Annotated[
        int, Key("MiB that one of them may have; an answer that takes more is not correct", at_least=256)
    ] = 1024


class Source(str):
    """Where problems are: an absolute path, or `hf://...` (problems/rows.py)."""


ProblemFormat = Literal["plain", "numbered", "dapo_math", "dapo_math_processed", "math", "math500"]


@dataclass(frozen=True)
class ProblemsConfig:
    """The problems to train on, and those held out.

    A file is JSONL or Parquet, or a folder that `datasets` has saved. `hf://NAME?split=train&config=main` is
    a dataset of the Hugging Face hub, or, with an absolute path as NAME, one in a folder; `split` is `train`
    where nothing is said. Parts of a split (`train[:80%]`) are understood, and `revision` pins it.
    """

    train: Annotated[
        Source, Key("the problems to train on: with id, problem and answer in each row, or see `format`")
    ]
    test: Annotated[Source | None, Key("held-out problems, for evaluation; null: no evaluation")] = None
    forgetting: Annotated[
        Source | None,
        Key("problems of another skill, evaluated beside `test` to see what is forgotten; null: none"),
    ] = None
    format: Annotated[
        ProblemFormat,
        Key(
            "how `train` is laid out: `plain`, the columns of `fields`; `numbered`, plain columns, a row "
            "without an id named by its number; `dapo_math` and "
            "`dapo_math_processed`, DAPO-Math-17k's two editions, without repeats and its own instruction; "
            "`math`, Hendrycks' MATH, the answer from the solution's last box; `math500`, MATH-500"
        ),
    ] = "plain"
    test_format: Annotated[ProblemFormat, Key("the same of `test`")] = "plain"
    forgetting_format: Annotated[ProblemFormat, Key("the same of `forgetting`")] = "plain"
    fields: Annotated[
        dict[str, str],
        Key(
            "column names of the files in `plain` format, e.g. `{problem: question, id: unique_id}`; "
            "`prompt.0.content` is inside column `prompt`",
            keys=("id", "problem", "answer", "solution", "level"),
        ),
    ] = field(default_factory=dict)
    overlap: Annotated[
        Literal["refuse", "drop"],
        Key("a training problem whose text is in `test` or `forgetting` ends the run, or is left out"),
    ] = "refuse"
    prompts: PromptConfig = field(default_factory=PromptConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
