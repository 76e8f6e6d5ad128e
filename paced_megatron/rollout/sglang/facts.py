"""What a running server says of itself, and whether it serves the model that it should."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.rollout.sglang.client import ServerClient, ServerError

_VOCABULARY = re.compile(r"valid range is \[0, (\d+)\)")
_KEY_REMEDY = "set the environment variable SGLANG_API_KEY to the server's key"


@dataclass(frozen=True)
class ServerFacts:
    """From /server_info and /model_info of SGLang 0.5.

    Attributes:
        model_path: the folder that it was started on, on its own host.
        model_type: as in config.json.
        room: tokens that a prompt and its answer may have together; beyond it the server cuts the answer
            short without a word. It is the context (or the cache, if that is smaller) less two.
        max_running_requests: sequences that it generates at a time.
        deterministic: it draws by `sampling_seed`; otherwise it ignores it.
        memory_saver: it can really release its memory.
    """

    model_path: str
    model_type: str
    room: int
    max_running_requests: int
    deterministic: bool
    memory_saver: bool


def read_facts(client: ServerClient) -> ServerFacts:
    """Ask a server what it is.

    Raises:
        ServerError: it does not answer now.
        UserError: it answers and is no SGLang server, or does not know us.
    """
    model, server = _ask(client, "/model_info"), _ask(client, "/server_info")
    try:
        state = server["internal_states"][0]
        running = state.get("effective_max_running_requests_per_dp") or server["max_running_requests"]
        facts = ServerFacts(
            model_path=str(server["model_path"]),
            model_type=str(model["model_type"]),
            room=int(server["max_req_input_len"]) + 4,  # max_req_input_len is the context less six
            max_running_requests=int(running) * int(server.get("dp_size") or 1),
            deterministic=bool(server["enable_deterministic_inference"]),
            memory_saver=bool(server.get("enable_memory_saver")),
        )
        generates = bool(model["is_generation"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{client.url}: not an SGLang server that we know (its answers lack {error}); check rollout.urls"
        ) from error
    if not generates:
        raise UserError(f"{client.url}: the server does not generate text (is_generation is false)")
    return facts


def read_version(client: ServerClient) -> str:
    """The name of the weights that the server has. Raises ServerError, UserError as `read_facts`."""
    answer = _ask(client, "/model_info")
    return str(answer.get("weight_version")) if isinstance(answer, dict) else ""


def _ask(client: ServerClient, path: str) -> Any:
    try:
        return client.get(path)
    except ServerError as error:
        if error.status in (401, 403):
            raise UserError(f"{client.url} refuses us ({error.status}): {_KEY_REMEDY}") from error
        if error.status is not None and error.status < 500:
            raise UserError(
                f"{client.url}: not an SGLang server ({error.status} for {path}); check rollout.urls"
            ) from error
        if not error.retryable:
            raise UserError(f"{error}; check rollout.urls") from error
        raise


def check_serves(client: ServerClient, facts: ServerFacts, shape: ModelShape, folder: Path) -> None:
    """The server's model can take this folder's weights: family, vocabulary, and where its own folder can be
    read from here, every other size. Weights of other shapes would kill it.

    Raises:
        UserError: it can't. ServerError: it does not answer now.
    """
    if facts.model_type != shape.family:
        raise UserError(
            f"{client.url} serves a {facts.model_type} model ({facts.model_path}), and {folder} is a "
            f"{shape.family} model: start the server on {folder}"
        )
    vocabulary = _vocabulary(client, shape.vocab_size)
    if vocabulary is not None and vocabulary != shape.vocab_size:
        raise UserError(
            f"{client.url} serves a model with {vocabulary} tokens ({facts.model_path}), and {folder} has "
            f"{shape.vocab_size}: start the server on {folder}"
        )
    if (Path(facts.model_path) / "config.json").is_file():
        served = model_shape(Path(facts.model_path))
        differ = [name for name, value in vars(shape).items() if getattr(served, name) != value]
        if differ:
            raise UserError(
                f"{client.url} serves {facts.model_path}, whose {', '.join(differ)} differ from {folder}: "
                f"start the server on {folder}"
            )


def _vocabulary(client: ServerClient, expected: int) -> int | None:
    """The size of the server's vocabulary, which it only tells where an id is beyond it: a log-probability of
    the first id that should not exist is asked for. None: this server does not tell."""
    body = {
        "input_ids": [0],
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "token_ids_logprob": [expected],
    }
    try:
        client.post("/generate", body)
    except ServerError as error:
        told = _VOCABULARY.search(str(error))
        if told:
            return int(told[1])
        if error.status == 400:
            return None
        raise
    raise UserError(
        f"{client.url} has a token {expected}, which the model does not have: it serves another vocabulary"
    )
