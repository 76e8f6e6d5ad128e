"""The rotary embedding: its frequencies are transformers', and what isn't supported is refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from paced_megatron.errors import UserError
from paced_megatron.models.rope import RopeScaling, llama3_frequencies, read_rope, unscaled_frequencies

PUBLISHED = RopeScaling(8.0, 1.0, 4.0, 8192)
PATH = Path("config.json")


@pytest.mark.parametrize(
    ("scaling", "theta", "head_dim"),
    [
        (PUBLISHED, 500000.0, 128),
        (RopeScaling(32.0, 1.0, 4.0, 8192), 500000.0, 64),
        (RopeScaling(5.0, 1.5, 4.5, 32), 300.0, 10),
    ],
)
def test_llama3_frequencies_are_those_of_transformers(scaling, theta, head_dim):
    ours = llama3_frequencies(unscaled_frequencies(theta, head_dim), scaling)
    config = LlamaConfig(
        hidden_size=head_dim * 4,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=10 * scaling.original_max_position_embeddings,
        rope_parameters={"rope_type": "llama3", "rope_theta": theta} | vars(scaling),
    )
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    assert torch.equal(ours, theirs)
    unscaled = unscaled_frequencies(theta, head_dim)
    assert (ours == unscaled).any() and (ours < unscaled).any()  # some are stretched, some are not


def test_llama3_frequencies_with_the_published_factors_are_megatrons_own():
    frequencies = unscaled_frequencies(500000.0, 128)
    theirs = RotaryEmbedding._apply_scaling(SimpleNamespace(), frequencies, factor=8.0)
    torch.testing.assert_close(llama3_frequencies(frequencies, PUBLISHED), theirs, rtol=1e-6, atol=0)


LLAMA3 = {"rope_type": "llama3"} | vars(PUBLISHED)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"type": "llama3"}},
        {"rope_scaling": LLAMA3 | {"rope_theta": 5e5}},
        {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_parameters": LLAMA3 | {"rope_theta": 5e5}, "rope_scaling": None},
        {"rope_parameters": LLAMA3 | {"rope_theta": 5e5, "partial_rotary_factor": 1.0}},
    ],
)
def test_old_and_new_places_say_the_same(config):
    assert read_rope(config, PATH) == (5e5, PUBLISHED)


def test_no_scaling_is_said_in_several_ways():
    for rope in ({}, {"rope_scaling": None}, {"rope_parameters": {"rope_type": "default"}}):
        assert read_rope({"rope_theta": 7.0} | rope, PATH) == (7.0, None)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type='linear'"),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type='yarn'"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "yarn", "rope_type": "llama3"}}, "rope_type"),
        ({"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}, "factor=2.0"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
        ({"rope_theta": 1e4, "rope_scaling": LLAMA3 | {"attention_factor": 2.0}}, "attention_factor=2.0"),
        ({"rope_theta": 1e4, "rope_scaling": LLAMA3 | {"factor": None}}, "factor=None"),
        ({"rope_theta": 1e4, "rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "rope_theta is 10000 in one place"),
        (
            {"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": LLAMA3},
            "rope_parameters and rope_scaling disagree",
        ),
        ({}, "rope_theta is missing"),
        ({"rope_parameters": 7}, "section of keys"),
        ({"rope_theta": "1e6"}, "rope_theta='1e6' has to be a number above 0"),
        ({"rope_theta": [1e6]}, "rope_theta=.* has to be a number above 0"),
        ({"rope_theta": 0}, "rope_theta=0 has to be a number above 0"),
        ({"rope_theta": True}, "rope_theta=True has to be a number above 0"),
        ({"rope_theta": float("inf")}, "rope_theta=inf has to be a number above 0"),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": ["llama3"]}}, "rope_type=.* is not supported"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(config, told):
    with pytest.raises(UserError, match=told):
        read_rope(config, PATH)
