"""The plan against the GPUs that a job has found, and what it proposes. Sizes are made up: here is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paced_megatron.models.families import model_shape
from paced_megatron.plan.memory import memory_by_stage
from paced_megatron.plan.remedies import remedies
from paced_megatron.plan.rollouts import BETWEEN_STEPS, EVALUATION, RESPONSES, ROLLOUTS, Rollouts
from paced_megatron.plan.room import GB, MARGIN, room_on
from paced_megatron.plan.search import peak_bytes
from paced_megatron.plan.work import Layout, Work
from paced_megatron.runtime.gpus import Gpu

CONFIGS = Path(__file__).parents[1] / "data" / "configs"


@pytest.fixture
def work(tmp_path) -> Work:
    """Qwen3-0.6B and 1.7B on one GPU, long texts, several in a micro-batch."""
    shapes = []
    for name in ("Qwen3-0.6B", "Qwen3-1.7B"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text((CONFIGS / f"{name}.json").read_text())
        shapes.append(model_shape(tmp_path / name))
    return Work(
        student=shapes[0],
        teacher=shapes[1],
        layout=Layout(),
        params_dtype="bfloat16",
        micro_batch_size=4,
        global_batch_size=32,
        prompt_tokens=512,
        response_tokens=2048,
        fused=True,
        rollouts=Rollouts(batch_size=64, text_tokens=2560, element=2, responds=shapes[1]),
    )


def gpu(total: float, free: float | None = None) -> Gpu:
    return Gpu("Card", total, total if free is None else free)


def test_far_over_is_over_near_is_said_and_half_is_nothing(work):
    peak = peak_bytes(work)
    over = room_on([gpu(peak / (1.05 + MARGIN))], [work], "everything")
    near = room_on([gpu(peak / 1.05)], [work], "everything")
    assert over.is_over and not near.is_over
    assert room_on([gpu(peak / 0.95)], [work], "everything") is not None  # hardly
    assert room_on([gpu(peak / 0.85)], [work], "everything") is None


def test_the_line_has_the_sizes_the_largest_parts_and_the_texts(work):
    peak = peak_bytes(work)
    (stage,) = memory_by_stage(work)
    says = room_on([gpu(peak / 2)], [work], "everything").says
    assert f"the GPU of rank 0 (Card) has {peak / 2 / GB:.1f} GB" in says and "in use" not in says
    assert f"takes up to {peak / GB:.1f} GB" in says and "texts of 512 + 2048 tokens" in says
    assert f"in the turn of {stage.largest_turn}" in says
    largest = max(stage.turns[stage.largest_turn].items(), key=lambda part: part[1])
    assert f"{largest[0]} {largest[1] / GB:.1f}" in says


def test_what_others_have_of_a_gpu_is_missing_and_said(work):
    peak = peak_bytes(work)
    says = room_on([gpu(2 * peak, free=peak / 2)], [work], "everything").says
    assert f"of which {1.5 * peak / GB:.1f} GB are in use already" in says
    assert room_on([gpu(2 * peak, free=1.9 * peak)], [work], "everything") is None


def test_the_fullest_rank_of_all_is_named_by_its_pipeline_stage(work):
    work = work.at(Layout(pipeline_model_parallel_size=2, data_parallel_size=2))
    roomy = gpu(10 * peak_bytes(work))
    stages = memory_by_stage(work)
    gpus = [roomy, roomy, roomy, gpu(stages[1].peak / 2)]
    says = room_on(gpus, [work], "everything").says
    assert says.startswith("the GPU of rank 3 ") and f"{stages[1].peak / GB:.1f} GB of it" in says


def test_a_verb_is_compared_by_its_own_turns_alone(work):
    huge = replace(work, rollouts=Rollouts(batch_size=4096, text_tokens=2560, element=2))
    (stage,) = memory_by_stage(huge)
    assert stage.largest_turn == ROLLOUTS
    room = gpu(peak_bytes(replace(work, rollouts=None)) * 1.2)
    assert room_on([room], [huge], "rollouts").is_over
    assert room_on([room], [huge], "training") is None
    assert room_on([gpu(1.0)], [replace(work, rollouts=None)], "rollouts") is None  # another machine's


def test_each_key_that_is_proposed_does_by_itself_what_it_says(work):
    limit = 0.8 * peak_bytes(work)
    found = remedies(work, limit)
    assert {key for one in found for key in one.keys} >= {"training.micro_batch_size=1"}
    for one in found:
        assert len(one.keys) == 1 and one.peak <= limit
    micro = next(one for one in found if one.keys == ("training.micro_batch_size=1",))
    assert micro.peak == peak_bytes(replace(work, micro_batch_size=1))


def test_where_no_key_does_alone_several_are_proposed_together_and_where_none_do_nothing(work):
    together = replace(
        work,
        micro_batch_size=1,
        teacher_offload=True,
        offload=True,
        loss_workspace_mb=256.0,
        layout=Layout(recompute_granularity="full"),
        rollouts=replace(work.rollouts, batch_size=16),
    )
    least = peak_bytes(together)
    (found,) = remedies(work, least * 1.0001)
    assert len(found.keys) > 1 and "training.recompute_granularity=full" in found.keys
    assert found.peak <= least * 1.0001
    assert remedies(work, least / 4) == []
    (found,) = remedies(work, peak_bytes(replace(together, rollouts=work.rollouts)) * 0.99)
    # What isn't needed is left out, what costs most first.
    assert found.keys == ("rollout.batch_size=16", "training.micro_batch_size=1")


def test_what_a_run_has_already_or_cannot_have_is_not_proposed(work):
    bare = replace(
        work,
        micro_batch_size=1,
        loss_workspace_mb=64.0,
        teacher_kind="ema",
        teacher=work.student,
        rollouts=None,
        layout=Layout(recompute_granularity="full"),
    )
    assert remedies(bare, peak_bytes(bare) / 2) == [] and remedies(bare, peak_bytes(bare) * 2) == []


def test_where_no_key_does_a_layout_of_more_gpus_is_named(work):
    work = replace(work, rollouts=None)  # an engine has all of a model on one
    says = room_on([gpu(peak_bytes(work) / 6)], [work], "everything").says
    assert "it would fit on" in says and "GPUs: tensor_model_parallel_size" in says


def test_padded_texts_on_a_gpu_keep_what_packed_ones_do_and_nothing_grows_with_the_square(work):
    from paced_megatron.plan.activations import forward_workspace, layer_bytes

    shape = work.student
    one = replace(work, micro_batch_size=1)
    assert layer_bytes(shape, one) == layer_bytes(shape, replace(one, pack_length=2560))
    twice = replace(one, prompt_tokens=1024, response_tokens=4096)
    assert layer_bytes(shape, twice) == pytest.approx(2 * layer_bytes(shape, one))
    assert forward_workspace(shape, twice, 1) == pytest.approx(2 * forward_workspace(shape, one, 1))
    plain = replace(one, fused=False)
    scores = layer_bytes(shape, plain) - layer_bytes(shape, replace(plain, pack_length=2560))
    # The softmax in float32 and its copy in bfloat16, 16 heads; the rest of the difference is linear.
    assert scores == pytest.approx(16 * 2560**2 * 6, rel=0.05)


def test_a_layer_on_a_gpu_keeps_what_its_fused_functions_keep(work):
    # By torch's fake tensors on "cuda" (torch 2.11, Megatron-Core 0.19.2) a layer of Qwen3-0.6B keeps 56,488
    # bytes for a packed token, each storage counted once; on the CPU half as much again and more.
    from paced_megatron.plan.activations import layer_bytes

    packed = replace(work, micro_batch_size=1, pack_length=2560)
    assert layer_bytes(work.student, packed) / packed.tokens == pytest.approx(56_488, rel=0.05)
    plain = replace(packed, fused=False)
    assert layer_bytes(work.student, plain) > 1.5 * layer_bytes(work.student, packed)


def test_a_process_takes_an_allowance_of_a_gpu_and_none_of_main_memory(work):
    (alone,) = memory_by_stage(work)
    (both,) = memory_by_stage(work.at(Layout(data_parallel_size=2)))
    (cpu,) = memory_by_stage(replace(work, device="cpu"))
    assert sum(alone.outside.values()) == GB and sum(both.outside.values()) == 2 * GB and not cpu.outside
    for turn in alone.turns:  # rollouts too
        lasting = 0.0 if turn in (ROLLOUTS, RESPONSES) else sum(alone.lasting.values())
        assert alone.in_turn(turn) == pytest.approx(GB + lasting + sum(alone.turns[turn].values()))


def test_the_engine_is_counted_with_whom_it_samples_and_how_long_and_on_rank_0_alone(work):
    """A teacher on its own layout is no reason to refuse rollouts that never load it, nor is another GPU."""
    student, teacher = work.student, work.teacher
    sampled = replace(
        work, rollouts=replace(work.rollouts, responds=None, evaluated_tokens=4608, between_steps=2560)
    )
    (stage,) = memory_by_stage(sampled)
    assert RESPONSES not in stage.turns
    assert stage.turns[EVALUATION]["engine's KV cache"] == 1.8 * stage.turns[ROLLOUTS]["engine's KV cache"]
    (both,) = memory_by_stage(work)
    assert EVALUATION not in both.turns and BETWEEN_STEPS not in both.turns
    assert both.in_turn(RESPONSES) > both.in_turn(ROLLOUTS) == stage.in_turn(ROLLOUTS)
    sizes = {
        turn: (both.in_turn(turn) if turn == RESPONSES else stage.in_turn(turn))
        for turn in (ROLLOUTS, RESPONSES, EVALUATION)
    }
    for turn, size in sizes.items():
        of_turn = work if turn == RESPONSES else sampled
        assert room_on([gpu(size / 1.2)], [of_turn], turn).is_over, turn
        assert room_on([gpu(size / 0.85)], [of_turn], turn) is None, turn
    assert student != teacher
    says = room_on([gpu(sizes[EVALUATION] / 1.2)], [sampled], EVALUATION).says
    assert "in the turn of evaluation, with texts of 512 + 4096 tokens" in says
    two = sampled.at(Layout(data_parallel_size=2))
    assert room_on([gpu(2 * sizes[EVALUATION]), gpu(GB)], [two], ROLLOUTS) is None
    assert room_on([gpu(GB), gpu(2 * sizes[EVALUATION])], [two], ROLLOUTS).is_over


def test_what_sleeps_between_steps_is_not_counted_beside_the_engine(work):
    on_policy = replace(work, rollouts=replace(work.rollouts, responds=None, between_steps=2560))
    (awake,) = memory_by_stage(on_policy)
    (asleep,) = memory_by_stage(replace(on_policy, offload=True, teacher_offload=True))
    sampling = sum(awake.turns[BETWEEN_STEPS].values())
    assert awake.in_turn(BETWEEN_STEPS) == pytest.approx(GB + sampling + sum(awake.lasting.values()))
    stay = awake.lasting["weights"] + awake.lasting["gradients"]
    assert asleep.in_turn(BETWEEN_STEPS) == pytest.approx(GB + sampling + stay)
    assert "optimizer state" not in asleep.parts_in(BETWEEN_STEPS)
    assert "optimizer state" in asleep.parts_in("student")


def test_the_stage_that_takes_most_in_these_turns_is_compared_whatever_others_take_in_another(work):
    """The one with the largest peak of all need not be it: here an engine's."""
    sampling = replace(work, rollouts=replace(work.rollouts, batch_size=4096))
    training = replace(work, micro_batch_size=16, rollouts=None)
    assert peak_bytes(sampling) > peak_bytes(training) > 1.5 * peak_bytes(replace(sampling, rollouts=None))
    card = gpu(peak_bytes(training) / 1.2)
    for works in ([sampling, training], [training, sampling]):
        assert room_on([card], works, "training").is_over
    assert room_on([card], [sampling], "training") is None


