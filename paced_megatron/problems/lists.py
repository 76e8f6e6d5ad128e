"""All the problems of a configuration, and that none of those trained on is held out too."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from paced_megatron.config import ProblemsConfig
from paced_megatron.errors import UserError
from paced_megatron.problems.load import load_problems
from paced_megatron.problems.problem import Problem

SHOWN = 5  # ids in a message


@dataclass(frozen=True)
class ProblemLists:
    """Attributes:
    train: without those that `problems.overlap: drop` leaves out.
    test, forgetting: None where the configuration names none.
    dropped: ids of the training problems that were left out.
    """

    train: Sequence[Problem]
    test: Sequence[Problem] | None
    forgetting: Sequence[Problem] | None
    dropped: Sequence[str] = ()


def read_problem_lists(config: ProblemsConfig) -> ProblemLists:
    """Read them, each in its format.

    Raises:
        UserError: what `load_problems` says; or a training problem is among the held-out ones, and
            `problems.overlap` is not `drop`.
    """
    train = load_problems(config.train, config.fields, config.format)
    test = config.test and load_problems(config.test, config.fields, config.test_format)
    forgetting = config.forgetting and load_problems(
        config.forgetting, config.fields, config.forgetting_format
    )
    dropped: list[str] = []
    for key, held_out in (("test", test), ("forgetting", forgetting)):
        shared = shared_problems(train, held_out or [])
        if shared and config.overlap == "refuse":
            pairs = ", ".join(f"{own} is {other}" for own, other in shared[:SHOWN])
            more = f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
            raise UserError(
                f"problems.{key} has problems that are trained on: {pairs}{more} (by their text); take them "
                "out of problems.train, or set problems.overlap=drop to have that done"
            )
        dropped += [own for own, _ in shared]
    left_out = set(dropped)
    train = [problem for problem in train if problem.id not in left_out]
    if not train:
        raise UserError("problems.train: every problem is a held-out one too, so none is left to train on")
    return ProblemLists(train, test or None, forgetting or None, list(dict.fromkeys(dropped)))


def shared_problems(train: Sequence[Problem], held_out: Sequence[Problem]) -> list[tuple[str, str]]:
    """(id in `train`, id in `held_out`) of the problems whose texts say the same, in the order of `train`."""
    ids = {normalized(problem.problem): problem.id for problem in held_out}
    found = ((problem.id, ids.get(normalized(problem.problem))) for problem in train)
    return [(own, other) for own, other in found if other is not None]


# What changes how a problem looks and not what it asks. Signs stay: 2+3 is not 2-3.
_LOOKS = re.compile(r"\\(?:left|right|displaystyle|limits|q?quad)(?![A-Za-z])|\\[()\[\],;:! ]|[$~]|\s+")
_FRACTION = re.compile(r"\\[dt]frac(?![A-Za-z])")


def normalized(text: str) -> str:
    """A problem's text in its plainest spelling."""
    plain = unicodedata.normalize("NFKC", text).strip()
    return _LOOKS.sub("", _FRACTION.sub(r"\\frac", plain)).casefold().rstrip(".?!")
