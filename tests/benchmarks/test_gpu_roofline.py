"""What is predicted for a GPU, counted by hand, and what the divergence's benchmark says of its goals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.gpu.divergence_goals import verdicts
from benchmarks.gpu.roofline import Ceilings, Size, bytes_allowed, predict, table

SIZE = Size(tokens=6, student=3, teacher=5, vocabulary=7)
ONLY_BYTES = Ceilings(flops=math.inf, bandwidth=1.0)
ONLY_ARITHMETIC = Ceilings(flops=1.0, bandwidth=math.inf)


def test_the_floor_is_the_arithmetic_of_four_products_where_bytes_cost_nothing() -> None:
    flops = 2 * 6 * 7 * (3 + 5 + 3 + 3)
    made = predict(SIZE, 2, ONLY_ARITHMETIC)
    assert SIZE.flops == flops and made.floor == made.products == made.all_arithmetic == flops
    assert made.in_turns == made.side_by_side == 1.0


def test_bytes_are_counted_by_operand_and_result_where_arithmetic_costs_nothing() -> None:
    """By hand: bf16 is 2 bytes, a logit 4, the head's gradient 4 and read again from the second chunk on."""

    def products(tokens: int, of_head: int) -> int:
        student_logits = 2 * (tokens + 7) * 3 + 4 * tokens * 7
        teacher_logits = 2 * (tokens + 7) * 5 + 4 * tokens * 7
        hidden_gradient = 2 * tokens * 7 + 2 * 7 * 3 + 2 * tokens * 3
        head_gradient = 2 * tokens * 7 + 2 * tokens * 3 + of_head
        return student_logits + teacher_logits + hidden_gradient + head_gradient

    whole = predict(SIZE, 6, ONLY_BYTES)
    assert whole.floor == whole.products == products(6, 4 * 7 * 3)
    assert whole.elementwise == (8 + 10) * 6 * 7
    assert whole.handing_out == (4 + 2 + 2 + 2) * 7 * 3
    chunked = predict(SIZE, 4, ONLY_BYTES)  # two chunks, of three tokens each
    assert chunked.floor == whole.floor
    assert chunked.products == products(3, 4 * 7 * 3) + products(3, 8 * 7 * 3)
    total = chunked.products + chunked.elementwise + chunked.handing_out
    assert chunked.in_turns == pytest.approx(total / whole.floor)
    assert chunked.side_by_side == pytest.approx(total / whole.floor)
    assert bytes_allowed(SIZE, ONLY_BYTES) == pytest.approx(0.1 * whole.floor / 42)


def test_a_product_takes_the_longer_of_the_two_and_passes_between_them_come_on_top() -> None:
    both = Ceilings(flops=1.0, bandwidth=1.0)
    made = predict(SIZE, 6, both)
    each = [2 * 6 * 7 * width for width in (3, 5, 3, 3)]
    least = [2 * 13 * 3 + 168, 2 * 13 * 5 + 168, 84 + 42 + 36, 84 + 36 + 84]
    assert made.floor == sum(max(pair) for pair in zip(each, least, strict=True))
    assert made.in_turns == pytest.approx((made.floor + 18 * 42 + 10 * 21) / made.floor)
    assert made.side_by_side == pytest.approx((sum(least) + 18 * 42 + 10 * 21) / made.floor)


@pytest.mark.parametrize("text", ["8192", "8192x", "ax16", "8x16/8", "0x16", "8x16/", "8x"])
def test_a_size_that_cannot_be_is_refused_and_one_that_can_is_read(text: str) -> None:
    if text == "8x16/":
        assert Size.parse(text, 7) == Size(8, 16, 16, 7)
        return
    with pytest.raises(ValueError, match="is not N x H_s"):
        Size.parse(text)


def test_a_size_is_written_as_it_is_read() -> None:
    for text in ("8192x1024", "8192x1024/2048"):
        assert str(Size.parse(text)) == text
    assert Size.parse("8192x1024/2048", 9) == Size(8192, 1024, 2048, 9)


def test_the_table_calls_itself_predicted_and_leaves_out_chunks_longer_than_the_text() -> None:
    lines = table([replace(SIZE, tokens=600)], chunks=(256, 512, 1024)).splitlines()
    assert lines[0].startswith("predicted, not measured") and len(lines) == 3
    assert lines[2].split()[0] == "600x3/5" and lines[2].count("(") == 2 and " - " in lines[2]


def row(variant: str, median: str, over: str = "", **other: str) -> dict[str, str]:
    usual = {
        "N": "8192",
        "H_s": "4",
        "H_t": "4",
        "V": "9",
        "divergence": "jsd",
        "grad_rel_error": "0.1",
        "note": "",
    }
    return usual | {"variant": variant, "median_ms": median, "over_floor": over} | other


def test_the_goals_are_those_of_the_size_the_peers_and_the_divergence() -> None:
    said = verdicts(
        [
            row("ours", "11", "1.10"),
            row("torch", "12"),
            row("liger_fused_jsd", "11.7"),
            row("trl_chunked", "11.5", grad_rel_error="0.2"),
            row("torch_compile", "", note="out of memory"),
            row("ours_torch", "1"),
            row("liger_chunked", "2", divergence="forward_kl"),
            row("torch", "3", N="4096"),
            row("ours", "4", "1.5", N="4096"),
            row("ours", "5", "1.11", H_s="2"),
            row("torch", "5", H_s="2"),
        ]
    )
    assert said[0] == "<= 1.10 x floor   8192x4 jsd: met, 1.10"
    assert said[1] == "<= 1.10 x floor   8192x2/4 jsd: not met, 1.11" and len(said) == 5
    assert said[2].startswith("ahead of all peers 8192x4 jsd: met, 11 ms against 11.5 ms of trl_chunked")
    assert "(errors 0.1 and 0.2)" in said[2] and said[2].endswith("; without torch_compile (out of memory)")
    assert said[3].startswith("ahead of all peers 4096x4 jsd: not met, 4 ms against 3 ms of torch")
    assert said[4].startswith("ahead of all peers 8192x2/4 jsd: not met")


def test_what_was_not_measured_meets_no_goal() -> None:
    said = verdicts([row("ours", "", note="out of memory"), row("torch", "12")])
    assert said[0].endswith("not measured (out of memory)") and said[1].endswith(
        "not measured (out of memory)"
    )
    said = verdicts([row("ours", "3", "1.0", N="64"), row("torch", "", note="failed", N="64")])
    assert said[0].endswith("not measured, no such size in this run")
    assert said[1].endswith("not measured, no peer was; without torch (failed)")
