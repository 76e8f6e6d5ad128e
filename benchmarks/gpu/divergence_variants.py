"""What `gpu/divergence.py` times: the floor in bf16, ours, plain torch, Liger-Kernel's losses and TRL's.

All go from bf16 hidden states [N, H_s], [N, H_t] and heads [V, H_s], [V, H_t] to the gradients of the mean
over N tokens for the student's hidden states and head. Liger's beta is on the teacher, as ours: 0 is its
forward KL(p_T || p_S), 1 its reverse KL, and in between beta KL(p_T || m) + (1 - beta) KL(p_S || m) with
m = beta p_T + (1 - beta) p_S. TRL's is the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from benchmarks.divergence_variants import Gradients, Job, Models, gradients, ours
from benchmarks.gpu.divergence_accuracy import BETA

PEERS_BETA = {"forward_kl": 0.0, "jsd": BETA, "reverse_kl": 1.0}
LARGE_WORKSPACE_MB = 4096.0


class NotHere(Exception):
    """Why a variant can't be run on this machine, in words for its row."""


def float32_product(hidden: Tensor, head: Tensor, out: Tensor | None = None) -> Tensor:
    """hidden [n, H] x head [V, H] -> logits [n, V], float32 and never rounded to bf16. A CPU has no such
    product of bf16 tensors, and multiplies widened ones."""
    if hidden.is_cuda and hidden.dtype != torch.float32:
        if out is not None:
            return torch.mm(hidden, head.t(), out_dtype=torch.float32, out=out)
        return torch.mm(hidden, head.t(), out_dtype=torch.float32)
    return torch.mm(hidden.float(), head.float().t(), out=out)


def bf16_floor(models: Models, divergence: str) -> Job:
    """Both logits in float32, into memory that is at hand, and both gradients from a bf16 gradient of the
    logits that is at hand too: the four products, nothing between them."""
    student_hidden, student_head, teacher_hidden, teacher_head = (
        tensor.detach() for tensor in list(vars(models).values())[:4]
    )
    shape = models.student_hidden.shape[0], models.student_head.shape[0]
    student_logits, teacher_logits = (models.weights.new_zeros(shape) for _ in range(2))
    # Random: products of zeros are faster.
    of_logits = torch.randn(shape, dtype=student_head.dtype, device=student_head.device)

    @torch.no_grad()
    def job() -> Gradients:
        float32_product(student_hidden, student_head, out=student_logits)
        float32_product(teacher_hidden, teacher_head, out=teacher_logits)
        return of_logits @ student_head, of_logits.t() @ student_hidden

    return job


def our_kernels(kernels: str, workspace_mb: float | None = None) -> Callable[[Models, str], Job]:
    """kernels: auto, what a trainer gets; torch, the path without Triton."""

    def make(models: Models, divergence: str) -> Job:
        options: dict[str, Any] = {"divergence": divergence, "kernels": kernels}
        if divergence == "jsd":
            options["parameter"] = BETA
        return ours(models, workspace_mb, **options)

    return make


class _Float32Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, head)
        return float32_product(hidden, head)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        hidden, head = ctx.saved_tensors
        upstream = upstream.to(hidden.dtype)
        return upstream @ head, upstream.t() @ hidden


def rounded_logits(hidden: Tensor, head: Tensor) -> Tensor:
    """As one writes it: a bf16 product, widened when it has been rounded."""
    return (hidden @ head.t()).float()


def forward_kl(models: Models, logits: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    student = log_softmax(logits(models.student_hidden, models.student_head), -1)
    teacher = log_softmax(logits(models.teacher_hidden, models.teacher_head), -1)
    return (models.weights * kl_div(student, teacher, reduction="none", log_target=True).sum(-1)).sum()


def materialised(logits: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Models, str], Job]:
    return lambda models, divergence: lambda: gradients(models, forward_kl(models, logits))


def compiled(models: Models, divergence: str) -> Job:
    # Sizes that change are compiled twice, as torch does by default, and not for each N. Whole or not at all:
    # torch would go on uncompiled, without a word in the row, once it had compiled too often.
    loss = torch.compile(forward_kl, fullgraph=True)
    return lambda: gradients(models, loss(models, rounded_logits))


