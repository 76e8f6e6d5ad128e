"""Are tokens drawn from the distribution they should be drawn from? Counted against float64 probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from paced_megatron.rollout import Sampling, attempt_requests
from paced_megatron.rollout.embedded import EmbeddedEngine

# Of unequal length, so that in every batch one of them is padded.
PROMPTS = {"short": [100, 7], "long": [101, 50, 60, 70, 80, 90, 11, 12, 13]}
ATTEMPTS = 1500


def probabilities(folder: Path, texts: Sequence[Sequence[int]], sampling: Sampling) -> NDArray[np.float64]:
    """The next token's probabilities after each text: softmax(logits / T), cut to top_k and then to top_p.

    The texts are equally long; the result is [texts, tokens]. Rows of the head without a token are left out.
    """
    tokens = len(AutoTokenizer.from_pretrained(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        logits = model(torch.tensor(texts), use_cache=False).logits[:, -1, :tokens].numpy()
    return np.array([nucleus(row, sampling) for row in logits])


def nucleus(logits: NDArray[np.float64], sampling: Sampling) -> NDArray[np.float64]:
    scaled = logits / sampling.temperature
    p = np.exp(scaled - scaled.max())
    order = np.argsort(-p)
    if sampling.top_k > 0:
        p[order[sampling.top_k :]] = 0
    p /= p.sum()
    above = np.cumsum(p[order]) - p[order]  # the probability of all that is likelier than a token
    p[order[above >= sampling.top_p]] = 0
    return p / p.sum()


def excess(drawn: Sequence[int], p: NDArray[np.float64]) -> float:
    """How many standard deviations Pearson's chi-square lies above its mean; drawn[i] should come from p[i].

    Rare tokens share one bin.
    """
    assert all(row[token] > 0 for token, row in zip(drawn, p, strict=True)), (
        "drawn though its probability is 0"
    )
    observed, expected = np.bincount(drawn, minlength=p.shape[1]).astype(float), p.sum(axis=0)
    common = expected >= 5
    seen = np.append(observed[common], observed[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    assert freedom >= 3, "too peaked a distribution to test anything"
    return float((((seen - wanted) ** 2 / wanted).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=2),
        Sampling(temperature=1.7, top_p=1.0, top_k=-1, max_new_tokens=2),
        Sampling(temperature=1.0, top_p=1.0, top_k=6, max_new_tokens=2),
        Sampling(temperature=1.0, top_p=0.7, top_k=-1, max_new_tokens=2),
        Sampling(temperature=1.4, top_p=0.8, top_k=20, max_new_tokens=2),
    ],
    ids=["plain", "temperature", "top_k", "top_p", "all three"],
)
def test_tokens_are_drawn_from_the_models_own_distribution_as_sampling_says(
    tiny: Path, sampling: Sampling
) -> None:
    requests = attempt_requests(PROMPTS, ATTEMPTS, seed=21)
    requests.sort(key=lambda request: request.index)  # both prompts in each batch
    engine = EmbeddedEngine(batch_size=1000)
    engine.load_weights(tiny, "v1")
    completions = [c for unit in engine.generate(requests, sampling) for c in unit]
    for problem_id, prompt in PROMPTS.items():
        drawn = [c.token_ids for c in completions if c.request.problem_id == problem_id]
        assert len(drawn) == ATTEMPTS
        first = probabilities(tiny, [prompt], sampling)
        assert excess([tokens[0] for tokens in drawn], np.repeat(first, ATTEMPTS, axis=0)) < 4
        # The second token comes out of the KV cache; it has a distribution of its own after each first one.
        pairs = [tokens for tokens in drawn if len(tokens) == 2]  # not those that ended at once
        starts = sorted({tokens[0] for tokens in pairs})
        second = dict(
            zip(starts, probabilities(tiny, [[*prompt, start] for start in starts], sampling), strict=True)
        )
        assert excess([tokens[1] for tokens in pairs], np.array([second[tokens[0]] for tokens in pairs])) < 4
