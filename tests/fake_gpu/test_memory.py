"""What a step holds on a GPU, at sizes that no machine here could hold: there is a size and no content."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from transformers import Qwen3Config

from fake_gpu.record import FakeGpu
from fake_gpu.steps import Case, examples, rank_on_gpu, take_step, trainer_on
from paced_megatron.divergence.workspace import LEAST_TOKENS_ON_A_GPU
from paced_megatron.models.families import model_shape
from paced_megatron.plan.memory import memory_by_stage
from paced_megatron.plan.work import Layout, Work
from paced_megatron.training import step, student, teacher

VOCABULARY = 151936  # Qwen's


@contextmanager
def without_weights():
    """No files are read: a parameter has no content here."""
    with (
        mock.patch.object(student, "load_weights", lambda *args: None),
        mock.patch.object(teacher, "load_weights", lambda *args: None),
    ):
        yield


def config_only(folder: Path, hidden_size: int, intermediate_size: int, **more) -> Path:
    """A Qwen3 without weights, narrow where nothing else is asked for."""
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        **(sizes | more),
    ).save_pretrained(folder)
    return folder


def loss_peak(gpu: FakeGpu, student_folder: Path, teacher_folder: Path, tokens: int) -> int:
    """Bytes that the loss of one text holds at most, beside what was there before."""
    peaks = []

    def watched(*args, _original=step.weighted_divergence, **kwargs):
        before, gpu.peak = gpu.live, gpu.live
        result = _original(*args, **kwargs)
        peaks.append(gpu.peak - before)
        return result

    case = Case(training={"micro_batch_size": 1, "global_batch_size": 1})
    trainer = trainer_on(0, student_folder, teacher_folder, case)
    with mock.patch.object(step, "weighted_divergence", watched):
        take_step(trainer, examples(1, response_tokens=tokens))
    (peak,) = peaks
    return peak


def test_the_loss_holds_no_tokens_by_vocabulary(tmp_path):
    hidden, teachers = 48, 64
    folders = config_only(tmp_path / "s", hidden, 80), config_only(tmp_path / "t", teachers, 112)
    found = {}
    for tokens in (2048, 8192):  # two chunks and eight: on a GPU one has 1024 tokens
        with without_weights(), rank_on_gpu(0, 1) as gpu:
            found[tokens] = loss_peak(gpu, *folders, tokens)
    more_tokens = 8192 - 2048
    # Each token has hidden states and gradients, and a handful of numbers; with its logits it would have
    # another 600 kB.
    assert found[8192] - found[2048] < more_tokens * 16 * (hidden + teachers)
    # The workspace: four buffers and the bf16 gradient of a chunk's logits; and the head's gradient.
    workspace = 4.5 * 4 * VOCABULARY * LEAST_TOKENS_ON_A_GPU
    assert found[2048] < 1.02 * workspace + 4 * VOCABULARY * hidden


def test_the_plan_of_a_step_on_a_gpu_is_what_is_counted(tmp_path):
    """Qwen3 0.6B and 1.7B but for their depth: tensors alone, without CUDA's own memory and fragmentation."""
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    student_folder = config_only(tmp_path / "s", 1024, 3072, **sizes)
    teacher_folder = config_only(tmp_path / "t", 2048, 6144, **sizes)
    case = Case(training={"micro_batch_size": 1, "global_batch_size": 2})
    batch = examples(2, prompt_tokens=256, response_tokens=768, alike=True)
    with without_weights(), rank_on_gpu(0, 1) as gpu:
        trainer = trainer_on(0, student_folder, teacher_folder, case)
        take_step(trainer, batch)
        lasting = gpu.live
        gpu.forget()
        take_step(trainer, batch)
        counted = gpu.peak
    work = Work(
        student=model_shape(student_folder),
        teacher=model_shape(teacher_folder),
        layout=Layout(),
        params_dtype="bfloat16",
        micro_batch_size=1,
        global_batch_size=2,
        prompt_tokens=258,
        response_tokens=768,
        pack_length=None,
        loss_workspace_mb=None,
        device="cuda",
        loss_kernels="torch",  # as steps.py has it
    )
    (planned,) = memory_by_stage(work)
    assert sum(planned.lasting.values()) == pytest.approx(lasting, rel=0.03)
    assert planned.peak - sum(planned.outside.values()) == pytest.approx(counted, rel=0.03)
