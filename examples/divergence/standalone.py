"""Distil one transformers model into another in a plain torch loop, with nothing of ours but the divergence.

    python examples/divergence/standalone.py                            # forward KL, some seconds on a CPU
    python examples/divergence/standalone.py jsd 0.5

Both models are made here, with random weights and of different sizes; the batch is random too. What is shown
is how the fused divergence is called: with final hidden states and head weights, never with logits.
"""

from __future__ import annotations

import sys

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from paced_megatron.divergence import weighted_divergence

VOCAB, STEPS = 5000, 20


def tiny_model(hidden_size: int, seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=0.1,
    )
    return Qwen3ForCausalLM(config)


def distil(divergence: str = "forward_kl", parameter: float | None = None) -> list[float]:
    """The mean divergence per token before each of STEPS updates, in nats."""
    teacher, student = tiny_model(64, seed=1).eval(), tiny_model(32, seed=2)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    tokens = torch.randint(VOCAB, (4, 32), generator=torch.Generator().manual_seed(3))
    weights = torch.full((tokens.numel(),), 1 / tokens.numel())  # a mean over the tokens
    means = []
    for _ in range(STEPS):
        hidden = student.model(tokens).last_hidden_state.flatten(0, 1)
        with torch.no_grad():
            taught = teacher.model(tokens).last_hidden_state.flatten(0, 1)
        result = weighted_divergence(
            hidden,
            student.lm_head.weight,
            taught,
            teacher.lm_head.weight,
            weights,
            divergence=divergence,
            parameter=parameter,
            vocab_size=VOCAB,
            compute_grad=True,
        )
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        means.append(result.divergence.mean().item())
    return means


def main(arguments: list[str]) -> None:
    means = distil(*arguments[:1], *map(float, arguments[1:2]))
    for step in (*range(0, STEPS, 5), STEPS - 1):
        print(f"step {step:2d}: {means[step]:.4f} nats per token")


if __name__ == "__main__":
    main(sys.argv[1:])
