"""What a teacher sees beside the problem: its prompts, token by token, on the real Qwen3 tokenizer, and what
is refused."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from paced_megatron.config import PromptConfig, StageConfig
from paced_megatron.errors import UserError
from paced_megatron.problems.context import CONTEXTS, context_template, fill, misspelt_slot, slots_in
from paced_megatron.problems.load import load_problems
from paced_megatron.problems.outcome import Outcome
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.prompts import prompt_token_ids
from paced_megatron.problems.teacher_prompts import TeacherPrompts, make_teacher_prompts
from paced_megatron.problems.tokenizer import load_tokenizer
from paced_megatron.rollout.attempts import Attempt
from paced_megatron.training.batches import Batching, micro_batches
from paced_megatron.training.examples import Example

HEADER = "<|im_start|>assistant\n"
BOXED = "{problem}\n\nPut the final answer in \\boxed{}."
WHERE = "stages.0.teacher_context"


@pytest.fixture(scope="module")
def qwen3(test_data: Path, tmp_path_factory: pytest.TempPathFactory):
    """Makes the real tokenizer with a ChatML template that says `tail` at its end."""
    folder = tmp_path_factory.mktemp("qwen3")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(test_data / "qwen3-tokenizer" / name, folder)

    tokenizer = load_tokenizer(folder)  # once: it takes a second

    def with_tail(tail: str = "", content: str = "m.content") -> PreTrainedTokenizerBase:
        tokenizer.chat_template = (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ " + content + " }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}" + tail + "{% endif %}"
        )
        return tokenizer

    return with_tail


@pytest.fixture
def plain(qwen3) -> PreTrainedTokenizerBase:
    return qwen3()


def made(
    tokenizer: PreTrainedTokenizerBase, context: str, problems: Sequence[Problem], **prompts: str
) -> TeacherPrompts:
    config = PromptConfig(**{"template": BOXED} | prompts)
    return make_teacher_prompts(
        WHERE,
        CONTEXTS.get(context, context),
        tokenizer,
        config,
        {problem.id: problem for problem in problems},
        {problem.id: prompt_token_ids(tokenizer, problem, config) for problem in problems},
    )


def attempt(index: int, text: str, outcome: Outcome = Outcome.CORRECT) -> Attempt:
    return Attempt("p", index, (1, 2), text, "stop", outcome, 0, "v")


HALF = Problem("p", r"What is $\frac{1}{2}+{answer}$?", "{solution}", r"It is \boxed{ {problem} }.")


def test_the_answer_stands_after_the_student_s_whole_turn_and_braces_in_it_stay(plain) -> None:
    ids = made(plain, "answer", [HALF], system_prompt="Be brief.").of("p")
    assert plain.decode(ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is $\\frac{1}{2}+{answer}$?\n\nPut the final answer in \\boxed{}.\n\n"
        "The final answer is known to be right.\nAnswer: {solution}\n\nMake sure that you see why. Then "
        "derive it yourself, step by step and in your own words, as if nobody had told you.<|im_end|>\n"
        + HEADER
    )


def test_no_context_is_the_student_s_own_prompt(plain) -> None:
    prompts = PromptConfig(template=BOXED)
    assert made(plain, "none", [HALF]).of("p") == tuple(prompt_token_ids(plain, HALF, prompts))
    assert made(plain, "{problem}", [HALF]).of("p") == tuple(prompt_token_ids(plain, HALF, prompts))


def test_the_default_is_the_answer_where_the_student_teaches_itself_and_nothing_elsewhere() -> None:
    assert context_template(StageConfig(train_iters=1)) == ""
    for kind in ("initial", "ema", "current"):
        assert context_template(StageConfig(train_iters=1, teacher=kind)) == CONTEXTS["answer"]
    own = StageConfig(train_iters=1, teacher="ema", teacher_context="none")
    assert context_template(own) == ""
    assert context_template(StageConfig(train_iters=1, teacher_context="Hint: {answer} {problem}")) == (
        "Hint: {answer} {problem}"
    )


def test_slots_are_known_and_a_misspelt_one_is_seen_but_latex_is_not() -> None:
    assert slots_in(r"{problem} \frac{a}{b} {attempt}") == {"problem", "attempt"}
    assert fill("{problem}{answer}", {"problem": "{answer}", "answer": "{problem}"}) == "{answer}{problem}"
    assert misspelt_slot(r"{problem} \boxed{} \text{and} {x}") is None
    for wrong, right in (("{ answer }", "answer"), ("{sollution}", "solution"), ("{Problem}", "problem")):
        assert misspelt_slot("{problem} " + wrong)[1] == right


SHOWN = "{problem}\n\nAttempt: {attempt}\n\nIt was {feedback}."


def test_an_attempt_sees_a_correct_peer_never_itself_and_whether_it_was_correct_itself(plain) -> None:
    prompts = made(plain, SHOWN, [HALF])
    peers = [
        attempt(0, "zero", Outcome.INCORRECT),
        attempt(1, "<think>hm\n</think>\n\none"),
        attempt(2, "two"),
        attempt(3, "three", Outcome.TRUNCATED),
    ]
    shown = [plain.decode(prompts.of("p", one, peers)).split("Attempt: ")[1].split("<")[0] for one in peers]
    assert shown == [
        "one\n\nIt was incorrect.",
        "two\n\nIt was correct.",
        "one\n\nIt was correct.",  # around the end
        "one\n\nIt was incorrect.",
    ]
    alone = plain.decode(prompts.of("p", peers[2], [peers[0], peers[2]]))
    assert "Attempt: It is \\boxed{ {problem} }.\n\nIt was correct." in alone  # no other: the solution
    with pytest.raises(ValueError, match=WHERE):
        prompts.of("p")


def test_the_response_s_tokens_line_up_under_both_prompts_for_real_problems(plain, test_data: Path) -> None:
    problems = load_problems(test_data / "math500.jsonl", {"id": "unique_id"})
    chosen = random.Random(0).sample(problems, 20)
    for context in ("answer", "solution"):
        prompts = made(plain, context, chosen)
        batch = [
            Example(
                one.id,
                tuple(prompts.student_prompts[one.id]),
                prompts.of(one.id),
                tuple(plain(one.solution, add_special_tokens=False)["input_ids"]),
                1.0,
            )
            for one in chosen
        ]
        for one in micro_batches(batch, Batching("problems", 20, 4))[0]:
            for rows in (one.student, one.teacher):  # the token after each position is the response's
                texts, length = rows.shape
                flat = rows.tokens.T.flatten()  # [s, b], as hidden states are
                assert flat[rows.positions + texts].tolist() == one.labels.tolist()
                assert int(rows.positions.max()) < length * texts
            ends = [one.student.tokens, one.teacher.tokens]
            for row, of in enumerate(one.examples):
                last = [
                    tokens[row, len(prompt) - 3 : len(prompt)].tolist()
                    for tokens, prompt in zip(ends, (of.student_prompt, of.teacher_prompt), strict=True)
                ]
                assert last[0] == last[1] == [151644, 77091, 198]  # <|im_start|>assistant\n


SHIFTED = {
    "a space for one of them": "{% if 'Answer:' in messages[-1].content %} {% endif %}",
    "thoughts for one of them": (
        "{% if 'Answer:' not in messages[-1].content %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    ),
    "one token for a long message": "{% if messages[-1].content | length > 100 %}{{ '\\n' }}{% endif %}",
}


@pytest.mark.parametrize("tail", SHIFTED.values(), ids=SHIFTED)
def test_a_chat_template_that_shifts_the_response_by_a_token_is_caught(qwen3, tail: str) -> None:
    tokenizer = qwen3(tail)
    assert made(tokenizer, "none", [HALF]).of("p")  # both alike
    with pytest.raises(UserError) as caught:
        made(tokenizer, "answer", [HALF])
    message = str(caught.value)
    assert message.startswith(f"{WHERE}: for problem p the response would begin after '<|im_end|>")
    assert "so that their tokens don't line up" in message and "\n" not in message


def test_a_chat_template_that_looks_at_the_feedback_is_caught_before_a_run(qwen3) -> None:
    tokenizer = qwen3("{% if 'was incorrect' in messages[-1].content %} {% endif %}")
    with pytest.raises(UserError, match="don't line up"):
        made(tokenizer, SHOWN, [HALF])


def test_a_chat_template_that_alters_the_message_can_t_be_checked_and_is_refused(qwen3) -> None:
    with pytest.raises(UserError, match="after an altered message in the teacher's prompt"):
        made(qwen3(content="m.content | upper"), "answer", [HALF])


def test_an_end_that_is_merged_with_the_message_is_caught_by_its_ids(
    byte_tokenizer: Path, tmp_path: Path
) -> None:
    """The end is the letter e: "the" is one token there, "te" two."""
    template = tmp_path / "merged.jinja"
    template.write_text("{{ messages[-1].content }}e")
    tokenizer = load_tokenizer(byte_tokenizer, PromptConfig(chat_template=template))
    assert made(tokenizer, "{problem}t", [HALF], template="{problem}s").of("p")
    with pytest.raises(UserError, match="don't line up"):
        made(tokenizer, "{problem}th", [HALF], template="{problem}s")


def test_problems_without_what_a_slot_wants_are_named(plain) -> None:
    bare = [Problem(f"q{number}", "1+1?", "2", solution) for number, solution in enumerate([None, " "] * 4)]
    assert made(plain, "answer", bare).of("q7")
    for template, slots in (("solution", "{solution}"), (SHOWN, "{attempt}")):
        with pytest.raises(UserError) as caught:
            made(plain, template, [HALF, *bare])
        assert str(caught.value) == (
            f"{WHERE}: {slots} needs a solution, and 8 of 9 problems have none (q0, q1, q2, q3, q4, ...); "
            "add it to problems.train, or take another context, such as `answer`"
        )


def test_the_longest_prompt_is_told_for_attempts_that_are_not_there_yet(plain) -> None:
    fixed, shown = made(plain, "answer", [HALF]), made(plain, SHOWN, [HALF])
    assert fixed.longest("p", 1000) == len(fixed.of("p"))
    long = attempt(1, " word" * 1000)
    ids = shown.of("p", attempt(0, "", Outcome.INCORRECT), [long])
    assert len(ids) <= shown.longest("p", 1000) <= len(ids) + 4
    assert shown.longest("p", 0) >= len(shown.of("p", long, [long]))  # the solution in its place
