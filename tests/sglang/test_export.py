"""A real SGLang serves what we export: its tokens and log-probabilities are those of the model we loaded.

The truth is transformers on the source; the server sees only the export, which came out of our GPTModel on
two ranks. A model that is written wrong, or that SGLang reads otherwise than transformers does, is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from models.family_models import SIZES, Variant, make_model
from paced_megatron.models.families import model_shape
from paced_megatron.models.folder import load_weights, save_folder
from paced_megatron.models.gpt import build_model
from paced_megatron.rollout.agreement import measure_agreement
from paced_megatron.rollout.sglang.client import ServerClient
from paced_megatron.runtime.cpu import megatron_on_cpu
from paced_megatron.runtime.world import parallel_groups
from sglang_server import STARTUP_S, Server
from tiny_models import make_tiny_qwen3

pytestmark = [pytest.mark.sglang, pytest.mark.parallel, pytest.mark.timeout(STARTUP_S + 180)]


def a_model_of(family: str) -> Callable[..., Path]:
    """make(folder, seed=...): a tiny model of the family, its biases and norms drawn too.

    SGLang takes Qwen2's heads to be as wide as hidden_size / num_attention_heads, as published ones are.
    """
    variant = Variant(family, tied=family == "qwen2", dtype=torch.float32, sharded=False)
    changes = {"head_dim": SIZES["hidden_size"] // SIZES["num_attention_heads"]} if family == "qwen2" else {}
    return lambda folder, seed: make_model(folder, variant, seed=seed, **changes)


FAMILIES: dict[str, Callable[..., Path]] = {
    "qwen3": make_tiny_qwen3,
    "qwen2": a_model_of("qwen2"),
    "llama": a_model_of("llama"),
}
BOUND = 1e-4  # nats; 4e-6 is what two float32 implementations differ by
NEW_TOKENS = 24
PROMPT_LENGTHS = (1, 5, 17, 60)


def load_and_save(rank: int, world_size: int, source: Path, out: Path) -> None:
    """Load the model over all ranks and write it as a folder again."""
    with megatron_on_cpu():
        groups = parallel_groups(world_size, seed=1)
        shape = model_shape(source)
        model = build_model(shape, groups, torch.float32)
        load_weights(model, shape, source, groups)
        save_folder(model, shape, groups, source=source, out=out)


@dataclass(frozen=True)
class Exported:
    """Two models of one family, as they came and as we wrote them, and a server that was started on the first
    export."""

    sources: tuple[Path, Path]
    exports: tuple[Path, Path]
    server: Server


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request, pool, sglang_server, tmp_path_factory) -> Iterator[Exported]:
    folder = tmp_path_factory.mktemp(request.param)
    names = ("first", "second")
    sources = [FAMILIES[request.param](folder / name, seed=seed) for seed, name in enumerate(names, start=21)]
    exports = [folder / f"{name}-export" for name in names]
    for source, out in zip(sources, exports, strict=True):
        pool.run(load_and_save, 2, source, out)
    server = sglang_server(exports[0])
    yield Exported((sources[0], sources[1]), (exports[0], exports[1]), server)
    server.stop()


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(22)
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in PROMPT_LENGTHS]


def served(server: Server) -> list[dict[str, Any]]:
    """The server's greedy answers to `prompts()`, with the log-probability of every token of both."""
    sampling = {"temperature": 0, "max_new_tokens": NEW_TOKENS}
    request = {"input_ids": prompts(), "sampling_params": sampling}
    return server.post("/generate", request | {"return_logprob": True, "logprob_start_len": 0})


def check_answers(answers: list[dict[str, Any]], source: Path, version: str) -> None:
    """The answers are transformers' on `source`: tokens, and log-probabilities of prompt and answer."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    for prompt, answer in zip(prompts(), answers, strict=True):
        whole = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW_TOKENS)[0]
        assert prompt + answer["output_ids"] == whole.tolist()
        meta = answer["meta_info"]
        assert meta["weight_version"] == version
        # [log-probability, token, text] each; a prompt's first token has no log-probability.
        entries = meta["input_token_logprobs"] + meta["output_token_logprobs"]
        assert [entry[1] for entry in entries] == whole.tolist()
        assert entries[0][0] is None
        with torch.no_grad():
            expected = model(whole[None]).logits[0, :-1].log_softmax(-1).gather(1, whole[1:, None])[:, 0]
        assert (torch.tensor([entry[0] for entry in entries[1:]]) - expected).abs().max() <= BOUND
        assert expected.std() > 0.1  # the model does tell tokens apart


def update_weights(server: Server, folder: Path, version: str) -> None:
    body = {"model_path": str(folder), "weight_version": version}
    assert server.post("/update_weights_from_disk", body)["success"]


def test_a_server_on_the_export_answers_as_transformers_does_on_the_source(exported):
    assert exported.server.get("/model_info")["weight_version"] == "default"
    check_answers(served(exported.server), exported.sources[0], version="default")


def test_the_running_server_takes_weights_from_another_folder_and_answers_with_them(exported):
    before = served(exported.server)
    update_weights(exported.server, exported.exports[1], version="7")
    try:
        after = served(exported.server)
        check_answers(after, exported.sources[1], version="7")
        assert exported.server.get("/model_info")["weight_version"] == "7"
        for one, other in zip(before, after, strict=True):  # there is something to take
            assert one["output_ids"] != other["output_ids"]
    finally:
        update_weights(exported.server, exported.exports[0], version="default")
    assert [answer["output_ids"] for answer in served(exported.server)] == [
        answer["output_ids"] for answer in before
    ]


def test_sglang_megatron_and_transformers_agree_about_the_export(exported):
    client = ServerClient(exported.server.url)
    agreement = measure_agreement(exported.exports[0], client, ("17 + 25?", "x"), new_tokens=NEW_TOKENS)
    assert agreement.agrees and not agreement.left_out
    assert agreement.template == ""
    assert agreement.dtype == "float32" and agreement.weight_version == "default"
    assert len(agreement.differences) == 3
    for difference in agreement.differences:
        assert 0 < difference.largest <= BOUND
        assert 0 < difference.mean <= difference.largest
