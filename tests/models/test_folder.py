"""Weights from a Hugging Face folder into Megatron and back, on one process and on two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from paced_megatron.models.families import model_shape
from paced_megatron.models.folder import load_weights, save_folder
from paced_megatron.models.gpt import build_model
from paced_megatron.runtime.cpu import megatron_on_cpu
from paced_megatron.runtime.world import parallel_groups
from tiny_models import make_tiny_qwen3

pytestmark = pytest.mark.parallel


def load_and_save(rank: int, world_size: int, source: Path, out: Path, tokens: torch.Tensor):
    """Loads the model over all ranks, saves it again; returns its logits [b, s, V] of this rank's
    vocabulary."""
    with megatron_on_cpu():
        groups = parallel_groups(world_size, seed=1)
        shape = model_shape(source)
        model = build_model(shape, groups, torch.float32)
        load_weights(model, shape, source, groups)
        position_ids = torch.arange(tokens.shape[1]).expand_as(tokens)
        with torch.no_grad():
            logits = model(tokens, position_ids, None) @ model.head.t()
        save_folder(model, shape, groups, source=source, out=out)
    return logits.transpose(0, 1)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("tp", [1, 2])
def test_logits_are_those_of_transformers_and_the_export_is_the_import(pool, tmp_path, tp, tied):
    source = make_tiny_qwen3(
        tmp_path / "source", seed=5, num_attention_heads=6, head_dim=10, tie_word_embeddings=tied
    )
    tokens = torch.randint(0, 260, (3, 19), generator=torch.Generator().manual_seed(6))
    parts = pool.run(load_and_save, tp, source, tmp_path / "out", tokens)
    reference = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        truth = reference(tokens).logits
    logits = torch.cat(parts, dim=-1)[..., : truth.shape[-1]]
    assert (logits - truth).abs().max() <= 1e-4
    assert truth.std() > 0.1  # the model does tell tokens apart

    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(tokens).logits
    assert torch.equal(again, truth)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
