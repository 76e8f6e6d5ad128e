"""The truth that servers are compared with is that of transformers' own way to load and run a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from models.family_models import OWN, Variant, make_model
from paced_megatron.errors import UserError
from paced_megatron.models.hidden_states import megatron_states, transformers_states

BOUND = 2e-5  # nats; batches of another size round differently by 3e-6
GENERATOR = torch.Generator().manual_seed(71)
TEXTS = [torch.randint(0, 301, (length,), generator=GENERATOR).tolist() for length in (2, 65, 100, 7)]


@pytest.fixture(
    scope="module",
    params=[
        Variant(family, tied=family == "qwen2", dtype=dtype, sharded=family == "llama")
        for family in OWN
        for dtype in (torch.float32, torch.bfloat16)
    ],
    ids=lambda variant: variant.name,
)
def folder(request, tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "folder", request.param, seed=72)


def expected(folder: Path, text: list[int]) -> torch.Tensor:
    """Log-probabilities of all tokens at all positions, by transformers, loaded whole."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([text])).logits[0].log_softmax(-1)


@pytest.mark.parametrize("states", [transformers_states, megatron_states])
def test_log_probabilities_are_those_of_the_model_that_transformers_loads_whole(folder, states):
    made = states(folder, TEXTS)
    for number, text in enumerate(TEXTS):
        wanted = expected(folder, text)
        assert (made.log_softmax_at(number, slice(None)) - wanted).abs().max() <= BOUND
        following = wanted[:-1].gather(1, torch.tensor(text[1:])[:, None])[:, 0]
        assert (made.log_probabilities(number, text) - following).abs().max() <= BOUND


def test_random_numbers_go_on_as_if_nothing_had_been_computed(folder):
    torch.manual_seed(73)
    before = torch.get_rng_state()
    transformers_states(folder, TEXTS)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("text", [[], [5, 301], [-1], [3] * 129])
def test_a_text_that_the_model_can_t_read_is_refused(folder, text):
    with pytest.raises(UserError, match=r"empty or has an id outside 0 to 300|129 tokens"):
        transformers_states(folder, [[1, 2], text])
