"""The embedded engine against the model itself: what it writes, and when it stops."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from paced_megatron.rollout import Completion, Request, Sampling, attempt_requests
from paced_megatron.rollout.embedded import EmbeddedEngine
from tiny_models import make_tiny_qwen3

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=-1, max_new_tokens=12)
SAMPLED = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=12)


def engine_of(folder: Path, batch_size: int = 4) -> EmbeddedEngine:
    engine = EmbeddedEngine(batch_size)
    engine.load_weights(folder, "v1")
    return engine


def complete(folder: Path, requests: Sequence[Request], sampling: Sampling, **more: Any) -> list[Completion]:
    units = engine_of(folder, **more).generate(requests, sampling)
    return [completion for unit in units for completion in unit]


def greedy_by_hand(folder: Path, prompt: Sequence[int], eos_ids: set[int], length: int) -> tuple[int, ...]:
    """One prompt alone, one whole forward pass a token: no padding, no cache, no batch."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = list(prompt)
    while len(tokens) < len(prompt) + length:
        with torch.no_grad():
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
        tokens.append(int(logits.argmax()))
        if tokens[-1] in eos_ids:
            break
    return tuple(tokens[len(prompt) :])


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_greedy_batches_of_uneven_prompts_equal_whole_forward_passes_of_each_prompt_alone(
    tiny: Path, uneven_requests: list[Request], batch_size: int
) -> None:
    eos_id = AutoTokenizer.from_pretrained(tiny).eos_token_id
    completions = complete(tiny, uneven_requests, GREEDY, batch_size=batch_size)
    assert [completion.request for completion in completions] == uneven_requests
    for completion in completions[::2]:
        expected = greedy_by_hand(tiny, completion.request.prompt_ids, {eos_id}, 12)
        assert completion.token_ids == expected, completion.request.problem_id
    assert len({completion.token_ids for completion in completions}) == 5  # the prompts matter


def test_the_same_seeds_give_the_same_tokens_whatever_was_drawn_before(
    tiny: Path, uneven_requests: list[Request]
) -> None:
    first = complete(tiny, uneven_requests, SAMPLED)
    torch.manual_seed(99)
    torch.rand(7)
    assert complete(tiny, uneven_requests, SAMPLED) == first
    other_seeds = [Request(r.problem_id, r.index, r.prompt_ids, r.seed + 1) for r in uneven_requests]
    assert [c.token_ids for c in complete(tiny, other_seeds, SAMPLED)] != [c.token_ids for c in first]


def test_the_attempts_at_one_problem_differ(tiny: Path) -> None:
    requests = attempt_requests({"a": [5, 6, 7]}, attempts=8, seed=3)
    assert len({c.token_ids for c in complete(tiny, requests, SAMPLED)}) == 8


