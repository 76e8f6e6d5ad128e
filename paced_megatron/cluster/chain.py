"""The jobs of a chain: each phase of each stage one, for queues whose limit is shorter than a run.

    python -m paced_megatron.cluster.chain RECIPE [key=value ...]

prints a line `VERB STAGE` for each job, in the order in which they depend on one another. Together they do
what `paced run` does (run.py), but for the report, which needs no allocation: `paced report RUN`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from paced_megatron.config import Config
from paced_megatron.config.io import load_config
from paced_megatron.errors import UserError
from paced_megatron.exit_codes import DONE, USER_ERROR


def links(config: Config) -> Iterator[tuple[str, int]]:
    """(verb, stage) of each job. A phase that would do nothing gets no turn in the queue."""
    tested, settings = config.problems.test is not None, config.evaluation
    lm_eval = bool(settings.forgetting_tasks)
    for number, stage in enumerate(config.stages, start=1):
        is_last = number == len(config.stages)
        yield "rollout", number
        yield "weigh", number
        if stage.text == "responses":
            yield "respond", number
        if number == 1 and (tested or lm_eval):
            yield "evaluate-before", number
        yield "train", number
        yield "export", number
        if tested or (is_last and (settings.pass_rates_after or lm_eval)):
            yield "evaluate", number


def main(argv: Sequence[str]) -> int:
    recipe, *overrides = argv
    try:
        config = load_config(Path(recipe), overrides)
    except UserError as error:
        print(f"paced: {error}", file=sys.stderr)
        return USER_ERROR
    for verb, stage in links(config):
        print(verb, stage)
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
