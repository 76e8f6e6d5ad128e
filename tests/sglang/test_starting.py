"""Starting and ending a server when things go wrong, with a stand-in for SGLang that is there in a moment."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

import sglang_server
from paced_megatron.errors import UserError
from paced_megatron.rollout.sglang import launcher
from sglang_server import Launch, interpreter, runs, start_server

STAND_IN = """
import json, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

folder, port = (sys.argv[sys.argv.index(name) + 1] for name in ("--model-path", "--port"))
mode = sys.argv[-1]


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if self.path != "/health":
            served = "/elsewhere" if mode == "another" else folder
            self.wfile.write(json.dumps({"model_path": served}).encode())


print("mode", mode, flush=True)
if "--config" in sys.argv:
    print("config", open(sys.argv[sys.argv.index("--config") + 1]).read(), flush=True)
if mode == "dies":
    sys.exit(3)
if mode == "port taken":
    print("[Errno 98] error while attempting to bind: address already in use", flush=True)
if mode in ("port taken", "silent"):
    time.sleep(60)
if mode in ("stubborn", "leaves a child"):
    ignore = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", ignore, folder], stdout=subprocess.PIPE)
    child.stdout.readline()
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
HTTPServer(("127.0.0.1", int(port)), Answers).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Launch:
    """Starts the stand-in, in the mode that is its last argument."""
    (tmp_path / "package" / "sglang").mkdir(parents=True)
    (tmp_path / "package" / "sglang" / "launch_server.py").write_text(STAND_IN)
    return Launch(Path(sys.executable), (), {"PYTHONPATH": str(tmp_path / "package")})


def of(folder: Path) -> list[psutil.Process]:
    """The processes that were started on `folder` and run."""
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if str(folder) in (process.info["cmdline"] or []) and runs(process)]


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("dies", "it ended with code 3; its log, .*/log, ends with: mode dies"),
        ("port taken", "its port was taken; its log, .*/log, ends with: .*address already in use"),
        ("another", "the server on its port serves /elsewhere; its log, .*/log, ends with: .*model_info.*"),
        ("silent", "it did not answer within 2 s"),
    ],
)
def test_a_server_that_can_t_be_used_is_reported_with_its_log_and_nothing_is_left(
    stand_in, tmp_path, mode, why
):
    with pytest.raises(UserError, match=why) as refused:
        startup_s = 2 if mode == "silent" else 60
        start_server(stand_in, tmp_path / "model", tmp_path / "log", mode, startup_s=startup_s)
    assert len(str(refused.value).splitlines()) == 1
    assert not of(tmp_path / "model")


def test_a_server_started_from_a_thread_outlives_the_thread(stand_in, tmp_path):
    with ThreadPoolExecutor(1) as one:  # a signal at the parent's death is really one at the thread's
        server = one.submit(start_server, stand_in, tmp_path / "model", tmp_path / "log", "well").result()
    time.sleep(0.3)
    assert server.runs
    server.stop()


def test_the_api_key_reaches_the_server_and_neither_the_process_list_nor_its_log(stand_in, tmp_path):
    how = replace(stand_in, api_key="hush-1234")
    server = start_server(how, tmp_path / "model", tmp_path / "log", "well")
    try:
        # The stand-in prints what it was given, as SGLang does with its arguments.
        assert "config api-key: <key>" in server.log.read_text()
        process = psutil.Process(server.process.pid)
        assert "hush-1234" not in " ".join([*process.cmdline(), *process.environ().values()])
        config = process.cmdline()[process.cmdline().index("--config") + 1]
        assert not Path(config).exists()
    finally:
        server.stop()


