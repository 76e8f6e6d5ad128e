"""The embedded engine on the GPU: what it draws is the model's, it leaves training's random numbers alone,
and its memory is free when it sleeps. And SGLang, where it is installed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from loop.recipes import keys, records, run_paced, write_recipe
from paced_megatron.errors import UserError
from paced_megatron.rollout import Completion, Request, Sampling
from paced_megatron.rollout.embedded import EmbeddedEngine
from sglang_server import cpu_launch, interpreter
from tiny_models import make_tiny_qwen3

pytestmark = pytest.mark.gpu

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=-1, max_new_tokens=12)
SAMPLED = Sampling(temperature=1.0, top_p=0.9, top_k=50, max_new_tokens=24)


def _requests(count: int = 10) -> list[Request]:
    """Prompts of 1 to 60 tokens, so that most of a batch is padding."""
    generator = torch.Generator().manual_seed(17)
    lengths = torch.randint(1, 60, (count,), generator=generator).tolist()
    prompts = [torch.randint(0, 260, (length,), generator=generator).tolist() for length in lengths]
    return [Request(f"p{number}", 0, tuple(one), 100 + number) for number, one in enumerate(prompts)]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def model(request, tmp_path) -> Path:
    return make_tiny_qwen3(
        tmp_path / "model", seed=4, hidden_size=192, head_dim=64, num_attention_heads=6, dtype=request.param
    )


@pytest.fixture
def engine(device, model) -> EmbeddedEngine:
    engine = EmbeddedEngine(4, device)
    engine.load_weights(model, "v1")
    return engine


def _completions(engine: EmbeddedEngine, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    return [completion for unit in engine.generate(requests, sampling) for completion in unit]


def test_it_computes_on_the_device_in_the_dtype_of_the_folder(engine, device, model):
    assert engine._loaded is not None
    parameters = [*engine._loaded.model.parameters()]
    wanted = torch.float32 if device.type == "cpu" else AutoModelForCausalLM.from_pretrained(model).dtype
    assert {one.device for one in parameters} == {device} and {one.dtype for one in parameters} == {wanted}


@torch.no_grad()
def test_greedy_tokens_of_a_padded_batch_are_the_likeliest_of_each_prompt_alone(engine, device, model):
    """Alone and in float64 on the CPU: no padding, no cache, no batch. In bf16 two tokens may change places
    whose logits are as good as equal."""
    exact = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    requests = _requests()
    on_device = engine._loaded.model.dtype
    slack = 0.25 if on_device == torch.bfloat16 else 1e-3
    known = len(AutoTokenizer.from_pretrained(model))
    for request, done in zip(requests, _completions(engine, requests, GREEDY), strict=True):
        assert done.request == request and done.token_ids
        tokens = [*request.prompt_ids, *done.token_ids]
        logits = exact(torch.tensor([tokens]), use_cache=False).logits[0, len(request.prompt_ids) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(done.token_ids)[:, None])[:, 0]
        assert (logits[:, :known].amax(1) - chosen).max() <= slack, request.problem_id
        assert logits.amax(1).min() > 1  # or the slack would say nothing


def test_sampled_attempts_are_valid_and_the_same_from_the_same_seeds(engine, device, model):
    requests, tokenizer = _requests(), AutoTokenizer.from_pretrained(model)
    first = _completions(engine, requests, SAMPLED)
    torch.rand(3, device=device)
    assert _completions(engine, requests, SAMPLED) == first
    assert _completions(engine, requests, GREEDY) != first
    for done in first:
        stopped = done.finish_reason == "stop"
        assert stopped == (done.token_ids[-1] == tokenizer.eos_token_id)
        assert stopped or len(done.token_ids) == SAMPLED.max_new_tokens
        assert all(0 <= token < len(tokenizer) for token in done.token_ids)
        assert done.weight_version == "v1"


def test_it_leaves_the_random_states_of_training_as_they_were(engine, device):
    def states() -> list[torch.Tensor]:
        on_gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
        return [torch.get_rng_state(), *on_gpu]

    torch.manual_seed(5)
    before = states()
    _completions(engine, _requests(3), SAMPLED)
    assert all(torch.equal(one, other) for one, other in zip(before, states(), strict=True))


def test_asleep_it_takes_no_memory_and_it_wakes_with_the_weights_of_another_folder(
    engine, device, model, memory, tmp_path
):
    weights = sum(one.nbytes for one in engine._loaded.model.parameters())
    first = _completions(engine, _requests(), SAMPLED)
    awake = memory()
    engine.sleep()
    if memory.counts:
        assert awake - memory() >= weights
    assert {one.device.type for one in engine._loaded.model.parameters()} == {"cpu"}
    dtype = AutoModelForCausalLM.from_pretrained(model).dtype
    sizes = {"hidden_size": 192, "head_dim": 64, "num_attention_heads": 6, "dtype": dtype}
    other = make_tiny_qwen3(tmp_path / "other", seed=5, **sizes)
    engine.load_weights(other, "v2")
    engine.check_weights(other)
    with pytest.raises(UserError, match="is another: it draws from other weights"):
        engine.check_weights(model)
    assert {one.device for one in engine._loaded.model.parameters()} == {device}
    second = _completions(engine, _requests(), SAMPLED)
    assert [one.token_ids for one in second] != [one.token_ids for one in first]
    engine.load_weights(model, "v1")
    assert _completions(engine, _requests(), SAMPLED) == first
    engine.close()
    if memory.counts:
        assert awake - memory() >= weights


def test_sglang_shares_the_gpu_with_training_where_it_is_installed(device, tmp_path):
    """A server of the job's own, in turns with training; what it needs of a GPU is SGLang's choice, but for
    the share of the memory."""
    python = interpreter(os.environ)
    if device.type == "cpu":
        launch = cpu_launch(python)
        args, env = " ".join(launch.args), dict(launch.env)
    else:
        args, env = "--mem-fraction-static 0.3 --enable-memory-saver", {}
    rollout = {
        "engine": "sglang",
        "attempts": 4,
        "max_new_tokens": 16,
        "colocate": device.type == "cuda",
        "launch": {"python": str(python), "args": args, "env": env},
    }
    training = {
        "params_dtype": "bfloat16",
        "micro_batch_size": 2,
        "global_batch_size": 4,
        "lr": 1e-3,
        "save_interval": 2,
    }
    stages = [{"divergence": "reverse_kl", "text": "rollouts", "train_iters": 3}]
    recipe = write_recipe(
        tmp_path, rollout=rollout, training=training, stages=stages, evaluation={"every": 0}
    )
    code, output, errors = run_paced("run", recipe, timeout=280)
    assert code == 0, output + errors
    stage = tmp_path / "run" / "stage-1"
    made = keys(stage / "attempts.jsonl")
    assert len(made) == len(set(made)) == 4 * len(records(tmp_path / "train.jsonl"))
    assert [step["step"] for step in records(stage / "metrics.jsonl")] == [1, 2, 3]
