"""Packing: every text once, no bin too full, few bins, even loads."""

from __future__ import annotations

import numpy as np
import pytest

from paced_megatron.errors import UserError
from paced_megatron.training.packing import deal, pack


def loads(bins: list[list[int]], sizes: list[int]) -> list[int]:
    return [sum(sizes[index] for index in one) for one in bins]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("multiple", [1, 4])
def test_every_text_is_in_one_bin_and_no_bin_is_too_full(seed, multiple):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 101, size=random.integers(1, 60)).tolist()
    bins = pack(sizes, 100, multiple)
    assert sorted(index for one in bins for index in one) == list(range(len(sizes)))
    assert max(loads(bins, sizes)) <= 100
    assert len(bins) % multiple == 0
    # First-fit-decreasing: at most 11/9 of the best (Dósa 2007), which is at least the sum over the capacity;
    # and never more than half-full bins would be.
    assert len(bins) <= 2 * sum(sizes) / 100 + multiple


def test_loads_are_even_where_there_is_room():
    sizes = [9, 8, 7, 6, 5, 4, 3, 2]  # 44 tokens: three bins of 20 hold them
    assert sorted(loads(pack(sizes, 20), sizes)) == [13, 15, 16]  # first fit alone gives 20, 20 and 4


def test_the_first_fit_is_kept_where_the_emptiest_bin_would_be_too_full():
    sizes = [5, 5, 3, 3, 3]  # the emptiest first: 5 + 3 + 3 and 5 + 3; first fit: 5 + 5 and 3 + 3 + 3
    assert loads(pack(sizes, 10), sizes) == [10, 9]


def test_replicas_get_as_many_bins_and_nearly_as_many_tokens():
    loads = [10, 9, 8, 7, 2, 1]
    shares = deal(loads, 2)
    assert sorted(shares[0] + shares[1]) == list(range(6))
    assert [sum(loads[index] for index in share) for share in shares] == [19, 18]


def test_a_text_that_fits_no_bin_is_refused():
    with pytest.raises(
        UserError, match=r"a text of 11 tokens does not fit training.pack_length=10; raise it"
    ):
        pack([3, 11], 10)


def test_no_text_makes_no_bin():
    assert pack([], 10) == []
