"""The stand-in of tests/rollout answers in the real server's shapes: what it has, a real answer has too, with
values of the same kind."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from rollout.sglang_stand_in import StandIn
from sglang_server import STARTUP_S, Server

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(STARTUP_S + 180)]

PARAMS = {"max_new_tokens": 6, "temperature": 0.0, "stop_token_ids": [1], "sampling_seed": 3}
PARAMS |= {"stream_interval": 6}
GROUP = {"input_ids": [[5, 6], [7]], "sampling_params": [PARAMS, PARAMS], "stream": True}
VOCABULARY = {
    "input_ids": [0],
    "sampling_params": {"max_new_tokens": 1},
    "return_logprob": True,
    "token_ids_logprob": [10_000],
}


def shape(value: Any) -> Any:
    """Keys and kinds of values; of a list those of its first entry."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def lacking(real: Any, stand_in: Any, name: str = "") -> list[str]:
    """Where the stand-in says something that the real one does not say so."""
    if isinstance(stand_in, dict) and isinstance(real, dict):
        inner = [lacking(real.get(key), item, f"{name}.{key}") for key, item in stand_in.items()]
        return [line for lines in inner for line in lines]
    if isinstance(stand_in, list) and isinstance(real, list) and stand_in and real:
        return lacking(real[0], stand_in[0], f"{name}[]")
    return [] if shape(real) == shape(stand_in) else [f"{name}: {shape(real)}, not {shape(stand_in)}"]


def answers(url: str) -> dict[str, Any]:
    """What a server says to everything that the engine asks, by path."""
    said: dict[str, Any] = {}
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        for path in ("/model_info", "/server_info"):
            said[path] = http.get(path).json()
        said["/nope"] = http.get("/nope").status_code
        said["/health"] = http.get("/health").status_code, http.get("/health").content
        refused = http.post("/generate", json=VOCABULARY)
        said["vocabulary"] = refused.status_code, refused.json()["error"]["message"]
        body = GROUP | {"rid": [f"a-{url}", f"b-{url}"]}
        lines = http.post("/generate", json=body).text.split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
        for done in (True, False):
            of_kind = [e for e in events if bool(e["meta_info"]["finish_reason"]) is done]
            assert {event["index"] for event in of_kind} == {0, 1}
            said["done" if done else "going on"] = [
                event | {"meta_info": event["meta_info"] | {"finish_reason": None}} for event in of_kind
            ]
        said["reasons"] = {e["meta_info"]["finish_reason"]["type"] for e in events if done_with(e)}
        said["abort"] = http.post("/abort_request", json={"rid": "nobody"}).content
    return said


def done_with(event: dict[str, Any]) -> bool:
    return bool(event["meta_info"]["finish_reason"])


def test_what_the_stand_in_answers_a_real_server_answers_too(tiny_server: Server) -> None:
    real = answers(tiny_server.url)
    with StandIn(tiny_server.folder) as stand_in:
        pretended = answers(stand_in.url)
    assert not lacking(real, pretended)
    assert real["reasons"] | pretended["reasons"] <= {"stop", "length"}
    for path in ("vocabulary", "/nope", "/health", "abort"):
        assert real[path] == pretended[path]
    assert real["/server_info"]["max_req_input_len"] == pretended["/server_info"]["max_req_input_len"]
