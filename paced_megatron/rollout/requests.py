"""The requests of a phase: K attempts a problem, each with a seed of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from paced_megatron.rollout.engine import Request


def attempt_requests(prompts: Mapping[str, Sequence[int]], attempts: int, seed: int) -> list[Request]:
    """`attempts` requests for each problem of `prompts` (problem id -> token ids), a problem's side by side.

    A seed depends on (seed, problem id, index) alone: adding or reordering problems leaves the others' seeds.
    """
    return [
        Request(problem_id, index, tuple(prompt_ids), attempt_seed(seed, problem_id, index))
        for problem_id, prompt_ids in prompts.items()
        for index in range(attempts)
    ]


def attempt_seed(seed: int, problem_id: str, index: int) -> int:
    """A seed below 2^31, which every engine takes. SHA-256, as Python's hash() differs between processes."""
    digest = hashlib.sha256(json.dumps([seed, problem_id, index]).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
