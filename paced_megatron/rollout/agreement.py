"""Do SGLang, Megatron and transformers compute one model? The log-probabilities of sampled tokens tell.

A server samples answers; how likely each of their tokens is, is asked of the server, of our GPTModel with the
folder's weights, and of transformers. A wrong converter, a stale weight or another chat template shows in a
minute. Needs no running job: the process that calls it plays one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil
from torch import Tensor, tensor
from transformers import PreTrainedTokenizerBase

from paced_megatron.config import PromptConfig
from paced_megatron.errors import UserError
from paced_megatron.models.families import model_shape
from paced_megatron.models.hidden_states import (
    HiddenStates,
    bytes_in_float32,
    megatron_states,
    transformers_states,
)
from paced_megatron.models.weight_files import check_weights
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.prompts import check_prompts, prompt_token_ids, template_arguments
from paced_megatron.problems.tokenizer import load_tokenizer
from paced_megatron.rollout.sglang.client import ServerClient, ServerError
from paced_megatron.rollout.sglang.facts import check_serves, read_facts, read_version
from paced_megatron.rollout.sglang.probe import TOLERANCES, dtype_of, number

NEW_TOKENS = 32  # sampled after each prompt
QUESTIONS = (
    "How much is 17 + 25?",
    "Find the remainder when $2^{100}$ is divided by 7.",
    "A train leaves at 9:40 and arrives at 13:05. How many minutes does the journey take?",
    "Let x be a real number with |x - 3| < 2. Which integers can x be?\nGive all of them.",
)
OURS: dict[str, Callable[[Path, Sequence[Sequence[int]]], HiddenStates]] = {
    "Megatron": megatron_states,
    "transformers": transformers_states,
}


@dataclass(frozen=True)
class Difference:
    """Between two of the three, over all sampled tokens; in nats.

    Attributes:
        bound: `largest` may be up to it.
        text, position, token_id: of the token where they differ most: which answer (from 0), which token of
            it (from 0).
    """

    pair: tuple[str, str]
    largest: float
    mean: float
    bound: float
    text: int
    position: int
    token_id: int

    @property
    def agrees(self) -> bool:
        return self.largest <= self.bound  # not where it is NaN


@dataclass(frozen=True)
class Agreement:
    """What was compared, and what came out.

    Attributes:
        answers: the sampled token ids, by prompt.
        dtype: the server's.
        template: what is wrong with the server's chat template or tokenizer; "": nothing; None: it doesn't
            tell.
        left_out: why one of the three was not compared; "": none was.
    """

    answers: tuple[tuple[int, ...], ...]
    weight_version: str
    dtype: str
    differences: tuple[Difference, ...]
    template: str | None
    left_out: str = ""

    @property
    def agrees(self) -> bool:
        return not self.template and all(difference.agrees for difference in self.differences)


def measure_agreement(
    folder: Path,
    client: ServerClient,
    questions: Sequence[str] = QUESTIONS,
    *,
    prompts: PromptConfig | None = None,
    new_tokens: int = NEW_TOKENS,
    tolerance: float | None = None,
) -> Agreement:
    """Compare a server with the folder whose weights it should have.

    Args:
        questions: each becomes a prompt by the folder's tokenizer and chat template.
        tolerance: in nats; None: by the server's dtype, and 1e-4 between Megatron and transformers.

    Raises:
        UserError: the folder is not complete or its tokenizer has no chat template, a prompt has no room in
            the context, or the server is none, or serves a model of other shapes.
        ServerError: the server does not answer.
    """
    shape = model_shape(folder)
    check_weights(folder, shape)
    config, tokenizer = prompts or PromptConfig(), load_tokenizer(folder, prompts)
    check_prompts(tokenizer, config)
    ids = [prompt_token_ids(tokenizer, _problem(question), config) for question in questions]
    facts = read_facts(client)
    check_serves(client, facts, shape, folder)
    room = min(facts.room, shape.max_position_embeddings)
    for question, prompt in zip(questions, ids, strict=True):
        if not prompt or max(prompt) >= shape.vocab_size or len(prompt) + new_tokens > room:
            raise UserError(
                f"the prompt {question[:40]!r} has {len(prompt)} tokens; with {new_tokens} more it has to "
                f"fit into {room}, and its ids into a vocabulary of {shape.vocab_size}: ask something shorter"
            )
    sampled = [_sample(client, prompt, new_tokens, shape.vocab_size) for prompt in ids]
    answers = tuple(answer for answer, _ in sampled)
    texts = [(*prompt, *answer) for prompt, answer in zip(ids, answers, strict=True)]
    found: dict[str, list[Tensor]] = {"SGLang": [values for _, values in sampled]}
    left_out = _no_room_for_megatron(folder)
    for name, states_of in OURS.items():
        if not (name == "Megatron" and left_out):
            states = states_of(folder, texts)
            found[name] = [
                states.log_probabilities(number, text)[len(prompt) - 1 :]
                for number, (text, prompt) in enumerate(zip(texts, ids, strict=True))
            ]
    dtype = dtype_of(client, folder)
    bounds = {"SGLang": TOLERANCES[dtype], "Megatron": TOLERANCES["float32"]}
    return Agreement(
        answers,
        read_version(client),
        dtype,
        tuple(
            _difference((one, other), found, answers, bounds[one] if tolerance is None else tolerance)
            for one, other in combinations(found, 2)
        ),
        _template_trouble(client, questions, ids, tokenizer, config),
        left_out,
    )


def _problem(question: str) -> Problem:
    return Problem(id="agreement", problem=question, answer="")


def _no_room_for_megatron(folder: Path) -> str:
    needed, free = bytes_in_float32(folder), psutil.virtual_memory().available
    if 1.2 * needed <= free:
        return ""
    return (
        f"Megatron: not compared; the whole model takes {needed / 1e9:.1f} GB in float32, and "
        f"{free / 1e9:.1f} GB of memory are free"
    )


def _sample(
    client: ServerClient, prompt: Sequence[int], new_tokens: int, vocab_size: int
) -> tuple[tuple[int, ...], Tensor]:
    """An answer, and its tokens' log-probabilities, float32 [its length]."""
    answer = client.post(
        "/generate",
        {
            "input_ids": list(prompt),
            # At another temperature SGLang's log-probabilities would be those of the divided logits.
            "sampling_params": {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_new_tokens": new_tokens},
            "return_logprob": True,
        },
    )
    try:
        entries = answer["meta_info"]["output_token_logprobs"]
        ids, values = tuple(int(entry[1]) for entry in entries), [number(entry[0]) for entry in entries]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ServerError(
            f"{client.url}: log-probabilities were asked for, and {error!r} is lacking"
        ) from error
    if not ids or not 0 <= min(ids) <= max(ids) < vocab_size:
        raise ServerError(f"{client.url}: it answered with no token, or with one beyond {vocab_size - 1}")
    return ids, tensor(values)


def _difference(
    pair: tuple[str, str], found: dict[str, list[Tensor]], answers: Sequence[Sequence[int]], bound: float
) -> Difference:
    apart = [(one - other).abs() for one, other in zip(found[pair[0]], found[pair[1]], strict=True)]
    # NaN counts as the largest.
    worst = [difference.nan_to_num(nan=float("inf")).max().item() for difference in apart]
    text = worst.index(max(worst))
    position = int(apart[text].nan_to_num(nan=float("inf")).argmax())
    return Difference(
        pair,
        largest=apart[text][position].item(),
        mean=sum(float(difference.sum()) for difference in apart) / sum(map(len, apart)),
        bound=bound,
        text=text,
        position=position,
        token_id=answers[text][position],
    )


def _template_trouble(
    client: ServerClient,
    questions: Sequence[str],
    ids: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    config: PromptConfig,
) -> str | None:
    """What the server's own tokenizer and chat template make of the same questions, where it tells. Rollouts
    don't use them; but a folder whose files differ from the server's is not the one that it serves."""
    for question, ours in zip(questions, ids, strict=True):
        turns = [{"role": "user", "content": config.template.replace("{problem}", question)}]
        if config.system_prompt is not None:
            turns.insert(0, {"role": "system", "content": config.system_prompt})
        body: dict[str, Any] = {"messages": turns, "add_generation_prompt": True}
        if arguments := template_arguments(tokenizer, config):
            body["chat_template_kwargs"] = arguments
        try:
            theirs = client.post("/v1/tokenize", body)["tokens"]
        except (ServerError, KeyError, TypeError):
            return None
        if list(theirs) != list(ours):
            at = next(
                (k for k, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b),
                min(len(theirs), len(ours)),
            )
            shown = [repr(tokenizer.decode(list(side)[at : at + 8])) for side in (theirs, ours)]
            return (
                f"of {question[:40]!r} the server's tokenizer and chat template make {len(theirs)} tokens, "
                f"the folder's {len(ours)}; from token {at + 1} on {shown[0]} there and {shown[1]} here"
            )
    return ""
