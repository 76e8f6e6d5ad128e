"""Fresh weights into running servers: a folder is checked before it is offered, and a server after.

SGLang dies of a truncated file or of a tensor of another shape, and takes a folder that lacks a tensor
without a word (the old one stays). So nothing is offered that isn't whole, and a server gets the version's
name only when its log-probabilities are those of the folder: until then its weights are called
VERSION-unchecked, and whoever finds that name gives them again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from paced_megatron.errors import UserError
from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.models.weight_files import WeightFiles, check_weights
from paced_megatron.rollout.sglang.client import ServerClient, ServerError
from paced_megatron.rollout.sglang.probe import (
    STILL,
    TOLERANCES,
    dtype_of,
    folder_answers,
    probe_for,
    server_answers,
)

LOAD_S = 1800.0  # that a server may take to read a folder
UNCHECKED = "-unchecked"
# With a request at hand, also one that has been answered a moment ago, a server takes the weights and answers
# 400, since it keeps its cache: it is offered them again.
NOT_FLUSHED = "cache was not flushed"
BUSY_PAUSES_S = (0.1, 0.5, 2.0, 5.0, 10.0)


def check_folder(folder: Path) -> ModelShape:
    """Whether a folder can be offered, by its config.json and the headers of its files.

    Raises:
        UserError: it has a tensor too few or too many, one of another shape, a file that is truncated or
            missing, an index that says otherwise than the files, or safetensors beside it; by name.
    """
    shape = model_shape(folder)
    check_weights(folder, shape)
    WeightFiles(folder).check_alone()
    return shape


def sync_weights(clients: Sequence[ServerClient], folder: Path, version: str) -> None:
    """Have every server load the folder's weights and call them `version`, all at the same time.

    Each of them was started on a folder of the same config.json (`facts.check_serves`), and can read this one
    under the same path. Nothing may be running on them. When it returns each has answered a probe with the
    folder's log-probabilities (`probe.py`), which reads the folder once more on our side.

    Raises:
        UserError: the folder is not right, and no server was touched; or a server can't read it.
        ServerError: what went wrong with a server or with several, all having been tried. None of these calls
            its weights `version`.
    """
    check_folder(folder)
    truth = folder_answers(folder)
    with ThreadPoolExecutor(max(1, len(clients))) as pool:
        sent = [pool.submit(_sync, client, folder, version, truth) for client in clients]
    errors = [error for future in sent if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, ServerError):
            raise error
    if len(errors) == 1:
        raise errors[0]
    if errors:
        retryable = any(isinstance(error, ServerError) and error.retryable for error in errors)
        raise ServerError("; ".join(map(str, errors)), retryable=retryable)


def _sync(client: ServerClient, folder: Path, version: str, truth: Tensor) -> None:
    shape = model_shape(folder)
    before, moved = server_answers(client, probe_for(shape)), _moved(client, shape, truth)
    _offer(client, folder, version + UNCHECKED)
    after = check_server(client, folder, version + UNCHECKED)
    if moved > STILL and bool((after == before).all()):
        raise ServerError(
            f"{client.url}: it says that it has the weights of {folder}, and answers as before, to the last "
            f"bit, though these differ by {moved:.2g}",
            retryable=False,
        )
    # Nothing of ours runs, and what others run has nothing to fear from a name.
    client.post("/update_weight_version", {"new_version": version, "abort_all_requests": False})
    _check_version(client, version)


def _moved(client: ServerClient, shape: ModelShape, truth: Tensor) -> float:
    """How far the truth is from that of the folder which the server has now, in nats; 0: we can't tell."""
    loaded = Path(str(client.get("/model_info").get("model_path")))
    try:
        if model_shape(loaded) != shape:
            return 0.0
        return (folder_answers(loaded) - truth).abs().max().item()
    except (UserError, OSError):
        return 0.0  # elsewhere, or gone


def _offer(client: ServerClient, folder: Path, version: str) -> None:
    # A cache of the old weights would give wrong tokens.
    body = {"model_path": str(folder.resolve()), "weight_version": version, "flush_cache": True}
    for pause in (*BUSY_PAUSES_S, None):
        try:
            answer = client.post("/update_weights_from_disk", body, timeout_s=LOAD_S)
            break
        except ServerError as error:
            if error.status != 400:
                raise
            if NOT_FLUSHED not in str(error):
                raise UserError(
                    f"{error}; does the server see {folder.resolve()} under the same path, and may it "
                    "read it?"
                ) from error
            if pause is None:
                raise ServerError(str(error)) from error  # somebody else's requests
            time.sleep(pause)
    if not (isinstance(answer, dict) and answer.get("success")):
        raise ServerError(f"{client.url}: it did not take the weights of {folder}: {answer}")


def check_server(client: ServerClient, folder: Path, version: str) -> Tensor:
    """Whether a server has a folder's weights under this name: its log-probabilities, and what it calls them.

    Returns:
        What the server answered to the probe.

    Raises:
        ServerError: it has others, or a part of others, or a cache that is older than they are.
        UserError: the folder is not complete.
    """
    _check_version(client, version)
    truth, dtype = folder_answers(folder), dtype_of(client, folder)
    answers = server_answers(client, probe_for(model_shape(folder)))
    apart = (answers - truth).abs().max().item()
    if not apart <= TOLERANCES[dtype]:  # a NaN too
        raise ServerError(
            f"{client.url}: it calls its weights {version}, but its log-probabilities are up to {apart:.2g} "
            f"nats from those of {folder}, and a server in {dtype} may be {TOLERANCES[dtype]:g} off: its "
            "weights, or its cache, are others",
            retryable=False,
        )
    return answers


def _check_version(client: ServerClient, version: str) -> None:
    info = client.get("/model_info")
    named = info.get("weight_version") if isinstance(info, dict) else None
    if named != version:
        raise ServerError(f"{client.url}: it calls its weights {named!r}, not {version!r}", retryable=False)