def test_a_teacher_on_ranks_of_its_own_is_compared_with_their_gpus(work):
    work = replace(work, rollouts=None).at(
        Layout(tensor_model_parallel_size=2, teacher_tensor_model_parallel_size=2, teacher_own_copies=1)
    )
    students, teachers = memory_by_stage(work)
    assert teachers.stage is None
    roomy, small = gpu(2 * students.peak), gpu(teachers.peak / 1.2)
    assert room_on([roomy] * 3 + [gpu(teachers.peak / 0.85)], [work], "training") is None
    verdict = room_on([roomy] * 3 + [small], [work], "training")
    assert verdict.is_over
    assert verdict.says.startswith("the GPU of rank 3, of the teacher alone (Card) has ")
    assert "in the turn of teacher, " in verdict.says and "teacher's weights " in verdict.says
    for turns in (ROLLOUTS, RESPONSES, EVALUATION):  # sampled from elsewhere
        assert room_on([roomy] * 3 + [small], [work], turns) is None


def test_a_teacher_that_has_ranks_of_its_own_and_too_few_is_told_how_many_it_takes(work):
    work = replace(work, rollouts=None, micro_batch_size=1, loss_workspace_mb=256.0).at(
        Layout(recompute_granularity="full", teacher_own_copies=1)
    )
    students, teachers = memory_by_stage(work)
    verdict = room_on([gpu(2 * students.peak), gpu(teachers.peak / 1.5)], [work], "training")
    keys = "with teacher.tensor_model_parallel_size=4 teacher.pipeline_model_parallel_size=1 and the GPUs"
    assert verdict.is_over and keys in verdict.says
    wider = work.at(replace(work.layout, teacher_tensor_model_parallel_size=4))
    assert room_on([gpu(2 * students.peak)] + [gpu(teachers.peak / 1.5)] * 4, [wider], "training") is None
