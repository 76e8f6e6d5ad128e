"""What the SGLang engine refuses before it asks for an attempt: other servers, other models, bad requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paced_megatron.errors import UserError
from paced_megatron.rollout import Sampling, attempt_requests
from paced_megatron.rollout.sglang.engine import SGLangEngine
from paced_megatron.runtime.launch import free_port
from rollout.sglang_stand_in import StandIn

SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=12)
EngineOn = Callable[..., SGLangEngine]


def refused(engine_on: EngineOn, server: StandIn, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        engine_on(server.url)
    assert "\n" not in str(caught.value)
    assert not server.asked("/generate") and not server.asked("/update_weights_from_disk")


def test_where_nothing_listens_the_first_contact_says_so(engine_on: EngineOn) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=rf"{url}/.*is an SGLang server running there\? See rollout\.urls"):
        engine_on(url)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ({"model_path": "x"}, "not an SGLang server that we know .*'model_type'"),
        ({"is_generation": False}, "does not generate text"),
        ({"model_type": "llama"}, "serves a llama model .* is a qwen3 model: start the server on"),
    ],
)
def test_a_server_of_another_kind_or_family_is_refused(
    engine_on: EngineOn, server: StandIn, model: dict[str, Any], why: str
) -> None:
    if model == {"model_path": "x"}:
        del server.model["model_type"]
    server.model |= model
    refused(engine_on, server, why)


def test_a_web_server_that_is_no_sglang_is_refused(engine_on: EngineOn, server: StandIn) -> None:
    server.model = server.server = {}  # type: ignore[assignment]
    refused(engine_on, server, "not an SGLang server")
    with pytest.raises(UserError, match=r"not an SGLang server \(404 for /model_info\); check rollout\.urls"):
        engine_on(server.url + "/elsewhere")


def test_a_server_with_another_vocabulary_is_refused_though_its_folder_can_t_be_read(
    engine_on: EngineOn, server: StandIn
) -> None:
    server.model["model_path"] = server.server["model_path"] = "/on/another/host"
    server.config = server.config | {"vocab_size": 999}
    refused(engine_on, server, r"serves a model with 999 tokens \(/on/another/host\)")


def test_a_server_on_a_folder_of_other_sizes_is_refused_since_it_would_die_of_the_weights(
    engine_on: EngineOn, server: StandIn, changed: Callable[..., Path]
) -> None:
    layers = json.loads((server.folder / "config.json").read_text())["num_hidden_layers"]
    other = changed("config.json", num_hidden_layers=layers + 1)
    server.server["model_path"] = str(other)
    refused(engine_on, server, "whose num_layers differ from .*: start the server on")


def test_a_key_is_sent_and_never_shown_and_a_missing_one_is_named(
    engine_on: EngineOn, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "hush-1234"
    monkeypatch.delenv("SGLANG_API_KEY", raising=False)
    refused(engine_on, server, "refuses us .401.: set the environment variable SGLANG_API_KEY")
    monkeypatch.setenv("SGLANG_API_KEY", "wrong-5678")
    with pytest.raises(UserError, match="SGLANG_API_KEY") as caught:
        engine_on(server.url)
    assert "wrong-5678" not in str(caught.value)
    monkeypatch.setenv("SGLANG_API_KEY", "hush-1234")
    engine = engine_on(server.url)
    requests = attempt_requests({"p": [5]}, 2, seed=1)
    assert sum(map(len, engine.generate(requests, SAMPLING))) == 2
    assert "hush-1234" not in "".join(engine.said)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "no tokens"),
        ([5, 10_000], "does not have"),
        ([-1], "does not have"),
        ([5] * 499, r"499 tokens and max_new_tokens 12 exceed the context of 510 tokens of http"),
    ],
)
def test_what_a_server_dies_of_or_cuts_short_is_never_sent(
    engine_on: EngineOn, server: StandIn, prompt: list[int], message: str
) -> None:
    engine = engine_on(server.url)
    with pytest.raises(UserError, match=f"problem odd: .*{message}"):
        engine.generate(attempt_requests({"fine": [5], "odd": prompt}, 2, seed=1), SAMPLING)
    assert not server.asked("/generate")
    fits = attempt_requests({"fits": [5] * 498}, 2, seed=1)
    assert sum(map(len, engine.generate(fits, SAMPLING))) == 2


def test_in_deterministic_mode_equal_seeds_of_one_prompt_are_refused_unless_it_is_greedy(
    engine_on: EngineOn, server: StandIn
) -> None:
    one, two = attempt_requests({"p": [5, 6]}, 2, seed=1)
    equal = [one, replace(two, seed=one.seed)]
    assert sum(map(len, engine_on(server.url).generate(equal, SAMPLING))) == 2  # it ignores seeds
    server.server["enable_deterministic_inference"] = True
    engine = engine_on(server.url)
    with pytest.raises(UserError, match=rf"problem p: attempts 0 and 1 have the seed {one.seed} both"):
        engine.generate(equal, SAMPLING)
    assert sum(map(len, engine.generate([one, two], SAMPLING))) == 2
    assert sum(map(len, engine.generate(equal, replace(SAMPLING, temperature=0.0)))) == 2


def test_weights_of_other_shapes_go_to_the_teacher_s_servers_or_nowhere(
    engine_on: EngineOn, server: StandIn, changed: Callable[..., Path], tmp_path: Path
) -> None:
    teacher = changed("config.json", intermediate_size=96)
    engine = engine_on(server.url)
    with pytest.raises(UserError, match=r"can't take the weights of .*changed.*rollout\.teacher_urls"):
        engine.load_weights(teacher, "teacher")
    with StandIn(teacher) as other:
        engine = engine_on(server.url, teacher_urls=[other.url], load=False)
        engine._teacher = teacher
        engine.load_weights(teacher, "teacher")
        requests = attempt_requests({"p": [5]}, 3, seed=1)
        assert sum(map(len, engine.generate(requests, SAMPLING))) == 3
        assert (server.attempts(), other.attempts()) == (0, 3)
        assert not [b for b in server.asked("/update_weights_from_disk") if "teacher" in b["weight_version"]]


def test_an_engine_without_weights_or_closed_generates_nothing(engine_on: EngineOn, server: StandIn) -> None:
    requests = attempt_requests({"p": [5]}, 2, seed=1)
    with pytest.raises(RuntimeError, match="load_weights"):
        engine_on(server.url, load=False).generate(requests, SAMPLING)
    engine = engine_on(server.url)
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="load_weights"):
        engine.generate(requests, SAMPLING)


def test_with_colocate_the_server_releases_its_memory_and_gets_the_weights_when_it_has_it_back(
    tiny: Path, engine_on: EngineOn, server: StandIn
) -> None:
    for colocate in (False, True):
        server.posts.clear()
        engine = engine_on(server.url, colocate=colocate)
        engine.sleep()
        engine.sleep()
        engine.load_weights(tiny, "v2")
        paths = [path for path, _ in server.posts if path != "/generate"]
        update, release, resume = (
            "update_weights_from_disk",
            "release_memory_occupation",
            "resume_memory_occupation",
        )
        expected = [update, release, resume, update] if colocate else [update, update]
        assert [path.removeprefix("/") for path in paths] == expected


def test_a_server_that_was_started_again_while_it_slept_is_not_asked_to_wake_up(
    tiny: Path, engine_on: EngineOn, server: StandIn
) -> None:
    """SGLang 0.5 dies of it: what is to be resumed is not among what was released."""
    engine = engine_on(server.url, colocate=True)
    engine.sleep()
    server.stop()
    server.start()
    server.posts.clear()
    engine.load_weights(tiny, "v2")
    assert [path for path, _ in server.posts if path != "/generate"] == ["/update_weights_from_disk"]
    engine.sleep()
    assert server.posts[-1][0] == "/release_memory_occupation"
