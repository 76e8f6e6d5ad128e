"""Local and Transformer Engine's layers on a GPU in bfloat16, packed and not, beside transformers in float32.

A bfloat16 model's own rounding is the measure: what transformers' bfloat16 model differs from its float32
one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from paced_megatron.models.families import model_shape
from paced_megatron.models.folder import hugging_face_tensors, load_weights
from paced_megatron.models.gpt import HiddenStatesModel, build_chunks, parameters_by_name
from paced_megatron.models.packed import packed_texts
from paced_megatron.runtime.extensions import transformer_engine_missing
from tiny_models import make_tiny_qwen3

pytestmark = pytest.mark.gpu

LENGTHS = (37, 1, 64, 26)  # 128 tokens in all
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1000,
}


@pytest.fixture(params=["local", "transformer_engine"])
def spec(request) -> str:
    if request.param == "transformer_engine" and (missing := transformer_engine_missing()):
        pytest.skip(missing)
    return request.param


def loss_of(logits: Tensor) -> Tensor:
    return logits.float().logsumexp(-1).sum()


def theirs(folder, tokens: Tensor, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of each text [tokens, V] in a row, and the gradients of `loss_of` them all, by name."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    model = model.to(tokens.device)
    logits = torch.cat([model(text).logits[0] for text in tokens.split(LENGTHS, dim=1)])
    loss_of(logits).backward()
    gradients = {name: weight.grad.float().cpu() for name, weight in model.named_parameters()}
    return logits.detach().float(), gradients


def ours(model: HiddenStatesModel, tokens: Tensor, packed: bool) -> Tensor:
    """The same of our model, in one row or text by text."""
    cuts = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    texts = packed_texts(cuts, tokens.device, model.config) if packed else None
    rows = [tokens] if packed else tokens.split(LENGTHS, dim=1)
    states = [
        model(row, torch.arange(row.shape[1], device=row.device)[None], None, packed_seq_params=texts)
        for row in rows
    ]
    return (torch.cat(states) @ model.head.t())[:, 0]


def error(values: Tensor, truth: Tensor) -> float:
    return ((values.float().cpu() - truth.cpu()).norm() / truth.cpu().norm()).item()


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_logits_and_gradients_are_transformers_to_bfloat16s_rounding(world, spec, packed, tmp_path):
    folder = make_tiny_qwen3(tmp_path / "model", seed=51, **SIZES)
    tokens = torch.randint(0, 1000, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(52))
    tokens = tokens.to(world.device)
    truth, true_gradients = theirs(folder, tokens, torch.float32)
    rounded, rounded_gradients = theirs(folder, tokens, torch.bfloat16)
    shape = model_shape(folder)
    (model,) = build_chunks(shape, world.groups, torch.bfloat16, transformer_impl=spec)
    load_weights(model, shape, folder, world.groups)
    logits = ours(model.train(), tokens, packed)
    assert error(logits, truth) <= 2 * error(rounded, truth)
    loss_of(logits).backward()
    gradients = {name: weight.grad for name, weight in parameters_by_name(model).items()}
    for name, gradient in hugging_face_tensors(gradients, shape, world.groups):
        allowed = 3 * error(rounded_gradients[name], true_gradients[name])
        assert error(gradient, true_gradients[name]) <= allowed, name


def test_the_local_layers_ask_the_device_for_nothing_on_their_way(world, tmp_path):
    folder = make_tiny_qwen3(tmp_path / "model", seed=53, **SIZES)
    shape = model_shape(folder)
    (model,) = build_chunks(shape, world.groups, torch.bfloat16)
    load_weights(model, shape, folder, world.groups)
    tokens = torch.randint(0, 1000, (1, sum(LENGTHS)), device=world.device)
    texts = packed_texts(torch.tensor([0, *LENGTHS]).cumsum(0).int(), tokens.device, model.config)
    positions = torch.arange(tokens.shape[1], device=world.device)[None]

    def passes() -> None:
        model(tokens, positions, None, packed_seq_params=texts).float().sum().backward()

    passes()  # compiles, and fills what is made once
    if world.device.type == "cpu":
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        passes()
    finally:
        torch.cuda.set_sync_debug_mode("default")