@pytest.mark.parametrize("key", ["hush-1234", "it's", 'a "b"', "c\\d", "ü'\\\""])
def test_the_api_key_is_taken_out_of_a_log_however_it_is_spelt_there(tmp_path, key):
    said = "\n".join([key, repr(ServerArgs(key)), json.dumps({"api_key": key}), "and more"])
    (tmp_path / "said").write_text(said)
    log = tmp_path / "log"
    launcher._copy_without_key((tmp_path / "said").open("rb"), log.open("wb"), launcher.spellings(key))
    shown = log.read_text()
    assert shown.count("<key>") == 3 and shown.endswith("and more")
    assert not any(spelling.decode() in shown for spelling in launcher.spellings(key))


@dataclass
class ServerArgs:
    """SGLang prints its arguments as Python shows a dataclass."""

    api_key: str


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu7"])
def test_a_server_listens_beyond_this_host_only_with_an_api_key(stand_in, tmp_path, host):
    with pytest.raises(UserError, match=f"host={host} .*SGLANG_API_KEY"):
        start_server(replace(stand_in, host=host), tmp_path / "model", tmp_path / "log", "well")
    assert not of(tmp_path / "model")
    launcher.check_launch(replace(stand_in, host=host, api_key="k"))
    for loopback in ("127.0.0.1", "::1", "localhost"):
        launcher.check_launch(replace(stand_in, host=loopback))


def test_an_interpreter_that_can_t_be_run_is_named(stand_in, tmp_path):
    for python in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"rollout\.launch\.python=.* can't be run"):
            start_server(replace(stand_in, python=python), tmp_path / "model", tmp_path / "log")


def test_a_start_is_given_up_when_the_job_ends(stand_in, tmp_path):
    how = replace(stand_in, args=("silent",))
    with pytest.raises(UserError, match="the job ended"):
        launcher.start_server(how, tmp_path / "model", tmp_path / "log", cancelled=lambda: True)
    assert not of(tmp_path / "model")


@pytest.mark.parametrize("mode", ["stubborn", "leaves a child"])
def test_stopping_kills_the_whole_group_where_sigterm_was_not_enough(stand_in, tmp_path, monkeypatch, mode):
    monkeypatch.setattr(launcher, "STOP_GRACE_S", 0.5)
    server = start_server(stand_in, tmp_path / "model", tmp_path / "log", mode)
    assert len(of(tmp_path / "model")) == 2
    server.stop()
    assert not of(tmp_path / "model")
    server.stop()


@pytest.mark.parametrize("mode", ["well", "leaves a child"])
def test_no_process_of_a_server_outlives_a_job_that_was_killed(stand_in, tmp_path, mode):
    script = (
        "import sys, time; from pathlib import Path; from sglang_server import Launch, start_server\n"
        f"launch = Launch(Path(sys.executable), (), {dict(stand_in.env)})\n"
        f"folder, log = Path({str(tmp_path / 'model')!r}), Path({str(tmp_path / 'log')!r})\n"
        f"start_server(launch, folder, log, {mode!r})\n"
        "print('started', flush=True); time.sleep(60)"
    )
    path = [str(Path(sglang_server.__file__).parent), str(Path(__file__).resolve().parents[2])]
    session = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path}\n{script}"], stdout=subprocess.PIPE
    )
    assert session.stdout.readline() == b"started\n"
    assert len(of(tmp_path / "model")) == (1 if mode == "well" else 2)
    session.kill()
    session.wait()
    deadline = time.monotonic() + 10
    while of(tmp_path / "model") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not of(tmp_path / "model")


@pytest.mark.parametrize(
    ("required", "outcome"),
    [({}, pytest.skip.Exception), ({"REQUIRE_SGLANG": "1"}, pytest.fail.Exception)],
)
def test_without_an_interpreter_a_test_is_skipped_and_fails_where_one_is_required(
    tmp_path, required, outcome
):
    assert interpreter({"PACED_SGLANG_PYTHON": sys.executable} | required) == Path(sys.executable)
    for named in ({}, {"PACED_SGLANG_PYTHON": str(tmp_path / "python")}):
        # Either of the two: a skip that nobody caught would skip this test too.
        with pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match="make test-sglang") as seen:
            interpreter(named | required)
        assert seen.type is outcome
