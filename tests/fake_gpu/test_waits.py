"""Where a step waits for the GPU, and that all of it is on the GPU: the real step, layout by layout, on a GPU
that isn't there (device.py says how, and why)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fake_gpu.steps import Case, examples, places, rank_on_gpu, take_step, trainer_on
from paced_megatron.config import ParallelConfig
from paced_megatron.training.token_weights import TokenWeights
from tiny_models import make_tiny_qwen3

# All of a step's waits, at its end: the batch's sums, which say whether the step may be taken; the gradient's
# norm; the last event of the timers, and their numbers. A new place fails the test: can it go without?
WAITS = Counter(
    {
        "read paced_megatron/training/step.py:accumulate_gradient": 1,
        "read megatron/core/optimizer/clip_grads.py:get_grad_norm_fp32": 1,
        "synchronize paced_megatron/training/timers.py:seconds": 1,
        "read paced_megatron/training/timers.py:seconds": 1,
    }
)
# Megatron waits at each message between pipeline stages (batch_p2p_sync), and for the shape of the teacher's.
MEGATRONS = tuple(
    f"{kind} megatron/core/pipeline_parallel/p2p_communication.py:"
    for kind in ("read", "write", "synchronize")
)

TWO = {"data_parallel_size": 2}
CASES = {
    "bfloat16": Case(),
    "float32": Case(training={"params_dtype": "float32"}),
    "packed": Case(training={"micro_batch_size": 1, "pack_length": 64}),
    "TP 2, sequence parallel": Case(ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)),
    "PP 2": Case(ParallelConfig(pipeline_model_parallel_size=2)),
    "PP 2, interleaved": Case(
        ParallelConfig(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)
    ),
    "DP 2, distributed optimizer": Case(ParallelConfig(**TWO, use_distributed_optimizer=True)),
    "DP 2, all of it overlapped": Case(
        ParallelConfig(
            **TWO, use_distributed_optimizer=True, overlap_grad_reduce=True, overlap_param_gather=True
        )
    ),
    "teacher TP 2 under a student DP 2": Case(
        ParallelConfig(**TWO), teacher={"tensor_model_parallel_size": 2}
    ),
    "teacher PP 2 under a student DP 2": Case(
        ParallelConfig(**TWO), teacher={"pipeline_model_parallel_size": 2}
    ),
    "full recomputation": Case(training={"recompute_granularity": "full"}),
    "selective recomputation": Case(training={"recompute_granularity": "selective"}),
    "EMA teacher": Case(kind="ema"),
    "the student as its own teacher": Case(kind="current"),
    "tip": Case(training={"token_weights": "tip"}),
    "offloaded teacher": Case(offload=True),
}
MORE = {
    # nu is made on the host, of the whole batch's numbers.
    "tip": {"read paced_megatron/training/token_pass.py:weighed_by_batch": 1},
    # The teacher wakes for the step, and it is checked that it is the one that went to sleep.
    "offloaded teacher": {
        "read paced_megatron/training/sleep.py:wake": 1,
        "synchronize paced_megatron/training/sleep.py:sleep": 0,  # once, the first time: it is frozen
    },
}
TEACHER_TEXT, TEACHER_HIDDEN = 20, 64


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    teacher = make_tiny_qwen3(root / "teacher", seed=2, num_hidden_layers=2, hidden_size=TEACHER_HIDDEN)
    return make_tiny_qwen3(root / "student", seed=1, num_hidden_layers=2, tie_word_embeddings=True), teacher


@pytest.fixture(scope="module")
def deeper(tmp_path_factory) -> Path:
    """Layers for two chunks on each of two stages."""
    return make_tiny_qwen3(tmp_path_factory.mktemp("deeper"), seed=1, num_hidden_layers=4)


def waits_of_a_step(rank: int, folders: tuple[Path, Path], case: Case) -> Counter[str]:
    """Those of the second step; the first one makes what lasts."""
    with rank_on_gpu(rank, case.world_size) as gpu:
        gpu.sent_shape = (TEACHER_TEXT, 2, TEACHER_HIDDEN)
        trainer = trainer_on(rank, *folders, case)
        take_step(trainer, examples(4, alike=True))
        gpu.forget()
        take_step(trainer, examples(4, alike=True))
        return places(gpu)


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_on_the_gpu_and_waits_for_it_only_at_its_end(name, folders, deeper):
    if name == "PP 2, interleaved":
        folders = (deeper, folders[1])
    case, without = CASES[name], ()
    ranks = [case.world_size - 1]
    if "PP" in name:  # whose ranks differ in what they do, not only in what they hold
        ranks, without = [0, 1], MEGATRONS
    for rank in ranks:
        found = waits_of_a_step(rank, folders, case)
        ours = Counter(
            {
                place: count
                for place, count in found.items()
                if not any(place.startswith(text) for text in without)
            }
        )
        assert ours == WAITS + Counter(MORE.get(name, {})), f"rank {rank}"


def test_a_method_that_weighs_each_micro_batch_by_itself_waits_once_for_each(folders):
    with rank_on_gpu(0, 1) as gpu:
        trainer = trainer_on(0, *folders, Case())
        weights = TokenWeights(lambda statistics: statistics.divergence * 0 + 1, whole_batch=False)
        object.__setattr__(trainer.objective, "token_weights", weights)
        take_step(trainer, examples(4))
        assert places(gpu)["read paced_megatron/training/token_pass.py:weighed_alone"] == 2


def test_what_a_step_sends_to_the_gpu_is_pinned(folders):
    with rank_on_gpu(0, 1) as gpu:
        trainer = trainer_on(0, *folders, Case())
        gpu.forget()
        take_step(trainer, examples(4))
        assert not [place for place in gpu.pageable if place.startswith("paced_megatron")]


def test_all_that_sleeps_between_steps_goes_and_comes_back_with_two_waits_each(folders):
    with rank_on_gpu(0, 1) as gpu:
        trainer = trainer_on(0, *folders, Case(offload=True))
        take_step(trainer, examples(4))
        awake = gpu.live
        gpu.forget()
        with trainer.asleep():
            assert gpu.live < awake / 2
            assert places(gpu) == {"synchronize paced_megatron/training/sleep.py:sleep": 2}
        # The teacher's body sleeps on. Its head and the optimizer's state are read once each, to compare.
        assert places(gpu)["read paced_megatron/training/sleep.py:wake"] == 2
        take_step(trainer, examples(4))