def liger_fused_jsd(models: Models, divergence: str) -> Job:
    """`LigerFusedLinearJSD`: Triton over float32 logits, in chunks of N H / V tokens on a Hopper GPU."""
    from liger_kernel.transformers import LigerFusedLinearJSD

    _needs_gpu(models)
    loss = LigerFusedLinearJSD(jsd_beta=PEERS_BETA[divergence])
    return lambda: gradients(models, loss(*_hidden_and_heads(models), None))


def liger_chunked(compiled: bool) -> Callable[[Models, str], Job]:
    """`LigerFusedLinearJSDLoss`, without its cross-entropy: autograd over chunks of 1024 tokens, bf16 logits.
    compiled is Liger's own default."""

    def make(models: Models, divergence: str) -> Job:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        loss = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=PEERS_BETA[divergence], compiled=compiled
        )
        labels = torch.zeros(models.weights.shape, dtype=torch.long, device=models.weights.device)
        return lambda: gradients(models, loss(*_hidden_and_heads(models), labels))

    return make


def liger_kl_div(models: Models, divergence: str) -> Job:
    """`LigerFusedLinearKLDivLoss` knows no teacher: all of its probabilities are made first, [N, V] in bf16,
    as one would keep them."""
    from liger_kernel.transformers.fused_linear_kl_div import LigerFusedLinearKLDivLoss

    _needs_gpu(models)
    loss = LigerFusedLinearKLDivLoss()

    def job() -> Gradients:
        with torch.no_grad():
            taught = (models.teacher_hidden @ models.teacher_head.t()).softmax(-1)
        return gradients(models, loss(models.student_hidden, models.student_head, taught))

    return job


def trl_chunked(models: Models, divergence: str) -> Job:
    """The loss of TRL's `DistillationTrainer`: Triton over float32 logits of 4096 tokens x 32,768 ids at a
    time, made for the statistics (for a JSD twice) and once more for the gradient; torch on a CPU."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    student_hidden, student_head, teacher_hidden, teacher_head = _hidden_and_heads(models)
    student, teacher = (student_hidden, student_head, None), (teacher_hidden, teacher_head, None)  # no biases

    def job() -> Gradients:
        values, _ = ChunkedDivergenceFunction.apply(*student, *teacher, PEERS_BETA[divergence], 1.0)
        return gradients(models, (models.weights * values).sum())

    return job


def _needs_gpu(models: Models) -> None:
    if not models.weights.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise NotHere("Liger's Triton kernels need a GPU, or TRITON_INTERPRET=1 and patience")


def _hidden_and_heads(models: Models) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return models.student_hidden, models.student_head, models.teacher_hidden, models.teacher_head


class Case(NamedTuple):
    """One row of a size."""

    variant: str
    divergence: str
    make: Callable[[Models, str], Job]
    compiles: bool = False


ALL = ("forward_kl", "reverse_kl", "jsd")
NO_DIVERGENCE = "none"
CASES = [
    Case("floor", NO_DIVERGENCE, bf16_floor),
    *(Case("ours", name, our_kernels("auto")) for name in ALL),
    Case("ours_4gb", "forward_kl", our_kernels("auto", LARGE_WORKSPACE_MB)),
    Case("ours_torch", "forward_kl", our_kernels("torch")),
    Case("torch", "forward_kl", materialised(rounded_logits)),
    Case("torch_float32_logits", "forward_kl", materialised(_Float32Logits.apply)),
    *(Case("trl_chunked", name, trl_chunked) for name in ALL),
    *(Case("liger_fused_jsd", name, liger_fused_jsd) for name in ALL),
    *(Case("liger_chunked", name, liger_chunked(compiled=False)) for name in ALL),
    Case("liger_kl_div", "forward_kl", liger_kl_div),
    Case("torch_compile", "forward_kl", compiled, compiles=True),
    Case("liger_chunked_compiled", "forward_kl", liger_chunked(compiled=True), compiles=True),
]
VARIANTS = list(dict.fromkeys(case.variant for case in CASES))
