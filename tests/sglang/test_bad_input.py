"""A mistake about servers: one line, exit code 2, no attempts file, and nothing left running."""

from __future__ import annotations

import functools
import shlex
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import psutil
import pytest

from loop.recipes import write_recipe
from paced_megatron.cli import main
from paced_megatron.errors import UserError
from paced_megatron.rollout.sglang import launcher
from sglang.rollouts import DRAWN, engine_on, roll_out, some_requests
from sglang_server import STARTUP_S, Launch
from tiny_models import make_tiny_qwen3

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(STARTUP_S + 180)]

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path, capsys) -> Refused:
    """What `paced rollout` says when it refuses rollout's keys, with this folder as the student."""

    def refuse(student: Path, **rollout) -> str:
        keys = {"attempts": 2, "max_new_tokens": 8, "engine": "sglang"} | rollout
        models = {"student": {"path": str(student)}, "teacher": {"path": str(student)}}
        recipe = write_recipe(tmp_path / "recipe", rollout=keys, **models)
        capsys.readouterr()  # what making a model printed
        assert main(["rollout", str(recipe)]) == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        assert not list(tmp_path.rglob("attempts.jsonl"))
        return captured.err.strip()

    return refuse


def line_of(said: str) -> str:
    assert len(said.splitlines()) == 1, said
    return said


def test_an_address_where_nobody_listens(refused, tiny_server):
    url = f"http://127.0.0.1:{launcher.free_port()}"
    line = line_of(refused(tiny_server.folder, urls=[url]))
    assert url in line and "rollout.urls" in line


def test_a_server_of_another_kind(refused, tiny_server, some_web_server):
    line = line_of(refused(tiny_server.folder, urls=[some_web_server]))
    assert some_web_server in line and "SGLang server" in line


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def some_web_server(tmp_path):
    """Python's own, which serves an empty folder."""
    (tmp_path / "web").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "web"))
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("change", [{"vocab_size": 401}, {"hidden_size": 64}])
def test_a_server_with_another_model_or_vocabulary_keeps_its_weights(refused, tiny_server, tmp_path, change):
    other = make_tiny_qwen3(tmp_path / "other", seed=71, **change)
    before = tiny_server.get("/model_info")["weight_version"]
    line = line_of(refused(other, urls=[tiny_server.url]))
    assert tiny_server.url in line and f"start the server on {other}" in line
    assert tiny_server.get("/model_info")["weight_version"] == before


def test_a_prompt_longer_than_the_context(refused, tiny_server):
    line = line_of(refused(tiny_server.folder, urls=[tiny_server.url], max_new_tokens=505))
    assert "rollout.max_new_tokens" in line or "context" in line


def launch_keys(how: Launch, **changes) -> dict[str, object]:
    return {"python": str(how.python), "args": shlex.join(how.args), "env": dict(how.env)} | changes


def nothing_runs_on(folder: Path) -> bool:
    found = psutil.process_iter(["cmdline"])
    return not [p for p in found if str(folder) in (p.info["cmdline"] or []) and launcher.runs(p)]


def test_the_port_of_a_server_that_we_start_is_taken(refused, sglang_launch, tmp_path, monkeypatch):
    """SGLang says so in its log and lives on."""
    student = make_tiny_qwen3(tmp_path / "student", seed=72)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(launcher, "free_port", lambda: taken.getsockname()[1])
        said = refused(student, launch=launch_keys(sglang_launch))
    assert "its port was taken" in line_of(said)
    assert nothing_runs_on(student)


def test_an_argument_that_the_server_that_we_start_does_not_know(refused, sglang_launch, tmp_path):
    """Its own words are in the log that the message names."""
    student = make_tiny_qwen3(tmp_path / "student", seed=73)
    said = refused(student, launch=launch_keys(sglang_launch, args="--no-such-argument"))
    line = line_of(said)
    assert "it ended with code" in line and str(student) in line and "--no-such-argument" in line
    assert nothing_runs_on(student)


def test_a_folder_that_the_server_that_we_start_can_t_read(sglang_launch, tmp_path):
    """`paced` refuses such a student before; this is the launcher by itself."""
    nowhere, log = tmp_path / "nowhere", tmp_path / "sglang.log"
    with pytest.raises(UserError) as refused:
        launcher.start_server(sglang_launch, nowhere, log)
    line = line_of(str(refused.value))
    assert str(nowhere) in line and str(log) in line and "it ended with code" in line
    assert nothing_runs_on(nowhere)


def test_sampling_that_the_server_refuses(tiny_server, tmp_path):
    """The configuration allows none that SGLang refuses, so the engine is asked directly."""
    requests, path = some_requests(2), tmp_path / "attempts.jsonl"
    impossible = replace(DRAWN, top_p=1.5)
    with (
        engine_on([tiny_server.url], tiny_server.folder) as engine,
        pytest.raises(UserError, match=r"the server refuses attempt .* top_p") as refused,
    ):
        roll_out(engine, requests, path, impossible)
    line_of(str(refused.value))
    assert not path.exists()
    assert tiny_server.get("/model_info")  # it lives
