"""A layout of more processes than the tests' pool has: `python -m models.layout_job FOLDER` on each rank.

The folder holds work.pickle, (layout, works) for `load_compute_save`; each rank writes its logits beside it.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch.distributed as dist
from torch import Tensor

from models.layout_ranks import At, Work, load_compute_save
from paced_megatron.runtime.launch import launch


def main() -> int:
    folder = Path(sys.argv[1])
    at, works = pickle.loads((folder / "work.pickle").read_bytes())
    dist.init_process_group("gloo")
    results = load_compute_save(dist.get_rank(), dist.get_world_size(), at, works)
    (folder / f"rank-{dist.get_rank()}.pickle").write_bytes(pickle.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
    return 0


def run_job(folder: Path, at: At, works: Sequence[Work]) -> list[list[Tensor | None]]:
    """What `pool.run(load_compute_save, ...)` gives, from processes of its own."""
    folder.mkdir()
    (folder / "work.pickle").write_bytes(pickle.dumps((at, works)))
    tests = Path(__file__).parents[1]
    with mock.patch.dict(os.environ, PYTHONPATH=f"{tests.parent}:{tests}"):
        code = launch([str(folder)], at.world_size, module="models.layout_job", log_dir=folder)
    assert code == 0, f"exit code {code}; see {folder}"
    return [pickle.loads((folder / f"rank-{rank}.pickle").read_bytes()) for rank in range(at.world_size)]


if __name__ == "__main__":
    sys.exit(main())
