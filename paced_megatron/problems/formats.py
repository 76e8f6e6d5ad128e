"""How published problem sets are laid out: which column holds what, and what has to be taken off it.

A format is a row of `FORMATS`. The columns were read off code that uses these sets, not off the sets
themselves, which can't be reached from where this was written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Format:
    """Attributes:
    columns: our field -> its column, for those that differ; "a.b.0" is entry 0 of `b` in the object in
        column `a`. None: the file has no such field, whatever its columns are called.
    instruction: what is cut off the problem's text, as (before, after) it.
    level_prefix: what is cut off the level: "Level 5" becomes "5".
    answer_in_solution: a row without an answer has it in the last box of its solution.
    number_as_id: a row without an id is named by its place, from 1.
    repeated: rows of the same text are one problem; where their answers differ, it is left out.
    """

    columns: Mapping[str, str | None] = field(default_factory=dict)
    instruction: tuple[re.Pattern[str], re.Pattern[str]] | None = None
    level_prefix: str = ""
    answer_in_solution: bool = False
    number_as_id: bool = False
    repeated: bool = False


# DAPO's own instruction asks for a last line "Answer: ..."; the prompt template asks for what we score.
_DAPO_BEFORE = re.compile(
    r"\A\s*Solve the following math problem step by step\.[^\n]*\bAnswer: \$Answer\b[^\n]*\s*"
)
_DAPO_AFTER = re.compile(r"\s*Remember to put your answer on its own line after \"Answer:\"\.\s*\Z")
_DAPO = {"id": "extra_info.index", "answer": "reward_model.ground_truth", "solution": None}

# By problems.format, problems.test_format and problems.forgetting_format.
FORMATS: dict[str, Format] = {
    "plain": Format(),
    "numbered": Format(number_as_id=True),  # plain, and a row without an id is named by its number
    # BytedTsinghua-SIA/DAPO-Math-17k, as verl reads it: 1.8 million rows, each problem a hundred times.
    "dapo_math": Format({**_DAPO, "problem": "prompt.0.content"}, (_DAPO_BEFORE, _DAPO_AFTER), repeated=True),
    # open-r1/DAPO-Math-17k-Processed: the same without repeats and instruction; `solution` is the answer.
    "dapo_math_processed": Format({**_DAPO, "problem": "prompt", "answer": "solution"}, repeated=True),
    # Hendrycks' MATH (EleutherAI/hendrycks_math and copies): problem, level, type, solution.
    "math": Format(level_prefix="Level ", answer_in_solution=True, number_as_id=True),
    "math500": Format({"id": "unique_id"}),  # HuggingFaceH4/MATH-500
}
