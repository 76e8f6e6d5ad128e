"""Which measurements a configuration asks for, each time a student is evaluated."""

from __future__ import annotations

from paced_megatron.config import Config
from paced_megatron.evaluation.accuracy import FORGETTING, GREEDY, SAMPLED, TEST


def problem_sets(config: Config) -> list[str]:
    """The sets that are evaluated on, as `EvaluationRow.problem_set` calls them."""
    paths = {TEST: config.problems.test, FORGETTING: config.problems.forgetting}
    return [name for name, path in paths.items() if path is not None]


def planned(config: Config) -> list[tuple[str, str]]:
    """(problem set, decoding) of every row that an evaluation adds to evaluation.json."""
    decodings = [SAMPLED, GREEDY] if config.evaluation.greedy else [SAMPLED]
    return [(problem_set, decoding) for problem_set in problem_sets(config) for decoding in decodings]
