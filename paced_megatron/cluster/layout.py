"""How a recipe's ranks are laid over nodes, and what else slurm/submit.sh has to know of it, as lines that
bash can source.

    python -m paced_megatron.cluster.layout --ranks-per-node 8 recipe.yaml [key=value ...]

    WORLD_SIZE=16        ranks of the job, a teacher's own among them
    NODES=2              of the layout that fills nodes best
    RANKS_PER_NODE=8
    RUN_DIR=/scratch/me/runs/first
    SERVED='run rollout' verbs for which a job starts SGLang servers

Exit code 2, with one line, for a mistake in the recipe.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from paced_megatron.cluster.servers import served_verbs
from paced_megatron.commands.options import add_overrides
from paced_megatron.config import Config
from paced_megatron.config.io import load_config
from paced_megatron.errors import UserError
from paced_megatron.exit_codes import DONE, USER_ERROR


def ranks_per_node(world_size: int, model_size: int, most: int) -> int:
    """The ranks on each node, all nodes alike: as many as possible up to `most`, of the numbers that divide
    `world_size`; if there are such, of those that keep every tensor-parallel group (`model_size` ranks) on
    one node, where its collectives are quickest."""
    divisors = [count for count in range(1, most + 1) if world_size % count == 0]
    whole_groups = [count for count in divisors if count % model_size == 0]
    return max(whole_groups or divisors)


def facts(config: Config, most: int) -> dict[str, str]:
    """NAME -> value, as above. `most` ranks have room on a node."""
    on_node = ranks_per_node(config.world_size, config.parallel.tensor_model_parallel_size, most)
    return {
        "WORLD_SIZE": str(config.world_size),
        "NODES": str(config.world_size // on_node),
        "RANKS_PER_NODE": str(on_node),
        "RUN_DIR": str(config.run_dir.resolve()),
        "SERVED": " ".join(served_verbs(config)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the facts; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, metavar="RECIPE", help="the run's YAML file")
    parser.add_argument("--ranks-per-node", type=int, required=True, metavar="N", help="N at most")
    add_overrides(parser)
    options = parser.parse_args(argv)
    try:
        if options.ranks_per_node < 1:
            raise UserError(f"--ranks-per-node {options.ranks_per_node}: must be at least 1")
        found = facts(load_config(options.config, options.overrides), options.ranks_per_node)
    except UserError as error:
        print(f"paced: {error}", file=sys.stderr)
        return USER_ERROR
    for name, value in found.items():
        print(f"{name}={shlex.quote(value)}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
