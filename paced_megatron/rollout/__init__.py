"""Rollouts: how prompts become attempts, and the file in which every attempt is kept.

Here belong the engines behind one interface (`engine.py`; the embedded one in `embedded.py`), the attempts
file (`attempts.py`), the requests with their seeds (`requests.py`), and `collect.py`, which asks an engine
for what the file lacks: open that one first. What a prompt is and whether a response is right is settled in
`problems/`; what the outcomes mean for training, in `pacing/`. A new engine is one file beside `embedded.py`
and a row in `engines.py`. Only engines import torch.
"""

from __future__ import annotations

from paced_megatron.rollout.attempts import (
    Attempt,
    append_attempts,
    outcome_counts,
    outcome_warnings,
    read_attempts,
    recover_attempts,
)
from paced_megatron.rollout.collect import collect_attempts
from paced_megatron.rollout.engine import Completion, Request, RolloutEngine, Sampling
from paced_megatron.rollout.requests import attempt_requests

__all__ = [
    "Attempt",
    "Completion",
    "Request",
    "RolloutEngine",
    "Sampling",
    "append_attempts",
    "attempt_requests",
    "collect_attempts",
    "outcome_counts",
    "outcome_warnings",
    "read_attempts",
    "recover_attempts",
]
