"""The prompt: a problem in the user turn of the tokenizer's chat template, as token ids."""

from __future__ import annotations

import inspect
import re
from collections.abc import Set
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import meta

from paced_megatron.config import PromptConfig
from paced_megatron.errors import UserError
from paced_megatron.problems.problem import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SLOT = "{problem}"
PROBE = Problem(id="probe", problem="How much is one plus one", answer="2")
# Llama's template writes today's date, and a run that goes on tomorrow would train on other prompts than it
# has sampled from. So it is told a date: the one that it falls back on itself.
TODAY, DATE, A_DAY = "strftime_now", "date_string", "26 Jul 2024"
# transformers' own tags: they mark what the model wrote, and read nothing.
GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")


def prompt_token_ids(
    tokenizer: PreTrainedTokenizerBase, problem: Problem, prompts: PromptConfig
) -> list[int]:
    """The ids after which the response begins: system turn (if any), user turn, start of the reply.

    Nothing is cut off, however long the problem is, and they are the same on every day. `tokenizer` comes
    from load_tokenizer, which gives it prompts.chat_template, and `prompts` has passed check_prompts.
    """
    return chat_token_ids(tokenizer, user_turn(problem, prompts), prompts)


def user_turn(problem: Problem, prompts: PromptConfig) -> str:
    """What the student is asked, as its user turn."""
    # replace, not format: problems and templates are full of LaTeX's own braces.
    return prompts.template.replace(SLOT, problem.problem)


def chat_token_ids(tokenizer: PreTrainedTokenizerBase, turn: str, prompts: PromptConfig) -> list[int]:
    """The ids of a prompt whose user turn is `turn`, up to where the response begins."""
    # return_dict=False: transformers 5 would return a BatchEncoding. It adds no tokens of its own.
    ids = tokenizer.apply_chat_template(
        _messages(turn, prompts),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
        **template_arguments(tokenizer, prompts),
    )
    return list(ids)


def chat_text(tokenizer: PreTrainedTokenizerBase, turn: str, prompts: PromptConfig) -> str:
    """The text that `chat_token_ids` gives the ids of."""
    return str(
        tokenizer.apply_chat_template(
            _messages(turn, prompts),
            add_generation_prompt=True,
            tokenize=False,
            **template_arguments(tokenizer, prompts),
        )
    )


def check_prompts(tokenizer: PreTrainedTokenizerBase, prompts: PromptConfig) -> None:
    """Renders one prompt, so that what is wrong with the template is known before any model is loaded.

    Raises UserError: a template without {problem}, no chat template or a broken one, template arguments that
    the template does not read (a typing error would change nothing, silently), a template that writes a date
    of its own, a problem that gets lost.
    """
    if SLOT not in prompts.template:
        raise UserError(
            f"problems.prompts.template: {prompts.template!r} lacks the slot {SLOT} for the problem's text"
        )
    if prompts.chat_template is not None:
        read_chat_template(prompts.chat_template)
    check_one_template(tokenizer)
    _check_arguments(tokenizer, prompts)
    _check_date(tokenizer, prompts)
    source = _template_source(prompts)
    try:
        text = chat_text(tokenizer, user_turn(PROBE, prompts), prompts)
    except Exception as error:  # a template is a program: what it raises is up to its author
        raise UserError(f"{source} does not render: {_one_line(error)}") from error
    if PROBE.problem not in text:
        raise UserError(f"{source} leaves out the user's message, so that no problem would reach the model")


def check_one_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError for a tokenizer without a chat template, or with several and none that is the default.

    Such a tokenizer's `get_chat_template` raises ValueError.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer in {tokenizer.name_or_path} has no chat template; "
            "set problems.prompts.chat_template to a Jinja file, or put one into the folder, as "
            "chat_template.jinja (`paced evaluate FOLDER`: or --prompts-of the run)"
        )
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        raise UserError(
            f"the tokenizer in {tokenizer.name_or_path} has several chat templates and none called default "
            f"({', '.join(tokenizer.chat_template)}); set problems.prompts.chat_template to a Jinja file, or "
            "put one into the folder, as chat_template.jinja (`paced evaluate FOLDER`: or --prompts-of the "
            "run)"
        )


def read_chat_template(path: Path) -> str:
    """The text of a Jinja file; UserError when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # some editors begin with a mark
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"problems.prompts.chat_template: {path} cannot be read ({reason})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"problems.prompts.chat_template: {path} is not UTF-8") from error


def _messages(turn: str, prompts: PromptConfig) -> list[dict[str, str]]:
    turns = [{"role": "user", "content": turn}]
    if prompts.system_prompt is not None:
        turns.insert(0, {"role": "system", "content": prompts.system_prompt})
    return turns


def template_arguments(tokenizer: PreTrainedTokenizerBase, prompts: PromptConfig) -> dict[str, Any]:
    """What the chat template is given beside the messages: prompts.chat_template_kwargs, and a date where the
    template would write today's."""
    read = template_variables(tokenizer.get_chat_template()) or set()
    return ({DATE: A_DAY} if {TODAY, DATE} <= read else {}) | prompts.chat_template_kwargs


def _check_date(tokenizer: PreTrainedTokenizerBase, prompts: PromptConfig) -> None:
    read = template_variables(tokenizer.get_chat_template()) or set()
    if TODAY in read and DATE not in read:
        raise UserError(
            f"{_template_source(prompts)} writes today's date ({TODAY}), so that a run which goes on "
            "tomorrow would train on other prompts than it has sampled from; put a fixed date into a copy of "
            "it, and name that as problems.prompts.chat_template (`paced evaluate FOLDER`: put the copy into "
            "the folder, as chat_template.jinja)"
        )


def _check_arguments(tokenizer: PreTrainedTokenizerBase, prompts: PromptConfig) -> None:
    reserved = set(inspect.signature(tokenizer.apply_chat_template).parameters) - {"tools", "documents"}
    read = template_variables(tokenizer.get_chat_template())
    for name in prompts.chat_template_kwargs:
        if name in reserved:
            raise UserError(f"problems.prompts.chat_template_kwargs: {name!r} is not free; leave it out")
        if read is not None and name not in read:
            raise UserError(
                f"problems.prompts.chat_template_kwargs: {_template_source(prompts)} does not read {name!r} "
                f"(it reads {', '.join(sorted(read))}); correct the name or leave it out"
            )


@lru_cache(maxsize=8)  # it is asked for each prompt, and takes milliseconds
def template_variables(template: str) -> Set[str] | None:
    """The variables that a chat template reads from outside; None for one with tags of its own dialect."""
    dialect = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        return meta.find_undeclared_variables(dialect.parse(GENERATION.sub("", template)))
    except jinja2.TemplateSyntaxError:
        return None  # another dialect, or an error which the trial rendering will show


def _template_source(prompts: PromptConfig) -> str:
    if prompts.chat_template is None:
        return "the tokenizer's own chat template"
    return f"problems.prompts.chat_template: {prompts.chat_template}"


def _one_line(error: Any) -> str:
    line = getattr(error, "lineno", None)
    return f"{' '.join(str(error).split()) or type(error).__name__}{f' (line {line})' if line else ''}"
