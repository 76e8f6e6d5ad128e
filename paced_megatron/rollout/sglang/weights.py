"""Fresh weights into running servers.

(H2's file: this is the shortest thing that works, until the real one is here. The engine calls `sync_weights`
with one client at a time; ServerError: that server fails; UserError: the folder is not right.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paced_megatron.rollout.sglang.client import ServerClient, ServerError

LOAD_S = 1800.0


def sync_weights(clients: Sequence[ServerClient], folder: Path, version: str) -> None:
    """Have every server load the folder's weights and call them `version`."""
    for client in clients:
        body = {"model_path": str(folder), "weight_version": version, "flush_cache": True}
        answer = client.post("/update_weights_from_disk", body, timeout_s=LOAD_S)
        if not answer["success"]:
            raise ServerError(f"{client.url}: {answer['message']}")
