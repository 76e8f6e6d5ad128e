"""Layouts that can't work: each is refused with one line that names the key and the remedy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from paced_megatron.config.io import config_from_dict
from paced_megatron.errors import UserError
from paced_megatron.inputs import check_layouts
from paced_megatron.models.families import model_shape

CONFIGS = Path(__file__).parents[1] / "data" / "configs"


def configuration(folder: Path, *, parallel=None, training=None, teacher=None):
    return config_from_dict(
        {
            "run_dir": folder / "run",
            "problems": {"train": "train.jsonl"},
            "student": {"path": folder / "student"},
            "teacher": {"path": folder / "teacher"} | (teacher or {}),
            "parallel": parallel or {},
            "training": training or {},
            "stages": [{"train_iters": 3}],
        }
    )


TP, PP, VPP, DP = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "virtual_pipeline_model_parallel_size",
    "data_parallel_size",
)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"parallel": {"context_parallel_size": 2}}, "parallel.context_parallel_size=2: no attention here"),
        ({"parallel": {VPP: 2}}, f"parallel.{VPP}=2 needs parallel.{PP} of 2 or more"),
        (
            {"parallel": {"sequence_parallel": True}},
            f"parallel.sequence_parallel=true needs parallel.{TP} of 2",
        ),
        (
            {"parallel": {"overlap_param_gather": True}},
            "parallel.overlap_param_gather=true needs parallel.use_distributed_optimizer=true",
        ),
        (
            {"training": {"pack_length": 64, "micro_batch_size": 2}},
            "training.pack_length=64 needs training.micro_batch_size=1, not 2",
        ),
        (
            {"training": {"recompute_num_layers": 2}},
            "training.recompute_num_layers=2 needs training.recompute_granularity=full",
        ),
        (
            {"training": {"transformer_impl": "transformer_engine"}},
            "training.transformer_impl=transformer_engine needs training.params_dtype=bfloat16, not float32",
        ),
        (
            {"training": {"fp8": "hybrid", "pack_length": 64}},
            "training.fp8=hybrid needs training.params_dtype=bfloat16, not float32",
        ),
        (
            {"training": {"fp8": "e4m3", "params_dtype": "bfloat16"}},
            "training.fp8=e4m3 needs training.pack_length to be a multiple of 32 x",
        ),
        (
            {
                "training": {"fp8": "e4m3", "params_dtype": "bfloat16", "pack_length": 96},
                "parallel": {TP: 2},
            },
            f"parallel.{TP} = 64, not 96",
        ),
        (
            {
                "training": {
                    "fp8": "e4m3",
                    "params_dtype": "bfloat16",
                    "pack_length": 64,
                    "transformer_impl": "local",
                }
            },
            "training.fp8=e4m3 needs Transformer Engine's layers, not training.transformer_impl=local",
        ),
        (
            {"training": {"fp8_recipe": "mxfp8"}},
            "training.fp8_recipe=mxfp8 is for training.fp8, and that is null",
        ),
        (
            {"parallel": {DP: 3}},
            "training.global_batch_size=32 is not a multiple of training.micro_batch_size x "
            "parallel.data_parallel_size = 1 x 3 = 3; 30 or 33 would do",
        ),
        (
            {"parallel": {DP: 2}, "teacher": {TP: 4}},
            f"the job's 2 processes are no multiple of what one teacher takes, teacher.{TP} x teacher.{PP} = "
            "4 x 1",
        ),
        (
            {"teacher": {DP: 2}},
            f"teacher.{DP}=2 needs teacher.own_ranks=true",
        ),
        ({"parallel": {TP: 0}}, f"parallel.{TP} must be at least 1, not 0"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path, sections, words):
    with pytest.raises(UserError) as refused:
        configuration(tmp_path, **sections)
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("student", "teacher", "sections", "words"),
    [
        ("Qwen2.5-7B-Instruct", "Qwen2.5-7B-Instruct", {"parallel": {TP: 8}}, "num_attention_heads=28"),
        ("Qwen2.5-0.5B-Instruct", "Qwen2.5-7B-Instruct", {"parallel": {TP: 4}}, "num_attention_heads=14"),
        ("Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct", {"parallel": {TP: 16}}, "num_key_value_heads=8"),
        ("Qwen3-8B", "Qwen3-14B", {"parallel": {PP: 5}}, "num_hidden_layers=36"),
        ("Qwen3-8B", "Qwen3-14B", {"parallel": {PP: 3}}, "num_hidden_layers=40"),
        ("Qwen3-8B", "Qwen3-8B", {"parallel": {PP: 4, VPP: 2}}, f"{PP}=4 x {VPP}=2 does not divide"),
        (
            "Qwen3-8B",
            "Qwen3-8B",
            {"parallel": {DP: 16}, "teacher": {TP: 16}},
            f"teacher.{TP}=16 does not divide num_key_value_heads=8",
        ),
    ],
)
def test_a_layout_that_cannot_cut_a_published_model_is_refused(tmp_path, student, teacher, sections, words):
    folders = tmp_path / "student", tmp_path / "teacher"
    for folder, name in zip(folders, (student, teacher), strict=True):
        folder.mkdir()
        shutil.copy(CONFIGS / f"{name}.json", folder / "config.json")
    config = configuration(tmp_path, **sections)
    with pytest.raises(UserError) as refused:
        check_layouts(config, *map(model_shape, folders), *folders)
    assert words in str(refused.value) and "; try " in str(refused.value) and "\n" not in str(refused.value)


def test_layouts_that_work_are_not_refused(tmp_path):
    for folder, name in ((tmp_path / "student", "Qwen3-1.7B"), (tmp_path / "teacher", "Qwen3-8B")):
        folder.mkdir()
        shutil.copy(CONFIGS / f"{name}.json", folder / "config.json")
    config = configuration(
        tmp_path,
        parallel={TP: 2, PP: 2, VPP: 7, DP: 2, "sequence_parallel": True, "use_distributed_optimizer": True},
        training={"pack_length": 64, "recompute_granularity": "full", "recompute_num_layers": 7},
        teacher={TP: 8, PP: 1},
    )
    shapes = model_shape(tmp_path / "student"), model_shape(tmp_path / "teacher")
    check_layouts(config, *shapes, tmp_path / "student", tmp_path / "teacher")
