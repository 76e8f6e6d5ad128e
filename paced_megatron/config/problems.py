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


@dataclass(frozen=True)
class ProblemsConfig:
    """The problems to train on, and those held out."""

    train: Annotated[Path, Key("JSONL file of the problems to train on: id, problem, answer on each line")]
    test: Annotated[
        Path | None, Key("JSONL file of held-out problems, for evaluation; null: no evaluation")
    ] = None
    forgetting: Annotated[
        Path | None,
        Key(
            "JSONL file of problems of another skill, evaluated beside `test` to see what is forgotten; "
            "null: none"
        ),
    ] = None
    fields: Annotated[
        dict[str, str],
        Key(
            "the files' own column names, e.g. `{problem: question, id: unique_id}`",
            keys=("id", "problem", "answer", "solution", "level"),
        ),
    ] = field(default_factory=dict)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
