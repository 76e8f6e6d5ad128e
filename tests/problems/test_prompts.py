"""Prompts: the exact tokens that a problem becomes, on the real Qwen3 tokenizer, and what is refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from paced_megatron.config import PromptConfig
from paced_megatron.errors import UserError
from paced_megatron.problems.load import load_problems
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.prompts import chat_text, check_prompts, prompt_token_ids
from paced_megatron.problems.tokenizer import load_tokenizer

CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif -%}
{%- endif -%}
"""
BOXED = r"{problem}" + "\n\nThink step by step, and put the final answer in \\boxed{}."


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "chatml.jinja"
    path.write_text(CHATML, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def qwen3(test_data: Path, chatml: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """The real tokenizer, which comes without a chat template, with ours given by the configuration."""
    folder = tmp_path_factory.mktemp("qwen3")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(test_data / "qwen3-tokenizer" / name, folder)
    return load_tokenizer(folder, PromptConfig(chat_template=chatml))


@pytest.fixture
def small(byte_tokenizer: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of 256 bytes, with a ChatML template of its own."""
    return load_tokenizer(byte_tokenizer)


def test_the_prompt_is_exactly_the_template_with_the_problem_in_it(qwen3: PreTrainedTokenizerBase) -> None:
    problem = Problem("p", r"Is $\frac{1}{2} < {problem}$ {answer}?", "yes")
    prompts = PromptConfig(
        system_prompt="Be {brief}.", template=BOXED, chat_template_kwargs={"enable_thinking": False}
    )
    check_prompts(qwen3, prompts)
    ids = prompt_token_ids(qwen3, problem, prompts)
    assert type(ids) is list and all(type(id) is int for id in ids)
    assert qwen3.decode(ids) == (
        "<|im_start|>system\nBe {brief}.<|im_end|>\n"
        "<|im_start|>user\nIs $\\frac{1}{2} < {problem}$ {answer}?\n\n"
        "Think step by step, and put the final answer in \\boxed{}.<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    # The ids of Qwen's published vocabulary: the turns' marks are single tokens, not spelt out.
    assert ids[:3] == [151644, 8948, 198]
    assert ids[-7:] == [151644, 77091, 198, 151667, 271, 151668, 271]
    assert (ids.count(151644), ids.count(151645)) == (3, 2)


def test_enable_thinking_reaches_the_template_and_there_is_no_system_turn_of_our_own(
    qwen3: PreTrainedTokenizerBase,
) -> None:
    problem = Problem("p", "1+1?", "2")
    for arguments, tail in (
        ({}, ""),
        ({"enable_thinking": True}, ""),
        ({"enable_thinking": False}, "<think>\n\n</think>\n\n"),
    ):
        prompts = PromptConfig(chat_template_kwargs=arguments)
        check_prompts(qwen3, prompts)
        text = qwen3.decode(prompt_token_ids(qwen3, problem, prompts))
        assert text == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n" + tail


def test_real_problems_survive_the_way_to_tokens_and_back_whole(
    qwen3: PreTrainedTokenizerBase, test_data: Path
) -> None:
    problems = load_problems(test_data / "math500.jsonl", {"id": "unique_id"})
    prompts = PromptConfig(template=BOXED)
    longest = max(problems, key=lambda problem: len(problem.problem))
    for problem in [*random.Random(0).sample(problems, 60), longest]:
        text = qwen3.decode(prompt_token_ids(qwen3, problem, prompts))
        asked = problem.problem + BOXED.removeprefix("{problem}")
        assert text == f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"


def refusal(tokenizer: PreTrainedTokenizerBase, **prompts: Any) -> str:
    with pytest.raises(UserError) as caught:
        check_prompts(tokenizer, PromptConfig(**prompts))
    message = str(caught.value)
    assert "\n" not in message
    return message


def with_template(
    folder: Path, tokenizer_folder: Path, template: str
) -> tuple[PreTrainedTokenizerBase, Path]:
    path = folder / "t.jinja"
    path.write_text(template, encoding="utf-8")
    return load_tokenizer(tokenizer_folder, PromptConfig(chat_template=path)), path


def test_the_configured_chat_template_goes_before_the_tokenizers_own(
    byte_tokenizer: Path, tmp_path: Path
) -> None:
    tokenizer, path = with_template(
        tmp_path, byte_tokenizer, "Q: {{ messages[0].content }}{% if tone %} {{ tone }}{% endif %} A:"
    )
    prompts = PromptConfig(chat_template=path, chat_template_kwargs={"tone": "now"})
    check_prompts(tokenizer, prompts)
    assert (
        tokenizer.decode(prompt_token_ids(tokenizer, Problem("p", "1+1?", "2"), prompts)) == "Q: 1+1? now A:"
    )


# As Llama 3's begins.
DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ date_string }} {{ messages[0].content }}"
)


def test_a_template_that_writes_todays_date_gives_the_same_prompt_on_every_day(
    byte_tokenizer: Path, tmp_path: Path
) -> None:
    tokenizer, path = with_template(tmp_path, byte_tokenizer, DATED)
    for arguments, date in (({}, "26 Jul 2024"), ({"date_string": "1 Jan 2000"}, "1 Jan 2000")):
        prompts = PromptConfig(chat_template=path, chat_template_kwargs=arguments)
        check_prompts(tokenizer, prompts)
        asked = tokenizer.decode(prompt_token_ids(tokenizer, Problem("p", "1+1?", "2"), prompts))
        assert asked == chat_text(tokenizer, "1+1?", prompts) == f"{date} 1+1?"


def test_a_template_that_can_only_write_todays_date_is_refused(byte_tokenizer: Path, tmp_path: Path) -> None:
    tokenizer, path = with_template(
        tmp_path, byte_tokenizer, "{{ strftime_now('%Y') }} {{ messages[0].content }}"
    )
    message = refusal(tokenizer, chat_template=path)
    assert message.startswith(f"problems.prompts.chat_template: {path} writes today's date (strftime_now)")


def test_a_template_with_transformers_own_tags_gives_the_same_prompt_on_every_day_too(
    byte_tokenizer: Path, tmp_path: Path
) -> None:
    """As those that have been made to tell a training's own tokens: the tags are none of Jinja's."""
    marked = "{%- generation %}{{ messages[0].content }}{% endgeneration -%}"
    tokenizer, path = with_template(tmp_path, byte_tokenizer, DATED + marked)
    prompts = PromptConfig(chat_template=path)
    check_prompts(tokenizer, prompts)
    assert chat_text(tokenizer, "1+1?", prompts) == "26 Jul 2024 1+1?1+1?"
    tokenizer, path = with_template(tmp_path, byte_tokenizer, "{{ strftime_now('%Y') }}" + marked)
    assert "writes today's date" in refusal(tokenizer, chat_template=path)


def test_the_mark_at_the_beginning_of_a_template_file_is_no_part_of_the_prompt(
    byte_tokenizer: Path, tmp_path: Path
) -> None:
    tokenizer, path = with_template(tmp_path, byte_tokenizer, "\ufeff{{ messages[0].content }}:")
    assert chat_text(tokenizer, "1+1?", PromptConfig(chat_template=path)) == "1+1?:"


def test_a_template_without_the_slot_is_refused(small: PreTrainedTokenizerBase) -> None:
    for template in ("Solve this.", "{question}", "{ problem }", ""):
        assert refusal(small, template=template) == (
            f"problems.prompts.template: {template!r} lacks the slot {{problem}} for the problem's text"
        )


def test_a_tokenizer_without_a_chat_template_needs_one_in_the_configuration(byte_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(byte_tokenizer)
    tokenizer.chat_template = None
    assert refusal(tokenizer) == (
        f"the tokenizer in {byte_tokenizer} has no chat template; "
        "set problems.prompts.chat_template to a Jinja file, or put one into the folder, as "
        "chat_template.jinja (`paced evaluate FOLDER`: or --prompts-of the run)"
    )


def test_a_tokenizer_with_several_chat_templates_needs_one_called_default(byte_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(byte_tokenizer)
    own = str(tokenizer.chat_template)
    tokenizer.chat_template = {"tool_use": own, "rag": own}  # type: ignore[assignment]
    assert "several chat templates and none called default (tool_use, rag)" in refusal(tokenizer)
    tokenizer.chat_template = {"tool_use": "{{ tools }}", "default": own}  # type: ignore[assignment]
    check_prompts(tokenizer, PromptConfig())


def test_a_chat_template_file_that_cannot_be_read_is_named(
    byte_tokenizer: Path, small: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    path = tmp_path / "none.jinja"
    expected = f"problems.prompts.chat_template: {path} cannot be read (No such file or directory)"
    assert refusal(small, chat_template=path) == expected
    with pytest.raises(UserError) as caught:
        load_tokenizer(byte_tokenizer, PromptConfig(chat_template=path))
    assert str(caught.value) == expected
    path.write_bytes(b"\xff\xfe")
    assert refusal(small, chat_template=path) == f"problems.prompts.chat_template: {path} is not UTF-8"


BROKEN = {
    "{% for message in messages %}\n{{ message.content }": "does not render: unexpected '}' (line 2)",
    "{{ raise_exception('no system turn, \n please') }}": "does not render: no system turn, please",
    "{{ messages[0].content + 1 }}": "does not render: can only concatenate str",
    "{{ messages[0]['role'] }}": "leaves out the user's message, so that no problem would reach the model",
    "": "leaves out the user's message, so that no problem would reach the model",
}


@pytest.mark.parametrize("template", BROKEN, ids=range(len(BROKEN)))
def test_a_chat_template_that_does_not_render_is_refused_in_one_line(
    byte_tokenizer: Path, tmp_path: Path, template: str
) -> None:
    tokenizer, path = with_template(tmp_path, byte_tokenizer, template)
    message = refusal(tokenizer, chat_template=path)
    assert message.startswith(f"problems.prompts.chat_template: {path} {BROKEN[template]}")


def test_a_broken_template_of_the_tokenizers_own_is_said_to_be_the_tokenizers(
    small: PreTrainedTokenizerBase,
) -> None:
    small.chat_template = "{{ nothing.at.all }}"
    assert refusal(small) == "the tokenizer's own chat template does not render: 'nothing' is undefined"


def test_a_template_argument_that_the_template_does_not_read_is_refused(
    small: PreTrainedTokenizerBase,
) -> None:
    assert refusal(small, chat_template_kwargs={"enable_thinkin": False}) == (
        "problems.prompts.chat_template_kwargs: the tokenizer's own chat template does not read "
        "'enable_thinkin' (it reads add_generation_prompt, enable_thinking, messages); "
        "correct the name or leave it out"
    )


@pytest.mark.parametrize("name", ["add_generation_prompt", "tokenize", "truncation", "max_length"])
def test_a_template_argument_that_would_change_our_call_is_refused(
    small: PreTrainedTokenizerBase, name: str
) -> None:
    assert refusal(small, chat_template_kwargs={name: True}) == (
        f"problems.prompts.chat_template_kwargs: {name!r} is not free; leave it out"
    )


def test_a_template_in_a_dialect_that_plain_jinja_cannot_read_still_passes(
    small: PreTrainedTokenizerBase,
) -> None:
    small.chat_template = "{% generation %}{{ messages[0].content }}{% endgeneration %}{{ mood }}"
    check_prompts(small, PromptConfig(chat_template_kwargs={"mood": "fine"}))
