"""A group of eight, the largest that the issue names: more workers than the session's pool has."""

from __future__ import annotations

import pytest

from divergence.cases import ONE_EACH, ROWS, VOCAB, Spec, run_all
from divergence.conformance import assert_conforms
from mutants.warm import new_worker
from pool import Pool, new_pool


@pytest.mark.parallel
def test_eight_ranks_equal_the_reference_though_the_last_holds_padding_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a pool of its own, whose workers are forked: eight imports of torch would be most of the time."""
    assert 7 * ROWS[8] >= VOCAB
    monkeypatch.setattr("pool.MAX_WORLD_SIZE", 8)
    monkeypatch.setattr(Pool, "_new_worker", new_worker)
    specs = [
        Spec(d, p, dtype, temperature=2.5, chunk=7, sequence_parallel=parallel)
        for (d, p), dtype, parallel in [(row, "float32", True) for row in ONE_EACH]
        + [(row, "float64", False) for row in ONE_EACH if row[0] != "akl"]
    ]
    with new_pool() as pool:
        by_rank = pool.run(run_all, 8, [(tuple(range(8)), specs)], timeout=120)
    for spec, outcomes in zip(specs, zip(*by_rank, strict=True), strict=True):
        assert_conforms(spec, list(outcomes))
