"""The requests of a phase: each with a seed of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from paced_megatron.rollout.engine import Key, Request


def attempt_requests(prompts: Mapping[str, Sequence[int]], attempts: int, seed: int) -> list[Request]:
    """`attempts` requests for each problem of `prompts` (problem id -> token ids), a problem's side by side.

    A seed depends on (seed, problem id, index) alone: adding or reordering problems leaves the others' seeds.
    """
    keys = [(problem_id, index) for problem_id in prompts for index in range(attempts)]
    return keyed_requests(prompts, keys, seed)


def keyed_requests(prompts: Mapping[str, Sequence[int]], keys: Sequence[Key], seed: int) -> list[Request]:
    """A request for each (problem id, index), in this order, with the seeds of `attempt_requests`."""
    return [
        Request(problem_id, index, tuple(prompts[problem_id]), attempt_seed(seed, problem_id, index))
        for problem_id, index in keys
    ]


def attempt_seed(seed: int, problem_id: str, index: int) -> int:
    """A seed below 2^31, which every engine takes. SHA-256, as Python's hash() differs between processes."""
    digest = hashlib.sha256(json.dumps([seed, problem_id, index]).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
