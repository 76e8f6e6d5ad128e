"""A short probe: a few log-probabilities that tell which weights a server really has.

The server is asked how likely a few tokens are after each of a few prompts, and transformers is asked the
same of the folder. The prompts go through the server's prefix cache on purpose: a cache that outlived its
weights is seen too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from paced_megatron.errors import UserError
from paced_megatron.models.families import ModelShape, model_shape, read_config
from paced_megatron.models.hidden_states import transformers_states
from paced_megatron.rollout.sglang.client import ServerClient, ServerError

PROMPT_LENGTHS = (4, 16, 48)
ASKED_IDS = 16  # after each prompt

# By the server's dtype, in nats: how far its answers may be from float32 arithmetic on the folder's weights.
# float32: 4e-6 was seen on a real server. The others round weights, layers and logits: with transformers in
# bfloat16 on the quickstart's models the probe is up to 0.16 off (0.07 on average), in float16
# 0.03. So wide a bound catches other models; weights that are a step old are caught by `STILL`.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.5, "float16": 0.1}
# Where the truth moved by more than this from the folder before, and not one bit of the answers did, the
# server has kept its weights, whatever its dtype. In nats.
STILL = 1e-3


@dataclass(frozen=True)
class Probe:
    """What is asked: log-probabilities of `ids` after each of `prompts`."""

    prompts: tuple[tuple[int, ...], ...]
    ids: tuple[int, ...]


def probe_for(shape: ModelShape) -> Probe:
    """The same for every model of one vocabulary and context."""
    generator = torch.Generator().manual_seed(0)
    longest = max(shape.max_position_embeddings // 2, 1)
    # From 1 on: SGLang's /health leaves a text that begins with 0 in the cache.
    first = min(1, shape.vocab_size - 1)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(first, shape.vocab_size, (count,), generator=generator).tolist())

    return Probe(tuple(draw(min(length, longest)) for length in PROMPT_LENGTHS), draw(ASKED_IDS))


def folder_answers(folder: Path) -> torch.Tensor:
    """The truth, by transformers in float32 on the CPU: [prompts, ids]. It reads the folder once and holds a
    layer at a time; asked again of the same files it is there already.

    Raises:
        UserError: the folder is not complete, or its weights give no numbers.
    """
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json"])
    stamp = tuple(
        (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()
    )
    return _folder_answers(folder.resolve(), stamp)


@lru_cache(maxsize=64)
def _folder_answers(folder: Path, stamp: Sequence[tuple[str, int, int]]) -> torch.Tensor:
    probe = probe_for(model_shape(folder))
    states = transformers_states(folder, probe.prompts)
    with torch.no_grad():
        last = [states.log_softmax_at(number, slice(-1, None))[0] for number in range(len(probe.prompts))]
    answers = torch.stack(last)[:, list(probe.ids)]
    if not answers.isfinite().all():
        raise UserError(
            f"{folder}: its weights give log-probabilities that are no numbers; did training diverge?"
        )
    return answers


def server_answers(client: ServerClient, probe: Probe) -> torch.Tensor:
    """The same by the server, as it is now: [prompts, ids].

    Raises:
        ServerError: it does not answer, or with something else.
    """
    answers = client.post(
        "/generate",
        {
            "input_ids": [list(prompt) for prompt in probe.prompts],
            # At temperature 1, without cuts and penalties, SGLang's are those of the plain softmax.
            "sampling_params": {
                "temperature": 1.0,
                "top_p": 1.0,
                "top_k": -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "max_new_tokens": 1,
                "ignore_eos": True,
            },
            "return_logprob": True,
            "token_ids_logprob": list(probe.ids),
        },
    )
    try:
        rows = [answer["meta_info"]["output_token_ids_logprobs"][0] for answer in answers]
        by_id = [{entry[1]: number(entry[0]) for entry in row} for row in rows]
        return torch.tensor([[row[wanted] for wanted in probe.ids] for row in by_id])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ServerError(
            f"{client.url}: log-probabilities were asked for, and {error!r} is lacking"
        ) from error


def number(said: float | None) -> float:
    """A log-probability of an answer; JSON has null for what is no number, as broken weights give."""
    return math.nan if said is None else float(said)


def dtype_of(client: ServerClient, folder: Path) -> str:
    """The server's dtype, a row of TOLERANCES; "auto" is what config.json says.

    Raises:
        ServerError: it does not answer, or has a dtype that we don't know.
    """
    info = client.get("/server_info")
    dtype = str(info.get("dtype")) if isinstance(info, dict) else "?"
    if dtype == "auto":
        dtype = _stored_dtype(folder)
    dtype = {"half": "float16", "float": "float32"}.get(dtype, dtype)
    if dtype not in TOLERANCES:
        raise ServerError(
            f"{client.url}: computes in {dtype}; known are {', '.join(TOLERANCES)}", retryable=False
        )
    return dtype


def _stored_dtype(folder: Path) -> str:
    """As SGLang resolves "auto": float32 weights are served in bfloat16 or float16."""
    config = read_config(folder)
    named = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return "float16" if named == "float32" else named
