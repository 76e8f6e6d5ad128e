"""The distillation step as the textbook has it: transformers in float64, one text at a time, loss and
gradient by autograd.

None of the package's batching, masks, weights or normalisation is used; only `divergence/reference.py`, which
has tests of its own. `exact=True` takes transformers' casts to float32 out (its RMSNorm), without which two
float64 models can't agree beyond 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.models.qwen3 import modeling_qwen3

from paced_megatron.divergence import DivergenceResult
from paced_megatron.divergence.reference import reference_divergence

# The texts' numbers per token -> their nu, [T] each.
TokenWeights = Callable[[list[DivergenceResult]], list[torch.Tensor]]


def _rms_norm(self, hidden):
    return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


@contextmanager
def _norm_without_casts():
    original = modeling_qwen3.Qwen3RMSNorm.forward
    modeling_qwen3.Qwen3RMSNorm.forward = _rms_norm
    try:
        yield
    finally:
        modeling_qwen3.Qwen3RMSNorm.forward = original


def load_float64(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa")


def _at_response(model, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    """Hidden states that predict the response's tokens: those before each of them."""
    hidden = model.model(torch.tensor([[*prompt, *response]])).last_hidden_state[0]
    return hidden[len(prompt) - 1 : len(prompt) + len(response) - 1]


def reference_step(
    student_folder: Path,
    teacher_folder: Path,
    texts: Sequence[tuple[Sequence[int], Sequence[int], float]],
    *,
    divergence: str,
    parameter: float = 0.5,
    denominator: float,
    temperature: float = 1.0,
    per_token_mean: bool = True,
    exact: bool = True,
    teacher_prompts: Sequence[Sequence[int]] | None = None,
    token_weights: TokenWeights | None = None,
) -> tuple[float, dict[str, torch.Tensor], float]:
    """(loss, gradient by parameter name, mean divergence per token) for texts of (prompt, response, weight).

    loss = (1/denominator) sum_i w_i (1/T_i) sum_t D_it, without the 1/T_i where `per_token_mean` is False.
    `teacher_prompts`: what the teacher sees before each response, where that is not the student's prompt.
    `token_weights` gives the texts' nu_it, by which D_it is multiplied, from each text's numbers per token.
    """
    others = teacher_prompts or [prompt for prompt, _, _ in texts]
    with _norm_without_casts() if exact else nullcontext():
        student, teacher = load_float64(student_folder), load_float64(teacher_folder)
        loss, divergences = torch.zeros((), dtype=torch.float64), []

        def compare(text, teacher_prompt, weights) -> DivergenceResult:
            prompt, response, _ = text
            with torch.no_grad():
                taught = _at_response(teacher, teacher_prompt, response)
            return reference_divergence(
                _at_response(student, prompt, response),
                student.lm_head.weight,
                taught,
                teacher.lm_head.weight,
                weights,
                divergence=divergence,
                parameter=parameter,
                temperature=temperature,
                vocab_size=min(student.config.vocab_size, teacher.config.vocab_size),
                labels=torch.tensor(list(response)),
            )

        ones = [torch.ones(len(response), dtype=torch.float64) for _, response, _ in texts]
        nu = ones
        if token_weights is not None:
            with torch.no_grad():
                nu = token_weights([compare(*work) for work in zip(texts, others, ones, strict=True)])
        for text, other, factor in zip(texts, others, nu, strict=True):
            _, response, weight = text
            scale = weight / len(response) if per_token_mean else weight
            result = compare(text, other, factor * (scale / denominator))
            loss = loss + result.loss
            divergences.append(result.divergence)
        loss.backward()
    gradient = {name: parameter.grad for name, parameter in student.named_parameters()}
    return float(loss.detach()), gradient, float(torch.cat(divergences).mean())


def scale_logits(folder: Path, factor: float) -> None:
    """Multiply the last norm's weight by `factor`, in float64: the smaller the logits of both models, the
    smaller their divergence."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    tensors["model.norm.weight"] *= factor
    save_file(tensors, file, metadata={"format": "pt"})
