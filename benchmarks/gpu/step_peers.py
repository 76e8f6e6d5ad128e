"""The peers' distillation step: the plain loop over transformers, and TRL's trainers on a given batch.

All read the folders that ours reads, on which they compute the same loss: the mean over response tokens of
KL(teacher || student). Where a setting could be in the peer's favour, it has it: weights, gradients and
AdamW's moments in bf16, torch's fused AdamW, attention by torch's own kernels.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.step_shapes import Batch


def load(folder: Path, dtype: torch.dtype, device: str) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True
    )
    return model.to(device)


class Transformers:
    """The loop that people write: logits of all tokens, KL in float32 over those of the response."""

    optimizer = "AdamW; weights, gradients and moments in the weights' dtype"
    made_of = "sdpa; torch AdamW, fused"

    def __init__(
        self, folder: Path, dtype: torch.dtype, lr: float, device: str, *, recompute: bool = False
    ) -> None:
        self.student, self.teacher = (load(folder / name, dtype, device) for name in ("student", "teacher"))
        self.student.train()
        self.teacher.eval().requires_grad_(False)
        if recompute:
            self.student.gradient_checkpointing_enable({"use_reentrant": False})
        self.adam = torch.optim.AdamW(self.student.parameters(), lr=lr, weight_decay=0.0, fused=True)
        self.device, self.tokens, self.prompt = device, torch.empty(0), 0

    def prepare(self, batch: Batch) -> None:
        self.adam.zero_grad()  # of a step that found no memory
        self.tokens, self.prompt = batch.tokens.to(self.device), batch.prompt

    def step(self) -> Tensor:
        """One optimizer step; the loss before it."""
        counts = slice(self.prompt - 1, -1)
        with torch.no_grad():
            target = self.teacher(self.tokens, use_cache=False).logits[:, counts].float().log_softmax(-1)
        found = self.student(self.tokens, use_cache=False).logits[:, counts].float().log_softmax(-1)
        loss = F.kl_div(found.flatten(0, 1), target.flatten(0, 1), log_target=True, reduction="batchmean")
        del found, target
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.adam.step()
        self.adam.zero_grad()
        return loss.detach()

    def close(self) -> None:
        pass


class Trl:
    """A trainer of TRL's, its own `training_step`, optimizer and clipping, on the given batch.

    GKD: lmbda 0 (the given text), beta 0 (forward KL). Distillation: that trainer always generates its texts,
    so `_prepare_inputs`, where it does, hands the given batch on instead; its loss is made in chunks.

    Args:
        defaults: as the trainer comes: float32 weights under bf16 autocast, activations recomputed.
    """

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        lr: float,
        device: str,
        *,
        distillation: bool = False,
        recompute: bool = False,
        liger: bool = False,
        defaults: bool = False,
    ) -> None:
        from datasets import Dataset

        self.distillation, self.device = distillation, device
        self.made_of = Transformers.made_of + ("; liger's norm, rope and mlp" if liger else "")
        self.optimizer = (
            "AdamW; float32 weights, gradients and moments, bf16 autocast"
            if defaults
            else Transformers.optimizer
        )
        dtype = torch.float32 if defaults else dtype
        student, teacher = (load(folder / name, dtype, device) for name in ("student", "teacher"))
        self.output = tempfile.TemporaryDirectory()
        settings: dict[str, Any] = {
            "output_dir": self.output.name,
            "learning_rate": lr,
            "lr_scheduler_type": "constant",
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "optim": "adamw_torch_fused",
            "bf16": defaults and device == "cuda",
            "gradient_checkpointing": recompute or defaults,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
            "use_liger_kernel": liger,
            "use_cpu": device == "cpu",
            "report_to": "none",
            "beta": 0.0,
            "max_steps": 1_000_000,
            "per_device_train_batch_size": 1,
        }
        rows = Dataset.from_list([{"prompt": "a", "messages": [{"role": "user", "content": "a"}]}])
        made = _distillation if distillation else _gkd
        self.trainer = made(student, teacher, settings, rows)
        self.model = _as_train_begins(self.trainer)
        self.inputs: dict[str, Tensor] = {}
        self.counted = torch.empty(0)

    def prepare(self, batch: Batch) -> None:
        self.model.zero_grad()  # of a step that found no memory
        tokens = batch.tokens.to(self.device)
        everywhere = torch.ones_like(tokens)
        self.counted = torch.tensor(batch.response_tokens, device=self.device)
        if self.distillation:
            self.inputs = {
                "prompt_ids": tokens[:, : batch.prompt],
                "prompt_mask": everywhere[:, : batch.prompt],
                "completion_ids": tokens[:, batch.prompt :],
                "completion_mask": everywhere[:, batch.prompt :],
                "num_items_in_batch": self.counted,
            }
            return
        labels = tokens.clone()
        labels[:, : batch.prompt] = -100
        self.inputs = {"input_ids": tokens, "attention_mask": everywhere, "labels": labels}

    def step(self) -> Tensor:
        """One optimizer step; the loss before it."""
        trainer = self.trainer
        loss = trainer.training_step(self.model, dict(self.inputs), self.counted)
        trainer.accelerator.clip_grad_norm_(self.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        self.model.zero_grad()
        return loss

    def close(self) -> None:
        self.output.cleanup()


def _as_train_begins(trainer: Any) -> Any:
    """What `train()` does to a trainer before its first step (transformers 5.17); the model it steps with."""
    from transformers.integrations.liger import apply_liger_kernel

    args = trainer.args
    if args.use_liger_kernel:
        apply_liger_kernel(trainer.model, args.liger_kernel_config)
    if args.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
    trainer.current_gradient_accumulation_steps = 1
    trainer.create_optimizer()
    trainer.model_wrapped = trainer.accelerator.prepare_model(trainer.model)
    return trainer.model_wrapped


def _gkd(student: Any, teacher: Any, settings: dict[str, Any], rows: Any) -> Any:
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    args = GKDConfig(**settings, lmbda=0.0, seq_kd=False, max_length=None)
    return GKDTrainer(
        model=student, teacher_model=teacher, args=args, train_dataset=rows, processing_class=_tokenizer()
    )


def _distillation(student: Any, teacher: Any, settings: dict[str, Any], rows: Any) -> Any:
    from trl import DistillationConfig, DistillationTrainer

    trainer = DistillationTrainer(
        model=student,
        teacher_model=teacher,
        args=DistillationConfig(**settings),
        train_dataset=rows,
        processing_class=_tokenizer(),
    )
    trainer._prepare_inputs = lambda batch: batch
    return trainer


def _tokenizer() -> Any:
    """The trainers want one; no text of ours goes through it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "a": 2}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
