"""Parameters counted from a shape are those of Megatron-Core's own model, rank by rank."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from models.test_real_sizes import CONFIGS, COUNTS, largest_tensor_parallel_size, rank_of
from paced_megatron.models.families import model_shape
from paced_megatron.models.gpt import build_chunks
from paced_megatron.plan.parameters import parameters_on_rank

PIPELINE = 4


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_a_whole_model_has_the_published_count(name, tmp_path):
    shutil.copy(CONFIGS / f"{name}.json", tmp_path / "config.json")
    assert parameters_on_rank(model_shape(tmp_path), 1, 1, 0).total == COUNTS[name]


@pytest.mark.parametrize("name", ["Qwen3-8B", "Qwen2.5-0.5B-Instruct", "Llama-3.2-1B-Instruct"])
def test_a_rank_of_each_pipeline_stage_has_as_many_as_megatrons(name, tmp_path: Path):
    """Without and with a bias, a norm of the heads, a tied embedding; the first has 4 KV groups or more."""
    shutil.copy(CONFIGS / f"{name}.json", tmp_path / "config.json")
    shape = model_shape(tmp_path)
    if json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] % PIPELINE:
        pytest.fail(f"{name} can't be cut into {PIPELINE} stages")
    tp = largest_tensor_parallel_size(shape)
    for stage in range(PIPELINE):
        with rank_of(stage * tp, tp, PIPELINE) as groups:
            chunks = build_chunks(shape, groups, torch.bfloat16)
            sizes = [parameter.numel() for chunk in chunks for parameter in chunk.parameters()]
        counted = parameters_on_rank(shape, tp, PIPELINE, stage)
        assert counted.total == sum(sizes), stage
        assert counted.largest == max(sizes), stage
