"""Bytes on a rank of each pipeline stage, part by part, and the turn of a step in which most are in use.

A step takes turns: the teacher's forward passes, the student's passes with the loss, the optimizer. What
stays over all of them is counted once; of the turns the largest counts. Gigabytes are 2**30 bytes throughout.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from paced_megatron.plan.activations import backward_workspace, forward_workspace, student_activations
from paced_megatron.plan.loss import loss_bytes
from paced_megatron.plan.parameters import Parameters, parameters_on_rank
from paced_megatron.plan.rollouts import APART_FROM_TRAINING, BETWEEN_STEPS, engine_parts
from paced_megatron.plan.teacher import teacher_apart, teacher_at_stage
from paced_megatron.plan.work import Work

# What a process takes of a GPU outside of torch's tensors: CUDA's context and cuBLAS's workspaces, NCCL's
# buffers, pieces that the allocator can't use. Allowances, which nobody has measured.
OF_CUDA, OF_NCCL = 2**30, 2**30

# What `teacher.offload` puts on the host between steps (training/trainer.py, `asleep`).
ASLEEP = ("teacher's weights", "teacher's head again", "main weights", "optimizer state")


@dataclass(frozen=True)
class StageMemory:
    """What a rank of one pipeline stage holds, in bytes.

    Attributes:
        stage: of the student, from 0; None: a rank that only the teacher has.
        lasting: part -> bytes, from a training's first step to its last.
        turns: turn -> (part -> bytes): what comes and goes.
        outside: part -> bytes, of the process rather than of training: before and after it too.
        away: turn -> parts of `lasting` that are on the host in it.
    """

    stage: int | None
    lasting: Mapping[str, float]
    turns: Mapping[str, Mapping[str, float]]
    outside: Mapping[str, float] = field(default_factory=dict)
    away: Mapping[str, Collection[str]] = field(default_factory=dict)

    def parts_in(self, turn: str) -> dict[str, float]:
        """Part -> bytes of all that is there in a turn."""
        lasting = {} if turn in APART_FROM_TRAINING else self.lasting
        there = {part: size for part, size in lasting.items() if part not in self.away.get(turn, ())}
        return {**self.outside, **there, **self.turns[turn]}

    def in_turn(self, turn: str) -> float:
        """Bytes in use in a turn."""
        return sum(self.parts_in(turn).values())

    @property
    def largest_turn(self) -> str:
        """The name of the turn with the most bytes."""
        return max(self.turns, key=self.in_turn)

    @property
    def peak(self) -> float:
        """Bytes in use in the largest turn."""
        return self.in_turn(self.largest_turn)


def memory_by_stage(work: Work) -> list[StageMemory]:
    """An entry for each of the student's pipeline stages, of the rank of it that holds most; and one of a
    teacher on processes of its own."""
    stages = [_stage(work, stage) for stage in range(work.layout.pipeline_model_parallel_size)]
    return [*stages, _teachers_own(work)] if work.layout.teacher_own_copies else stages


def _teachers_own(work: Work) -> StageMemory:
    teacher = teacher_apart(work)
    weights = {"teacher's weights": teacher.weights}
    in_forward = forward_workspace(work.teacher, work, work.layout.teacher_tensor_model_parallel_size)
    turn = {"hidden states of the teacher": teacher.made, "teacher's activations": in_forward}
    if work.teacher_offload:
        return StageMemory(None, {}, {"teacher": weights | turn}, _outside(work))
    return StageMemory(None, weights, {"teacher": turn}, _outside(work))


def _outside(work: Work) -> dict[str, float]:
    """On a GPU; main memory is compared with what is left of it (doctor/checks/memory.py)."""
    if work.device != "cuda":
        return {}
    alone = work.layout.world_size == 1 and not work.layout.teacher_own_copies
    return {"CUDA and NCCL, an allowance": float(OF_CUDA + (0 if alone else OF_NCCL))}


def _stage(work: Work, stage: int) -> StageMemory:
    layout = work.layout
    tp, pp = layout.tensor_model_parallel_size, layout.pipeline_model_parallel_size
    own = parameters_on_rank(work.student, tp, pp, stage)
    holds_head = stage == pp - 1
    teacher = teacher_at_stage(work, stage)
    weights = {"teacher's weights": teacher.weights}
    lasting = _student_lasting(work, own)
    if teacher.head_again:
        lasting["teacher's head again"] = teacher.head_again
    if not work.teacher_offload:
        lasting |= weights
    handed_over = {"hidden states of the teacher": teacher.handed_over} if holds_head else {}
    # One after the other: the head's gradient is in main_grad, and gone, before the first layer goes back,
    # and the embedding's is made when the last one has.
    working = max(
        loss_bytes(work) if holds_head else 0.0, backward_workspace(work), float(own.embedding * work.element)
    )
    in_forward = 0.0  # where the teacher computes elsewhere
    if not layout.teacher_own_copies:
        in_forward = forward_workspace(work.teacher, work, layout.teacher_tensor_model_parallel_size)
    turns: dict[str, dict[str, float]] = {
        "teacher": {
            **(weights if work.teacher_offload else {}),
            "hidden states of the teacher": teacher.made or teacher.handed_over,
            # What is made elsewhere is handed over when the forward passes are done.
            "teacher's activations": max(in_forward, teacher.handed_over if teacher.made else 0.0),
        },
        "student": {
            **handed_over,
            "activations": student_activations(work, stage),
            "loss, or one layer's backward": working,
        },
        "optimizer": {**handed_over, "AdamW's workspace": _optimizer_workspace(work, own)},
    }
    if work.rollouts is not None and stage == 0:
        sampled = work.rollouts.turns(work.student)
        turns |= {turn: engine_parts(work.rollouts, *of_turn) for turn, of_turn in sampled.items()}
    away = {BETWEEN_STEPS: ASLEEP} if work.offload else {}
    return StageMemory(stage, lasting, turns, _outside(work), away)


def _student_lasting(work: Work, own: Parameters) -> dict[str, float]:
    """Weights, gradients and optimizer. The distributed optimizer gives each data-parallel rank a part of the
    main weights and of AdamW's two moments (ZeRO-1, arXiv 1910.02054); the gradient buffers stay whole."""
    shares = work.layout.data_parallel_size if work.layout.use_distributed_optimizer else 1
    return {
        "weights": own.total * work.element,
        "gradients": own.total * work.accurate,
        "main weights": own.total * work.accurate / shares if work.element < work.accurate else 0.0,
        "optimizer state": 2 * own.total * work.accurate / shares,
    }


def _optimizer_workspace(work: Work, own: Parameters) -> float:
    """On a GPU torch's AdamW makes the root of the second moments of all parameters at once (`foreach`); on a
    CPU it goes parameter by parameter, with the root and the root over its correction."""
    shares = work.layout.data_parallel_size if work.layout.use_distributed_optimizer else 1
    of_rank = own.total / shares
    elements = of_rank if work.device == "cuda" else 2 * min(own.largest, of_rank)
    return elements * work.accurate
