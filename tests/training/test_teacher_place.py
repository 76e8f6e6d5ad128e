"""Where the teacher runs, which rows of its head go where, and who sends what: arithmetic, without
processes."""

from __future__ import annotations

import dataclasses

import torch
from safetensors.torch import load_file

from paced_megatron.models.families import model_shape
from paced_megatron.runtime.layout import Layout
from paced_megatron.training.teacher_handover import parcels
from paced_megatron.training.teacher_head import HeadCut
from tiny_models import make_tiny_qwen3


def test_ranks_are_in_megatrons_order_tensor_then_data_then_pipeline():
    layout = Layout(tp=2, pp=2, dp=3, first_rank=4)
    assert list(layout.ranks) == list(range(4, 16))
    assert [layout.last_stage(copy) for copy in range(3)] == [[10, 11], [12, 13], [14, 15]]
    assert [layout.copy_of(rank) for rank in (3, 4, 7, 9, 12)] == [None, 0, 1, 2, 1]
    assert [layout.is_last_stage(rank) for rank in (3, 9, 10, 15, 16)] == [False, False, True, True, False]
    assert [layout.tp_rank(rank) for rank in (4, 7, 10)] == [0, 1, 0]


def test_the_copies_share_all_of_the_work_and_each_piece_is_done_once():
    for copies in (1, 2, 3, 5):
        layout = Layout(1, 1, copies)
        for count in (0, 1, 4, 7):
            shares = [layout.copies_share(copy, count) for copy in range(copies)]
            assert [piece for share in shares for piece in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_in_one_layout_nobody_sends_anything_in_a_full_batch():
    layout = Layout(2, 2, 2)
    sent = parcels(dict.fromkeys(range(6), 3), {n: n // 3 for n in range(6)}, layout, layout)
    assert all(parcel.source_of(target) == target for parcel in sent for target in parcel.targets)


def test_every_target_has_a_source_that_made_it_and_the_sources_share_the_sending():
    students, teachers = Layout(4, 1, 1), Layout(2, 1, 1, first_rank=4)
    (parcel,) = parcels({5: 7}, {5: 0}, teachers, students)
    assert parcel.index == 5 and parcel.rows == 7
    assert [parcel.source_of(target) for target in parcel.targets] == [4, 5, 4, 5]


def _cut(tmp_path, teacher_vocabulary: int, layout: Layout, students: Layout, rank: int) -> HeadCut:
    teacher, student = (
        model_shape(make_tiny_qwen3(tmp_path / name, seed=1, vocab_size=size))
        for name, size in (("teacher", teacher_vocabulary), ("student", 301))
    )
    return HeadCut(teacher, student, layout, students, rank)


def test_the_head_is_cut_at_the_students_boundaries_where_they_differ_and_read_from_the_folder(tmp_path):
    students, teachers = Layout(2, 1, 1), Layout(1, 2, 1)
    second = _cut(tmp_path, 290, teachers, students, 1)  # the student's shards have 151 rows
    assert second.needed == range(151, 290)
    assert second.second_rows == 139 and second.drops_own
    whole = second.read(tmp_path / "teacher", torch.empty(0, dtype=torch.float64))
    wanted = load_file(tmp_path / "teacher" / "model.safetensors")["lm_head.weight"][151:290]
    assert torch.equal(whole, wanted.double())


def test_where_the_models_own_rows_begin_alike_they_serve_and_there_is_no_second_copy(tmp_path):
    both = Layout(2, 1, 1)
    first, second = (_cut(tmp_path, 290, both, both, rank) for rank in (0, 1))
    assert first.needed == range(0, 151) and not first.model_has_it  # its own part ends at 145
    assert second.needed == range(151, 290) and not second.model_has_it  # its own part begins at 145
    alike = _cut(tmp_path, 302, both, both, 1)
    assert alike.needed == range(151, 301) and alike.model_has_it and alike.second_rows == 0


def test_a_rank_without_the_students_head_needs_nothing_and_one_with_padding_only_no_row(tmp_path):
    students, teachers = Layout(1, 2, 1), Layout(2, 1, 1)
    assert _cut(tmp_path, 301, teachers, students, 0).needed is None
    assert _cut(tmp_path, 301, teachers, students, 1).needed == range(301)
    cut = _cut(tmp_path, 301, Layout(1, 2, 1), Layout(2, 1, 1), 1)
    small = dataclasses.replace(cut, teacher=dataclasses.replace(cut.teacher, vocab_size=150))
    assert small.needed == range(150, 150) and small.second_rows == 0
