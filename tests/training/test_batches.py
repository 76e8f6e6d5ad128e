"""Batches: order, positions of the response's predictions, and the one division."""

from __future__ import annotations

import pytest
import torch

from paced_megatron.training.batches import Batching, batch_order, micro_batches
from paced_megatron.training.examples import Example


def example(name: str, prompt: list[int], response: list[int], weight: float, teacher_prompt=None) -> Example:
    return Example(name, tuple(prompt), tuple(teacher_prompt or prompt), tuple(response), weight)


EXAMPLES = [
    example("a", [1, 2, 3], [4, 5], 2.0, teacher_prompt=[9, 9, 1, 2, 3]),
    example("b", [6], [7, 8, 9], 0.5),
    example("c", [1, 1], [2], 1.0),
]


def settings(**changes):
    return Batching(**{"normalization": "problems", "global_batch_size": 4, "micro_batch_size": 2} | changes)


def test_an_epoch_has_every_example_once_and_the_next_one_another_order():
    steps = [batch_order(10, 4, step, seed=7) for step in range(5)]
    stream = [index for batch in steps for index in batch]
    assert all(len(batch) == 4 for batch in steps)
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    assert stream[:10] != [i for step in range(3) for i in batch_order(10, 4, step, seed=8)][:10]


def test_a_batch_may_be_larger_than_the_set():
    assert sorted(batch_order(3, 7, 0, seed=1)) == sorted([0, 1, 2] * 2 + [batch_order(3, 7, 0, seed=1)[6]])


def test_positions_are_those_before_each_response_token_in_the_flattened_hidden_states():
    [[first, second]] = micro_batches(EXAMPLES, settings())
    # Hidden states are [s, b, H], so position t of row r is t * 2 + r.
    assert first.student.tokens.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]]
    assert first.student.positions.tolist() == [2 * 2, 3 * 2, 0 * 2 + 1, 1 * 2 + 1, 2 * 2 + 1]
    assert first.teacher.tokens.tolist() == [[9, 9, 1, 2, 3, 4, 5], [6, 7, 8, 9, 0, 0, 0]]
    assert first.teacher.positions.tolist() == [4 * 2, 5 * 2, 0 * 2 + 1, 1 * 2 + 1, 2 * 2 + 1]
    assert first.labels.tolist() == [4, 5, 7, 8, 9]
    assert second.student.positions.tolist() == [1]
    for rows in (first.student, first.teacher):
        predicted = rows.tokens.t().flatten()[rows.positions + rows.tokens.shape[0]]
        assert predicted.tolist() == first.labels.tolist()


def test_a_mean_over_problems_divides_by_the_configured_number_and_by_the_length():
    [[first, second]] = micro_batches(EXAMPLES, settings())
    torch.testing.assert_close(
        first.coefficients, torch.tensor([2 / 8, 2 / 8, 0.5 / 12, 0.5 / 12, 0.5 / 12], dtype=torch.float64)
    )
    assert second.coefficients.tolist() == [1 / 4]


def test_a_mean_over_tokens_divides_by_all_tokens_of_the_batch():
    [[first, second]] = micro_batches(EXAMPLES, settings(normalization="tokens"))
    expected = torch.tensor([2 / 6, 2 / 6, 0.5 / 6, 0.5 / 6, 0.5 / 6], dtype=torch.float64)
    torch.testing.assert_close(first.coefficients, expected)
    assert second.coefficients.tolist() == pytest.approx([1 / 6])


def test_data_parallel_ranks_share_the_batch_and_each_has_a_micro_batch():
    ranks = micro_batches(EXAMPLES, settings(data_parallel_size=4))
    names = [name for rank in ranks for micro_batch in rank for name in micro_batch.problem_ids]
    assert sorted(names) == ["a", "b", "c"]
    assert [len(rank) for rank in ranks] == [1, 1, 1, 1]
    assert ranks[3][0].labels.numel() == 0
    assert ranks[3][0].student.tokens.shape == (1, 1)


def test_all_replicas_have_as_many_micro_batches_in_the_number_that_interleaving_wants():
    replicas = micro_batches(EXAMPLES, settings(micro_batch_size=1, data_parallel_size=2, count_multiple=4))
    assert [len(replica) for replica in replicas] == [4, 4]
    assert sum(micro_batch.labels.numel() for replica in replicas for micro_batch in replica) == 6


def test_one_shape_pads_all_rows_to_the_longest_text_and_to_the_length_s_multiple():
    [one, two] = micro_batches(EXAMPLES, settings(one_shape=True, data_parallel_size=2, length_multiple=4))
    shapes = {
        rows.shape for [micro_batch] in (one, two) for rows in (micro_batch.student, micro_batch.teacher)
    }
    assert shapes == {(2, 8)}  # the longest is the teacher's 5 + 2
    [second] = two
    assert second.student.positions.tolist() == [0, 2, 4]  # b is 2, though it has one text


def test_packed_texts_stand_one_after_the_other_with_their_beginnings_and_the_padding_s():
    [[packed]] = micro_batches(EXAMPLES[:2], settings(micro_batch_size=1, pack_length=12))
    # The largest first: "a" has 5 + 2 tokens for the teacher, "b" 1 + 3.
    assert packed.problem_ids == ("a", "b")
    assert packed.student.tokens.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0]]
    assert packed.student.cu_seqlens.tolist() == [0, 5, 9, 12]
    assert packed.student.positions.tolist() == [2, 3, 5, 6, 7]
    assert packed.teacher.cu_seqlens.tolist() == [0, 7, 11, 12]
    assert packed.teacher.positions.tolist() == [4, 5, 7, 8, 9]
    assert packed.labels.tolist() == [4, 5, 7, 8, 9]
    assert packed.coefficients.tolist() == pytest.approx([2 / 8, 2 / 8, 0.5 / 12, 0.5 / 12, 0.5 / 12])


def test_a_bin_that_is_full_has_no_padding_and_an_empty_one_nothing_else():
    replicas = micro_batches(EXAMPLES[:1], settings(micro_batch_size=1, pack_length=7, data_parallel_size=2))
    [[full], [empty]] = replicas
    assert full.teacher.cu_seqlens.tolist() == [0, 7]
    assert empty.teacher.cu_seqlens.tolist() == [0, 7]
    assert empty.labels.numel() == 0
