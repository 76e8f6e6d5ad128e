"""Published models at full size, on the meta device: the map, Megatron's parameters and transformers' agree.

The configurations in tests/data/configs are written from public figures; parameter_counts.json has the
published numbers of parameters, a tied head counted once.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForCausalLM

from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.models.gpt import build_chunks, parameters_by_name
from paced_megatron.models.mapping import Cut, filling_rules, hugging_face_shapes, rules
from paced_megatron.runtime.cpu import megatron_on_cpu

CONFIGS = Path(__file__).parents[1] / "data" / "configs"
COUNTS: dict[str, int] = json.loads((CONFIGS / "parameter_counts.json").read_text())
META = torch.device("meta")
PIPELINE = 4


@pytest.fixture(params=sorted(COUNTS))
def name(request) -> str:
    return request.param


@pytest.fixture
def folder(name, tmp_path) -> Path:
    shutil.copy(CONFIGS / f"{name}.json", tmp_path / "config.json")
    return tmp_path


def largest_tensor_parallel_size(shape: ModelShape) -> int:
    """The largest size up to 8 that divides the heads and the KV groups."""
    return max(
        n for n in range(1, 9) if shape.num_attention_heads % n == 0 and shape.num_query_groups % n == 0
    )


@contextmanager
def rank_of(rank: int, tp: int, pp: int) -> Iterator[ProcessGroupCollection]:
    """Megatron's groups as one rank of tp x pp processes sees them, though there are no others; its CUDA is
    the meta device."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=tp * pp)
    try:
        with megatron_on_cpu(), META, mock.patch.object(torch.cuda, "current_device", lambda: META):
            parallel_state.initialize_model_parallel(tp, pp, create_gloo_process_groups=False)
            yield ProcessGroupCollection.use_mpu_process_groups()
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def test_the_map_is_transformers_own_model_and_has_the_published_count(name, folder):
    with META:
        theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    parameters = {name: tuple(parameter.shape) for name, parameter in theirs.named_parameters()}
    shape = model_shape(folder)
    assert hugging_face_shapes(shape) == parameters
    names = [name for rule in rules(shape) for name in rule.hugging_face]
    assert len(names) == len(set(names))  # each one once
    assert sum(math.prod(size) for size in parameters.values()) == COUNTS[name]


def test_every_megatron_parameter_of_every_stage_is_filled_and_none_twice(folder):
    shape = model_shape(folder)
    tp = largest_tensor_parallel_size(shape)
    cut = Cut(shape, tp)
    expected = {rule.megatron: rule for rule in filling_rules(shape)}
    parts = {}  # by rank of the tensor-parallel group: the parts that the map makes
    for rank in (0, tp - 1):
        parts[rank] = {
            name: rule.shard(
                [torch.empty(size, device=META) for size in rule.hugging_face.values()], cut, rank
            )
            for name, rule in expected.items()
        }
    seen: list[str] = []
    for stage in range(PIPELINE):
        for tp_rank in {0, tp - 1}:
            with rank_of(stage * tp + tp_rank, tp, PIPELINE) as groups:
                assert (groups.tp.rank(), groups.pp.rank()) == (tp_rank, stage)
                found = parameters_by_name(build_chunks(shape, groups, torch.bfloat16))
            for name, parameter in found.items():
                assert parameter.device == META
                assert parameter.shape == parts[tp_rank][name].shape, name
        seen += found
    assert sorted(seen) == sorted(expected)
