from __future__ import annotations

import json

import pytest

from paced_megatron.pacing import DiscountedCounts


def test_older_visits_count_less_by_the_discount_each_time() -> None:
    counts = DiscountedCounts(0.5)
    assert counts.update("a", 3, 4) == (3, 4)
    assert counts.update("a", 0, 4) == (1.5, 6)
    assert counts.update("b", 1, 2) == (1, 2)
    assert counts.update("a", 1, 4) == (0.75 + 1, 3 + 4)


def test_a_discount_of_0_keeps_the_newest_visit_alone_and_1_forgets_nothing() -> None:
    newest, all_of_them = DiscountedCounts(0.0), DiscountedCounts(1.0)
    for correct in (4, 2, 1):
        last, pooled = newest.update("a", correct, 4), all_of_them.update("a", correct, 4)
    assert last == (1, 4)
    assert pooled == (7, 12)


def test_a_visit_that_lies_the_half_life_back_counts_half() -> None:
    counts = DiscountedCounts(0.5**0.1)  # ln(1/2) / ln(discount) = 10 visits
    counts.update("a", 1, 1)
    for _ in range(10):
        correct, _ = counts.update("a", 0, 1)
    assert correct == pytest.approx(0.5, rel=1e-12)


def test_counts_written_as_json_go_on_to_the_last_bit() -> None:
    counts = DiscountedCounts(0.7)
    for correct in (1, 2, 0, 3):
        counts.update("a", correct, 3)
    again = DiscountedCounts.from_json(json.loads(json.dumps(counts.to_json())))
    assert again == counts
    assert again.update("a", 1, 3) == counts.update("a", 1, 3)


@pytest.mark.parametrize(
    "record",
    [{}, {"discount": 2.0, "counts": {}}, {"discount": 0.5, "counts": {"a": [3, 2]}}, {"discount": 0.5}],
)
def test_a_broken_record_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"discount|correct of"):
        DiscountedCounts.from_json(record)


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="problem a: 3 correct of 2"):
        DiscountedCounts(0.5).update("a", 3, 2)
