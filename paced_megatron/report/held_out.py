"""The texts of held-out problems, which a run's folder does not keep: from the files that it began with."""

from __future__ import annotations

from typing import Any

from paced_megatron.config import ProblemsConfig
from paced_megatron.errors import UserError
from paced_megatron.evaluation.accuracy import FORGETTING, TEST
from paced_megatron.problems.load import load_problems
from paced_megatron.problems.rows import HUB


def held_out_problems(config: ProblemsConfig) -> dict[str, dict[str, dict[str, Any]]]:
    """Problem set -> problem id -> its `problem` and `answer`, as the file says them now.

    A set of the hub is not asked for, and a file that is gone or is none any more has nothing: a report says
    what a run's folder says, and this only makes it easier to read.
    """
    found = {}
    for name, source, format in (
        (TEST, config.test, config.test_format),
        (FORGETTING, config.forgetting, config.forgetting_format),
    ):
        if source is None or source.startswith(HUB):
            continue
        try:
            problems = load_problems(source, config.fields, format)
        except UserError:
            continue
        found[name] = {each.id: {"problem": each.problem, "answer": each.answer} for each in problems}
    return found
