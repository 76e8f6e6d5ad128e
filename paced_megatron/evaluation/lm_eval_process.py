"""What lm-eval does to the process that it runs in, and how that is kept from a run's rank 0."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

# Draws for the standard error of a metric that is no mean over documents (f1, mcc, perplexity, ...), which
# they leave uncertain by 2 %. lm-eval's own 100,000 are for all cores, and would take minutes on one.
BOOTSTRAP_DRAWS = 1000
_ALONE = "DISABLE_MULTIPROC"  # lm-eval's variable: its bootstrap in this process


@contextmanager
def alone() -> Iterator[None]:
    """Have lm-eval start no processes: it would fork one for each core of the machine, out of a process that
    has CUDA, NCCL's threads and a store's connection. What such a child inherits locked stays locked."""
    before = os.environ.get(_ALONE)
    os.environ[_ALONE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ALONE]
        else:
            os.environ[_ALONE] = before


@contextmanager
def random_states_kept() -> Iterator[None]:
    """lm-eval seeds everything, so that it measures alike each time; a run goes on with its own numbers."""
    import numpy
    import torch

    ours, numpys = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(ours)
        numpy.random.set_state(numpys)
