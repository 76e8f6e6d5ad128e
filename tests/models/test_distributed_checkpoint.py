"""Megatron's distributed checkpoint on disk: what stock Megatron makes of ours, and we of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from models import stock_megatron
from paced_megatron.models.checkpoint_metadata import find_checkpoint
from paced_megatron.models.convert import to_hugging_face, to_megatron
from paced_megatron.models.distributed_checkpoint import Checkpoint
from paced_megatron.models.weight_files import WeightFiles
from tiny_models import write_byte_tokenizer

FAMILIES = {
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {"head_dim": 10}),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {"head_dim": 10}),
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 50000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,  # the one value that Megatron's own scaling knows
}


def make_model(
    folder: Path,
    family: str,
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "50GB",
) -> Path:
    """A random model of sizes that all differ, 4 layers and a vocabulary that no layout divides."""
    config_class, model_class, more = FAMILIES[family]
    rope = LLAMA3_ROPE if family == "llama" else {"rope_type": "default", "rope_theta": 50000.0}
    config = config_class(
        vocab_size=269,
        hidden_size=72,  # Qwen2 has no head_dim of its own: 72 / 6
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=88,
        num_hidden_layers=4,
        tie_word_embeddings=tied,
        max_position_embeddings=512,
        rope_parameters=rope,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=265,
        pad_token_id=263,
        dtype=str(dtype).removeprefix("torch."),
        **more,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(21)
        model = model_class(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:  # norms and biases
                    parameter.uniform_(0.5, 1.5)
    folder.mkdir(parents=True)
    write_byte_tokenizer(folder)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(family, tied) -> the folder and its checkpoint, each made once."""
    kept: dict[tuple[str, bool], tuple[Path, Path]] = {}

    def make(family: str, tied: bool) -> tuple[Path, Path]:
        if (family, tied) not in kept:
            folder = tmp_path_factory.mktemp("made")
            source = make_model(folder / "source", family, tied=tied)
            to_megatron(source, folder / "checkpoint")
            kept[family, tied] = source, folder / "checkpoint"
        return kept[family, tied]

    return make


def assert_same_tensors(source: Path, out: Path, dtype: torch.dtype | None = None) -> None:
    before, after = WeightFiles(source), WeightFiles(out)
    assert before.names() == after.names()
    for name in before.names():
        tensor, again = before[name], after[name]
        assert again.dtype == (dtype or tensor.dtype)
        assert torch.equal(tensor.to(again.dtype), again), name


@pytest.mark.parallel
@pytest.mark.parametrize(
    ("family", "tied", "tp", "pp"),
    [
        ("qwen3", False, 1, 1),
        ("qwen3", False, 2, 1),
        ("qwen3", True, 1, 2),
        ("qwen2", True, 2, 1),
        ("qwen2", False, 1, 2),
        ("llama", False, 2, 2),
    ],
)
def test_a_stock_model_filled_by_megatrons_own_loader_gives_the_logits_of_transformers(
    pool, made, family, tied, tp, pp
):
    source, checkpoint = made(family, tied)
    tokens = torch.randint(0, 260, (2, 23), generator=torch.Generator().manual_seed(22))
    parts = pool.run(stock_megatron.logits, tp * pp, checkpoint / "release", tokens, tp, pp)
    with torch.no_grad():
        truth = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)(tokens).logits
    assert truth.std() > 0.1  # the model does tell tokens apart
    answers = [part for part in parts if part is not None]
    assert len(answers) == tp
    for answer in answers:
        assert (answer[..., : truth.shape[-1]] - truth).abs().max() <= 1e-4


CONTENTS = [
    ("", {"singleton_local_shards": False}),
    ("", {"non_homogeneous_layers": True}),  # layers by number, rather than stacked
    ("model.", {"singleton_local_shards": True}),  # gate and up apart, too
]


@pytest.mark.parallel
@pytest.mark.parametrize(("prefix", "content"), CONTENTS)
@pytest.mark.parametrize(("family", "tied"), [("qwen3", True), ("qwen2", False)])
def test_what_megatron_saved_at_tp2_pp2_comes_back_as_the_folder_that_it_was(
    pool, made, tmp_path, family, tied, prefix, content
):
    source, checkpoint = made(family, tied)
    saved = tmp_path / "saved" / "iter_0000012"
    saved.parent.mkdir()
    (saved.parent / "latest_checkpointed_iteration.txt").write_text("12\n")
    names = pool.run(
        stock_megatron.load_and_save, 4, checkpoint / "release", saved, 2, 2, prefix, content, timeout=90.0
    )
    assert any("_extra_state" in name for name in names[0])
    shapes = Checkpoint(saved).shapes
    assert shapes[f"{prefix}embedding.word_embeddings.weight"][0] > 269  # padded for two ranks
    assert any(key.startswith("optimizer.") for key in shapes)
    to_hugging_face(saved.parent, tmp_path / "out", source=source)
    assert_same_tensors(source, tmp_path / "out")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_folder_comes_back_from_a_checkpoint_bit_by_bit(made, tmp_path, family, tied):
    source, checkpoint = made(family, tied)
    to_hugging_face(checkpoint, tmp_path / "out")
    assert_same_tensors(source, tmp_path / "out")
    companions = {path.name for path in source.iterdir()} - {"model.safetensors"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == companions | {"model.safetensors"}
    for name in companions:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_sharded_source_of_any_dtype_keeps_every_bit_and_other_dtypes_are_the_rounded_ones(tmp_path, dtype):
    source = make_model(tmp_path / "source", "qwen2", tied=True, dtype=dtype, max_shard_size="60KB")
    assert (source / "model.safetensors.index.json").is_file()
    to_megatron(source, tmp_path / "same")
    to_hugging_face(tmp_path / "same", tmp_path / "out", max_shard_size=60_000)
    assert_same_tensors(source, tmp_path / "out")

    to_megatron(source, tmp_path / "rounded", dtype=torch.bfloat16)
    to_hugging_face(tmp_path / "rounded", tmp_path / "rounded-out")
    assert_same_tensors(source, tmp_path / "rounded-out", torch.bfloat16)
    to_hugging_face(tmp_path / "same", tmp_path / "rounded-on-the-way-back", dtype=torch.bfloat16)
    assert_same_tensors(source, tmp_path / "rounded-on-the-way-back", torch.bfloat16)


def test_megatron_finds_the_checkpoint_where_its_load_looks(made):
    """`--load` reads the tracker file, whose word `release` means weights alone, at iteration 0."""
    _, checkpoint = made("qwen3", False)
    assert (checkpoint / "latest_checkpointed_iteration.txt").read_text() == "release"
    assert find_checkpoint(checkpoint) == find_checkpoint(checkpoint / "release") == checkpoint / "release"
    assert {"metadata.json", ".metadata", "common.pt"} < {
        path.name for path in (checkpoint / "release").iterdir()
    }


def test_a_checkpoint_can_be_moved(made, tmp_path):
    source, checkpoint = made("qwen3", True)
    shutil.copytree(checkpoint, tmp_path / "moved")
    to_hugging_face(tmp_path / "moved", tmp_path / "out")
    assert_same_tensors(source, tmp_path / "out")
