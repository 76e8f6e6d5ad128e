"""How far the student is from the teacher, over the whole vocabulary, and the exact gradient of it.

Here belongs everything between the final hidden states of the two models and a number: the divergences and
their gradients, their sums over a vocabulary that is cut over ranks, and the per-token by-products that
methods weigh tokens with. Which tokens count and how much does not belong here: that comes in as one signed
weight per token. Neither Megatron nor anything else of ours is imported, so that this folder can serve any
trainer. Open `reference.py` first, it is the definition; then `table.py`, a row per divergence; `fused.py` is
what a trainer calls.

In a plain torch loop, where both heads are [vocabulary, hidden] and weights is 1/T for each of T tokens:

    hidden, taught = student_body(tokens).flatten(0, 1), teacher_body(tokens).flatten(0, 1).detach()
    result = weighted_divergence(hidden, student.lm_head.weight, taught, teacher.lm_head.weight, weights,
                                 divergence="forward_kl", vocab_size=vocab_size, compute_grad=True)
    result.loss.backward()
    print(result.divergence.mean(), result.student_entropy.mean())
"""

from __future__ import annotations

from paced_megatron.divergence.checks import check_parameter
from paced_megatron.divergence.choice import KERNELS, check_kernels, loss_path
from paced_megatron.divergence.fused import divergence_statistics, weighted_divergence
from paced_megatron.divergence.result import DivergenceResult, DivergenceStatistics
from paced_megatron.divergence.table import DIVERGENCES

__all__ = [
    "DIVERGENCES",
    "KERNELS",
    "DivergenceResult",
    "DivergenceStatistics",
    "check_kernels",
    "check_parameter",
    "divergence_statistics",
    "loss_path",
    "weighted_divergence",
]
