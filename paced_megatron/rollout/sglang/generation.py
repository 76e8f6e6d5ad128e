"""A group of attempts as one POST to a server, and what is checked of its answers.

The answer is streamed, an event for each attempt that is done: a group costs the server no more than one
request, and yet no attempt waits for the slowest of its group.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.rollout.engine import Completion, Request, Sampling
from paced_megatron.rollout.sglang.client import ServerClient, ServerError


@dataclass(frozen=True)
class Generation:
    """What all attempts of a phase have in common.

    Attributes:
        stop_ids: token ids that end a text; rows: of the model's head.
        served_version: what the servers call the weights; `version`: what we call them.
        timeout_s: seconds that a group may take.
    """

    sampling: Sampling
    stop_ids: tuple[int, ...]
    rows: int
    served_version: str
    version: str
    timeout_s: float


def generate_group(
    client: ServerClient, group: Sequence[Request], how: Generation, ids: Sequence[str]
) -> Iterator[tuple[int, Completion | None]]:
    """Have a group of attempts made, in one POST; each is yielded with its position when it is done, None for
    one that the server gave up (it is to be asked for again).

    Args:
        ids: a name that no other request has, for each attempt; `/abort_request` takes them.

    Raises:
        ServerError: no answer, or one that can't be right; what was not yielded is to be asked for again.
        UserError: the server refuses the request.
    """
    body = {
        "input_ids": [list(request.prompt_ids) for request in group],
        "sampling_params": [sampling_params(how, request.seed) for request in group],
        "rid": list(ids),
        "stream": True,
    }
    left = set(range(len(group)))
    try:
        for event in client.stream("/generate", body, timeout_s=how.timeout_s):
            position = _position(client.url, event, left)
            if position is not None:
                left.remove(position)
                yield position, _completion(client.url, group[position], event, how)
    except ServerError as error:
        if error.retryable:
            raise
        raise UserError(
            f"the server refuses attempt {group[0].index} of problem {group[0].problem_id} "
            f"({how.sampling}): {error}"
        ) from error
    if left:
        raise ServerError(f"{client.url}/generate: {len(left)} of {len(group)} answers are missing")


def _position(url: str, event: Any, left: Collection[int]) -> int | None:
    """Which attempt of the group an event ends; None: it is still being made."""
    try:
        if "error" in event:
            said, code = event["error"]["message"], event["error"].get("code")
            known = code if isinstance(code, int) else None
            raise ServerError(f"{url}/generate: {said}", known, retryable=known != 400)
        position, reason = event["index"], event["meta_info"]["finish_reason"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ServerError(f"{url}/generate: an event lacks {error}") from error
    if position not in left:
        raise ServerError(f"{url}/generate: an answer to attempt {position} of the group, which is not open")
    return position if reason is not None else None


def sampling_params(how: Generation, seed: int) -> dict[str, Any]:
    """SGLang's words. All are given, so that no default of the server's takes part."""
    sampling = how.sampling
    return {
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1.0,
        "min_new_tokens": 0,
        "stop_token_ids": list(how.stop_ids),
        "ignore_eos": False,
        "n": 1,
        "stream_interval": sampling.max_new_tokens,  # an event at the first token, and one at the end
        "sampling_seed": seed,
    }


def _completion(url: str, request: Request, answer: Any, how: Generation) -> Completion | None:
    """The answer, checked. What is wrong here was not asked for wrongly, so it may be asked for again."""
    try:
        tokens, meta = tuple(answer["output_ids"]), answer["meta_info"]
        reason, count = meta["finish_reason"]["type"], meta["completion_tokens"]
        versions = {meta["weight_version"], *(span["version"] for span in meta.get("weight_versions") or ())}
    except (KeyError, TypeError) as error:
        raise ServerError(f"{url}/generate: an answer lacks {error}") from error
    if reason == "abort":
        return None
    where = f"{url}/generate: attempt {request.index} of problem {request.problem_id}"
    if versions != {how.served_version}:
        shown = ", ".join(sorted(map(repr, versions)))
        raise ServerError(f"{where}: made by weights {shown}, not by {how.served_version!r}")
    if reason not in ("stop", "length"):
        raise ServerError(f"{where}: ended as {reason!r}, which we don't know")
    if any(type(token) is not int or not 0 <= token < how.rows for token in tokens):
        raise ServerError(f"{where}: has a token id that the model does not have")
    longest = how.sampling.max_new_tokens
    fits = len(tokens) == longest if reason == "length" else 0 < len(tokens) <= longest
    if not fits or count != len(tokens):
        raise ServerError(f"{where}: ended as {reason!r} after {len(tokens)} of {longest} tokens")
    # At the last token allowed SGLang says "length", also where that token ends the text.
    finish_reason = "stop" if tokens[-1] in how.stop_ids else reason
    return Completion(request, tokens, finish_reason, request.seed, how.version)
