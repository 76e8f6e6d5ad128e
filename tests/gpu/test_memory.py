"""Memory on the GPU: what the loss takes, and what sleeps there leaves behind."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from paced_megatron.config import ParallelConfig, StageConfig, TrainingConfig
from paced_megatron.divergence import weighted_divergence
from paced_megatron.models.families import model_shape
from paced_megatron.runtime.teacher_groups import place_teacher
from paced_megatron.training.batches import Batching, MicroBatch, micro_batches
from paced_megatron.training.examples import Example
from paced_megatron.training.teacher import Teacher
from paced_megatron.training.trainer import Trainer

pytestmark = pytest.mark.gpu

PARALLEL = ParallelConfig()
TRAINING = TrainingConfig(micro_batch_size=2, global_batch_size=4, params_dtype="bfloat16", lr=1e-3)


def _examples(count: int, seed: int = 5) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(0, 260, (17 + number,), generator=generator).tolist() for number in range(count)]
    return [
        Example(f"p{number}", tuple(text[:5]), tuple(text[:5]), tuple(text[5:]), 1.0)
        for number, text in enumerate(texts)
    ]


def _loss_and_gradient(tokens: int, vocabulary: int, student: int, teacher: int, **settings) -> None:
    """On the current default device, in bf16, as a step calls it."""
    torch.manual_seed(3)
    inputs = [
        torch.randn(rows, size, dtype=torch.bfloat16)
        for rows, size in ((tokens, student), (vocabulary, student), (tokens, teacher), (vocabulary, teacher))
    ]
    hidden, head = (tensor.requires_grad_() for tensor in inputs[:2])
    result = weighted_divergence(
        *inputs,
        torch.rand(tokens) / tokens,
        labels=torch.randint(vocabulary, (tokens,)),
        vocab_size=vocabulary,
        compute_grad=True,
        main_grad=torch.zeros(head.shape),
        **settings,
    )
    result.loss.backward()
    assert hidden.grad is not None and hidden.grad.isfinite().all()


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "akl"])
def test_with_the_tokens_grow_only_inputs_the_hidden_gradient_and_numbers_per_token(device, divergence):
    on_gpu = device.type == "cuda"
    vocabulary, student, teacher = (151_936, 1024, 2048) if on_gpu else (1003, 24, 40)
    settings = {"divergence": divergence, "workspace_mb": 256 if on_gpu else 1}
    settings |= {"parameter": 0.3} if divergence in ("jsd", "akl") else {}
    few, many = (1024, 8192) if on_gpu else (128, 1024)
    peaks = []
    with torch.device(device):
        _loss_and_gradient(few, vocabulary, student, teacher, **settings)  # kernels and handles come once
        for tokens in (few, many):
            if on_gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            _loss_and_gradient(tokens, vocabulary, student, teacher, **settings)
            peaks.append(torch.cuda.max_memory_allocated() if on_gpu else 0)
    if not on_gpu:
        return  # torch counts the memory of a GPU alone; a CPU's is in tests/divergence/test_memory.py
    # bf16 inputs, a hidden gradient that is summed in float32 and handed out in bf16, twice while autograd
    # adds it up; and at most thirty numbers: weights, labels, statistics. A row of logits would be 600 kB.
    of_a_token = 2 * (student + teacher) + (4 + 2 + 2) * student + 30 * 8
    assert peaks[1] - peaks[0] <= (many - few) * of_a_token, peaks


def test_a_teacher_that_slept_wakes_bit_equal_and_its_memory_was_free(world, folder, memory):
    place, dtype = place_teacher(world.groups), torch.bfloat16
    student = model_shape(folder("student", dtype))
    teacher = Teacher.from_folder(folder("teacher", dtype), place, dtype, student=student)
    assert teacher.model is not None and teacher.head is not None
    weights = {name: tensor.cpu().clone() for name, tensor in teacher.model.named_parameters()}
    batches = _batches(_examples(3))
    hidden = [one.clone() for one in teacher.hidden_states(batches)]
    awake = memory()
    for sleeper in teacher.sleepers:
        sleeper.sleep()
    asleep = memory()
    for sleeper in reversed(teacher.sleepers):
        sleeper.wake()
    for name, tensor in teacher.model.named_parameters():
        assert torch.equal(tensor.cpu(), weights[name]), name
    again = teacher.hidden_states(batches)
    assert all(torch.equal(one, other) for one, other in zip(hidden, again, strict=True))
    if memory.counts:  # a sum of the bits of each stays
        assert awake - asleep >= 0.99 * sum(tensor.nbytes for tensor in weights.values()), (awake, asleep)


def test_between_steps_the_optimizers_state_and_the_teacher_sleep_and_the_next_step_is_the_same(
    world, folder, memory
):
    losses = []
    for sleeps in (False, True):
        trainer = _trainer(world, folder, offload=sleeps)
        trainer.step(_examples(4))
        awake = memory()
        with trainer.asleep():
            asleep = memory()
        if sleeps and memory.counts:
            student = sum(one.nbytes for chunk in trainer.student.chunks for one in chunk.parameters())
            assert awake - asleep >= 6 * student  # float32 main weights and two moments of bf16 weights
        losses.append([trainer.step(_examples(4, seed))[0].loss for seed in (6, 7)])
        del trainer
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def _trainer(world, folder, *, offload: bool) -> Trainer:
    return Trainer.from_folders(
        world,
        StageConfig(divergence="forward_kl", train_iters=10),
        dataclasses.replace(TRAINING, train_iters=10),
        PARALLEL,
        student_folder=folder("student", torch.bfloat16),
        teacher_folder=folder("teacher", torch.bfloat16),
        teacher_offload=offload,
    )


def _batches(examples: list[Example]) -> list[list[MicroBatch]]:
    return micro_batches(examples, Batching.of(TRAINING, PARALLEL))
