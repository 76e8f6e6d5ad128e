"""Transformer Engine's layers through Megatron's own wrappers, on the stand-in (see there why): what the map
fills, what comes out, its gradient, its names in a checkpoint. In a process of its own, since Megatron looks
for Transformer Engine while it is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.family_models import Variant, make_model
from paced_megatron.models.weight_files import WeightFiles

HERE = Path(__file__).parent
STAND_IN, REPOSITORY = HERE / "engine_stand_in", HERE.parents[1]


@pytest.fixture(scope="module", params=["qwen3", "qwen2"])
def seen(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    variant = Variant(request.param, request.param == "qwen3", torch.float32, sharded=False)
    source = make_model(root / "model", variant, seed=41)
    path = os.pathsep.join(map(str, (STAND_IN, REPOSITORY, HERE.parent)))
    job = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "engine_job.py"), str(source), str(root / "out")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert job.returncode == 0, job.stderr[-3000:]
    return json.loads(job.stdout.splitlines()[-1]), source, root / "out"


def test_the_names_in_the_model_are_transformer_engines(seen):
    found, _, _ = seen
    names = found["names"]["transformer_engine"]
    assert "decoder.layers.1.self_attention.linear_qkv.layer_norm_weight" in names
    assert "decoder.layers.1.mlp.linear_fc1.layer_norm_weight" in names
    assert not any(".input_layernorm." in name or ".pre_mlp_layernorm." in name for name in names)
    assert len(names) == len(found["names"]["local"])


def test_under_the_maps_names_the_parameters_of_both_specs_are_the_same(seen):
    found, _, _ = seen
    assert found["by name"]["transformer_engine"] == found["by name"]["local"]


def test_logits_are_those_of_transformers(seen):
    found, _, _ = seen
    assert found["transformer_engine: logits"] <= 1e-4
    assert found["local: logits"] <= 1e-4


def test_packed_texts_and_gradients_are_those_of_the_local_layers(seen):
    found, _, _ = seen
    assert found["packed"] <= 1e-12
    # One by one, rotary angles by token and by position, and attention, are computed in another order.
    assert found["packed beside one by one"] <= 1e-12
    assert found["gradients"] <= 1e-9 and found["gradient's size"] > 1


def test_a_checkpoint_of_one_spec_has_the_keys_of_the_others(seen):
    found, _, _ = seen
    assert found["checkpoint keys"]["transformer_engine"] == found["checkpoint keys"]["local"]


def test_megatron_is_told_of_the_same_cuts(seen):
    found, _, _ = seen
    assert found["cut"]["transformer_engine"] == found["cut"]["local"]
    assert any(name.endswith("linear_proj.weight") and dim == 1 for name, dim in found["cut"]["local"])


def test_what_is_exported_is_what_was_loaded(seen):
    _, source, out = seen
    before, after = WeightFiles(source), WeightFiles(out)
    assert before.names() == after.names()
    assert all(torch.equal(before[name], after[name]) for name in before.names())