def test_a_completion_holds_the_seed_of_its_batch_and_the_version_of_the_weights(
    tiny: Path, uneven_requests: list[Request]
) -> None:
    completions = complete(tiny, uneven_requests, SAMPLED, batch_size=4)
    assert [c.seed for c in completions] == [uneven_requests[i // 4 * 4].seed for i in range(10)]
    assert {c.weight_version for c in completions} == {"v1"}


def test_generating_leaves_the_random_state_of_the_process_as_it_was(
    tiny: Path, uneven_requests: list[Request]
) -> None:
    torch.manual_seed(5)
    engine = engine_of(tiny)
    before = torch.random.get_rng_state()
    for _ in engine.generate(uneven_requests, SAMPLED):
        assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_skipped_changes_no_token_of_the_rest(tiny: Path, uneven_requests: list[Request]) -> None:
    engine = engine_of(tiny, batch_size=4)
    units = list(engine.generate(uneven_requests, SAMPLED))
    assert [len(unit) for unit in units] == [4, 4, 2]
    keys = [request.key for request in uneven_requests]
    assert list(engine.generate(uneven_requests, SAMPLED, skip=keys[:4])) == units[1:]
    # A batch that is recorded in part is made again whole.
    assert list(engine.generate(uneven_requests, SAMPLED, skip=keys[:7])) == units[1:]
    assert list(engine.generate(uneven_requests, SAMPLED, skip=keys[1:])) == units[:1]
    assert list(engine.generate(uneven_requests, SAMPLED, skip=keys)) == []


LEAKS = {
    "do_sample": True,
    "temperature": 0.1,
    "top_k": 1,
    "top_p": 0.1,
    "min_p": 0.9,
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "max_new_tokens": 2,
    "bad_words_ids": [[token] for token in range(100)],
}


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_folders_generation_config_changes_no_token(
    tiny: Path, uneven_requests: list[Request], changed: Callable[..., Path], sampling: Sampling
) -> None:
    folder = changed("generation_config.json", **LEAKS)
    assert complete(folder, uneven_requests, sampling) == complete(tiny, uneven_requests, sampling)


def test_an_attempt_ends_with_its_first_end_of_sequence_token_and_nothing_after_it(
    tiny: Path, changed: Callable[..., Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    eos_ids = {tokenizer.eos_token_id, *range(20)}
    folder = changed("generation_config.json", eos_token_id=sorted(eos_ids))
    requests = attempt_requests({"a": [100, 101], "b": [102]}, attempts=32, seed=3)
    completions = complete(folder, requests, SAMPLED, batch_size=16)
    ended = [c for c in completions if c.finish_reason == "stop"]
    cut_off = [c for c in completions if c.finish_reason == "length"]
    assert len(ended) + len(cut_off) == 64 and len(ended) >= 10 and len(cut_off) >= 10
    for completion in ended:
        assert completion.token_ids[-1] in eos_ids
        assert not eos_ids & set(completion.token_ids[:-1])
    for completion in cut_off:
        assert len(completion.token_ids) == 12
        assert not eos_ids & set(completion.token_ids)
    assert any(
        len(completion.token_ids) == 12 for completion in ended
    )  # ended with its last token: no truncation


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json", "tokenizer_config.json"])
def test_an_end_of_sequence_token_is_known_from_each_of_the_folders_files(
    tiny: Path, changed: Callable[..., Path], file: str, as_list: bool
) -> None:
    request = attempt_requests({"a": [100, 101, 102]}, attempts=1, seed=1)
    [free] = complete(tiny, request, GREEDY)
    assert free.finish_reason == "length" and len(free.token_ids) == 12
    eos_id = free.token_ids[3]
    at = free.token_ids.index(eos_id)
    if file == "tokenizer_config.json":
        folder = changed(file, eos_token=AutoTokenizer.from_pretrained(tiny).convert_ids_to_tokens(eos_id))
    else:
        folder = changed(file, eos_token_id=[0, eos_id] if as_list else eos_id)
    [stopped] = complete(folder, request, GREEDY)
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: at + 1]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A model whose head has rows beyond the tokenizer, which always win; and the number of real tokens."""
    folder = make_tiny_qwen3(tmp_path_factory.mktemp("phantom"), seed=7, vocab_size=290)
    tokens = len(AutoTokenizer.from_pretrained(folder))
    return enlarge_rows(folder, tokens), tokens


def enlarge_rows(folder: Path, start: int) -> Path:
    weights = load_file(folder / "model.safetensors")
    head = weights["lm_head.weight"]
    head[start::2] = 50 * head[0]
    head[start + 1 :: 2] = -50 * head[0]  # one of the two is large whatever the hidden state
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("top_k", [-1, 1, 5])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_of_the_head_beyond_the_tokenizer_are_never_sampled(
    phantom: tuple[Path, int], uneven_requests: list[Request], temperature: float, top_k: int
) -> None:
    folder, tokens = phantom
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():  # they would be, every time
        assert int(model(torch.tensor([uneven_requests[0].prompt_ids])).logits[0, -1].argmax()) >= tokens
    sampling = Sampling(temperature, top_p=1.0, top_k=top_k, max_new_tokens=12)
    completions = complete(folder, uneven_requests, sampling)
    assert all(token < tokens for c in completions for token in c.token_ids)
    if top_k == 1:  # the likeliest among the real ones: top_k does not count the others
        greedy = complete(folder, uneven_requests, GREEDY)
        assert [c.token_ids for c in completions] == [c.token_ids for c in greedy]


def test_the_real_qwen3_tokenizer_and_its_larger_head_give_real_tokens_only(
    test_data: Path, tmp_path: Path
) -> None:
    folder = make_tiny_qwen3(tmp_path, hidden_size=16, num_hidden_layers=1, vocab_size=151_936)
    for file in (test_data / "qwen3-tokenizer").iterdir():
        shutil.copyfile(file, folder / file.name)
    tokens = 151_669
    enlarge_rows(folder, tokens)
    requests = attempt_requests({"a": [9707, 1879], "b": [785]}, attempts=4, seed=1)
    completions = complete(folder, requests, Sampling(1.0, 1.0, -1, max_new_tokens=4), batch_size=8)
    assert all(token < tokens for c in completions for token in c.token_ids)


def test_new_weights_bring_new_tokens_and_a_new_version(
    tiny: Path, tmp_path: Path, uneven_requests: list[Request]
) -> None:
    other = make_tiny_qwen3(tmp_path / "other", seed=8)
    engine = engine_of(tiny)
    before = [c for unit in engine.generate(uneven_requests, GREEDY) for c in unit]
    engine.load_weights(other, "v2")
    after = [c for unit in engine.generate(uneven_requests, GREEDY) for c in unit]
    assert {c.weight_version for c in after} == {"v2"} and engine.weight_version == "v2"
    assert [c.token_ids for c in after] != [c.token_ids for c in before]
    assert [c.token_ids for c in after] == [c.token_ids for c in complete(other, uneven_requests, GREEDY)]


def test_a_process_whose_default_type_is_float64_gets_the_same_tokens(
    tiny: Path, uneven_requests: list[Request]
) -> None:
    expected = complete(tiny, uneven_requests, SAMPLED)
    torch.set_default_dtype(torch.float64)  # as when Megatron trains in float64
    try:
        assert complete(tiny, uneven_requests, SAMPLED) == expected
    finally:
        torch.set_default_dtype(torch.float32)
