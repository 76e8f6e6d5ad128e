"""What a run's mistake becomes in an experiment: experiments/compare.py."""

from __future__ import annotations

import pytest

from paced_megatron.errors import UserError
from paced_megatron.experiments.compare import _named
from paced_megatron.runtime.out_of_memory import OutOfMemory


@pytest.mark.parametrize("kind", [UserError, OutOfMemory])
def test_a_mistake_says_in_which_run_and_a_lack_of_memory_stays_one(kind: type[UserError]) -> None:
    """By its type a rank on a GPU ends at once, in place of leaving communicators in which others wait."""
    with pytest.raises(UserError, match=r"^arm paced, seed 3: too much$") as caught, _named("paced", 3):
        raise kind("too much")
    assert type(caught.value) is kind
