"""The table of rollout engines: a new one is a row here and a module beside `embedded.py`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from paced_megatron.config import RolloutConfig
from paced_megatron.rollout.embedded import EmbeddedEngine
from paced_megatron.rollout.engine import RolloutEngine

# name in `rollout.engine` -> (configuration, device of rank 0) -> engine without weights
ENGINES: dict[str, Callable[[RolloutConfig, torch.device], RolloutEngine]] = {
    "embedded": lambda rollout, device: EmbeddedEngine(rollout.batch_size, device),
}
