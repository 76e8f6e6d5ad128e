"""The prompts under which a stage's teacher scores a response: the same one as under the student's, token by
token, so both prompts must end alike. `make_teacher_prompts` compares their ids before a run begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from paced_megatron.config import PromptConfig
from paced_megatron.errors import UserError
from paced_megatron.problems.context import (
    FROM_SOLUTION,
    OF_ATTEMPTS,
    VERDICTS,
    feedback,
    fill,
    shown_attempt,
    slots_in,
)
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.prompts import chat_text, chat_token_ids, user_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from paced_megatron.rollout.attempts import Attempt

_MERGES = 2  # tokens that a text may take more between others than by itself: one at each end
_SHOWN = 5  # ids of problems in a message


@dataclass(frozen=True)
class TeacherPrompts:
    """A stage's prompts for its teacher. Made by `make_teacher_prompts`, which has checked them.

    Attributes:
        where: the key, for messages.
        template: of the teacher's user turn; "": the student's prompts.
        problems, student_prompts: by the problem's id.
        fixed: the prompts that no attempt has a part in, by the problem's id; empty where all have.
    """

    where: str
    template: str
    tokenizer: PreTrainedTokenizerBase
    prompts: PromptConfig
    problems: Mapping[str, Problem]
    student_prompts: Mapping[str, Sequence[int]]
    fixed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def follows_attempts(self) -> bool:
        """Whether a prompt depends on the attempt that is scored."""
        return bool(slots_in(self.template) & OF_ATTEMPTS)

    def of(
        self, problem_id: str, attempt: Attempt | None = None, peers: Iterable[Attempt] = ()
    ) -> tuple[int, ...]:
        """Token ids of the teacher's prompt for a response to this problem.

        Args:
            attempt: the response, where it is the student's own.
            peers: its attempts at the same problem; `attempt` may be among them, and isn't shown to itself.

        Raises:
            UserError: the prompt doesn't end as the student's does (only a chat template that looks into the
                user's message can bring that about).
            ValueError: the template needs an attempt, and there is none.
        """
        if not self.follows_attempts:
            return self.fixed[problem_id]
        if attempt is None:
            raise ValueError(f"{self.where}: its prompts follow from the attempt that is scored")
        shown = shown_attempt(self.problems[problem_id], attempt, peers)
        return self.checked(problem_id, shown, feedback(attempt))

    def checked(self, problem_id: str, attempt: str = "", feedback: str = "") -> tuple[int, ...]:
        """The prompt with these words in its slots, compared with the student's."""
        problem = self.problems[problem_id]
        own = user_turn(problem, self.prompts)
        turn = fill(
            self.template,
            {
                "problem": own,
                "answer": problem.answer,
                "solution": problem.solution or "",
                "attempt": attempt,
                "feedback": feedback,
            },
        )
        ids = chat_token_ids(self.tokenizer, turn, self.prompts)
        ends = [_after(chat_text(self.tokenizer, asked, self.prompts), asked) for asked in (own, turn)]
        if None in ends or not self._end_alike(ids, problem_id, ends[0] or ""):
            raise UserError(
                f"{self.where}: for problem {problem_id} the response would begin after {_shown(ends[1])} in "
                f"the teacher's prompt and after {_shown(ends[0])} in the student's, so that their tokens "
                "don't line up; the chat template must end alike, whatever the user's message says"
            )
        return tuple(ids)

    def _end_alike(self, ids: Sequence[int], problem_id: str, end: str) -> bool:
        """Whether the last ids are the student's, as many as the end's text takes. Its first one may have
        been merged with the message, unless there is no other."""
        count = len(self.tokenizer(end, add_special_tokens=False)["input_ids"])
        compared = max(1, count - 1)
        return list(ids[-compared:]) == list(self.student_prompts[problem_id][-compared:])

    def longest(self, problem_id: str, new_tokens: int) -> int:
        """Tokens that the prompt may have, when an attempt has up to `new_tokens`."""
        if not self.follows_attempts:
            return len(self.fixed[problem_id])
        solution = self.problems[problem_id].solution or ""
        shown = max(new_tokens, len(self.tokenizer(solution, add_special_tokens=False)["input_ids"]))
        bare = max(len(self.checked(problem_id, "", said)) for said in VERDICTS.values())
        return bare + self.template.count("{attempt}") * (shown + _MERGES)


def make_teacher_prompts(
    where: str,
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptConfig,
    problems: Mapping[str, Problem],
    student_prompts: Mapping[str, Sequence[int]],
) -> TeacherPrompts:
    """The prompts of a stage's teacher, each compared with the student's by its ids.

    Raises:
        UserError: problems without what a slot wants, by their ids; a chat template under which the response
            would not begin alike.
    """
    if not template:
        fixed = {name: tuple(ids) for name, ids in student_prompts.items()}
        return TeacherPrompts(where, template, tokenizer, prompts, problems, student_prompts, fixed)
    wanted = sorted(slots_in(template) & FROM_SOLUTION)
    lacking = [name for name, problem in problems.items() if not (problem.solution or "").strip()]
    if wanted and lacking:
        slots = " and ".join(f"{{{slot}}}" for slot in wanted)
        more = ", ..." if len(lacking) > _SHOWN else ""
        raise UserError(
            f"{where}: {slots} needs a solution, and {len(lacking)} of {len(problems)} problems have none "
            f"({', '.join(lacking[:_SHOWN])}{more}); add it to problems.train, or take another context, such "
            "as `answer`"
        )
    made = TeacherPrompts(where, template, tokenizer, prompts, problems, student_prompts)
    if made.follows_attempts:
        for name, problem in problems.items():
            for said in VERDICTS.values():
                made.checked(name, problem.solution or "", said)
        return made
    return replace(made, fixed={name: made.checked(name) for name in problems})


def _after(text: str, turn: str) -> str | None:
    """What the chat template puts after the user's message; None where the message isn't found in it."""
    _before, found, end = text.rpartition(turn.strip())
    return end if found else None


def _shown(end: str | None) -> str:
    return "an altered message" if end is None else repr(end)
