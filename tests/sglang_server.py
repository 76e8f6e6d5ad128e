"""A real SGLang server for tests: started on a folder, watched until it answers, and ended with its children.

    with servers(cpu_launch(python), logs) as start:
        server = start(folder)                          # answers, and serves this folder
        server.post("/generate", {"input_ids": [5, 6, 7]})

`python` is the `interpreter` of an environment that has SGLang, such as tests/sglang/environment makes. The
fixture `sglang_server` in tests/sglang/conftest.py is `start`, for a whole session.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from paced_megatron.runtime import launch

STARTUP_S = 240.0  # 15 to 20 s on quiet cores; 150 s were seen with ten processes waiting for two cores
STOP_GRACE_S = 20.0  # after SIGTERM; a server finishes what it is at, for as long as that takes
GONE_S = 5.0  # after SIGKILL
POLL_S = 0.3
REQUEST_S = 60.0
SHOWN_LINES = 40  # of a server's log
NOT_OURS = ("PYTHONPATH", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SHIM = Path(__file__).parent / "sglang" / "environment" / "shim"


class ServerError(Exception):
    """A server did not start, or did not end. The message has the end of its log."""


@dataclass(frozen=True)
class Launch:
    """How a server is started: the interpreter that has SGLang, its arguments and its environment."""

    python: Path
    args: tuple[str, ...]
    env: Mapping[str, str]


def interpreter(environment: Mapping[str, str]) -> Path:
    """The interpreter that PACED_SGLANG_PYTHON names.

    Where there is none the test is skipped, and fails instead where REQUIRE_SGLANG=1.
    """
    named = environment.get("PACED_SGLANG_PYTHON")
    if named and os.access(named, os.X_OK):
        return Path(named).absolute()
    reason = "no SGLang: `make test-sglang`, or set PACED_SGLANG_PYTHON to an interpreter that has it" + (
        f" ({named} can't be run)" if named else ""
    )
    if environment.get("REQUIRE_SGLANG") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def cpu_launch(python: Path) -> Launch:
    """In float32 on the CPU, without what would need a GPU or a compiler, and with a small cache."""
    arguments = (
        "--device cpu --dtype float32 --attention-backend torch_native --sampling-backend pytorch "
        "--grammar-backend none --cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled "
        "--disable-overlap-schedule --mem-fraction-static 0.1 --max-total-tokens 65536 "
        "--max-running-requests 64 --watchdog-timeout 120"
    )
    environment = {
        "PYTHONPATH": str(SHIM),
        "SGLANG_USE_CPU_ENGINE": "1",
        # After a crash: no stack of each process, and no minute's wait for a core dump.
        "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0",
        "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",
        "TORCHDYNAMO_DISABLE": "1",  # seeded sampling would be compiled, which needs g++ and takes its time
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    return Launch(python, tuple(arguments.split()), environment)


@dataclass(frozen=True)
class Server:
    """A running server: its address, the folder it was started on, its main process and its log."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> Any:
        return _answer(httpx.get(self.url + path, timeout=REQUEST_S, trust_env=False))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON of the answer; an answer other than 200 is an AssertionError that shows it."""
        return _answer(httpx.post(self.url + path, json=body, timeout=REQUEST_S, trust_env=False))

    def processes(self) -> list[psutil.Process]:
        """The main process and all below it that run now."""
        try:
            main = psutil.Process(self.process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(["[...]"] * (len(lines) > SHOWN_LINES) + lines[-SHOWN_LINES:])

    def stop(self) -> None:
        """SIGTERM to the main process, then SIGKILL to whatever is left of its group.

        Stopping twice does nothing.

        Raises:
            ServerError: a process is still there.
        """
        processes = self.processes()
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + GONE_S
        while left := [process for process in processes if runs(process)]:
            if time.monotonic() > deadline:
                raise ServerError(f"of the server at {self.url} there still runs: {left}\n{self.log_end()}")
            time.sleep(0.05)


def _answer(response: httpx.Response) -> Any:
    assert response.status_code == 200, f"{response.url}: {response.status_code} {response.text}"
    return response.json()


def runs(process: psutil.Process) -> bool:
    """Whether the process is there (a zombie, which nobody may have collected yet, is not)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start_server(
    how: Launch, folder: Path, log: Path, *more_args: str, startup_s: float = STARTUP_S
) -> Server:
    """Start a server on a Hugging Face folder, on a free port of this host, and wait until it answers.

    It has a process group of its own, and dies with this process (Linux).

    Raises:
        ServerError: it ended, could not have its port, serves something else, or took too long. Nothing of
            it is left running then.
    """
    port = launch.free_port()
    command = [how.python, "-m", "sglang.launch_server", "--model-path", folder]
    command += ["--host", "127.0.0.1", "--port", str(port), *how.args, *more_args]
    environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,  # -m puts the working directory first on the path; here is nothing to import
            env=environment | how.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=launch.die_with(os.getpid()),
        )
    server = Server(f"http://127.0.0.1:{port}", folder, process, log)
    try:
        _wait_until_it_answers(server, startup_s)
    except BaseException:  # Ctrl-C and a test's time limit too
        server.stop()
        raise
    return server


def _wait_until_it_answers(server: Server, startup_s: float) -> None:
    deadline = time.monotonic() + startup_s
    while True:
        if server.process.poll() is not None:
            raise _not_started(server, f"it ended with code {server.process.returncode}")
        if "address already in use" in server.log.read_text(errors="replace"):
            raise _not_started(server, "its port was taken")  # it would say so and live on
        with contextlib.suppress(httpx.TransportError):
            # /health generates a token, so a server that can't is not taken for one that can.
            if httpx.get(server.url + "/health", timeout=10, trust_env=False).status_code == 200:
                break
        if time.monotonic() > deadline:
            raise _not_started(server, f"it did not answer within {startup_s:g} s")
        time.sleep(POLL_S)
    served = server.get("/model_info")["model_path"]
    if served != str(server.folder):
        raise _not_started(server, f"the server on its port serves {served}")


def _not_started(server: Server, why: str) -> ServerError:
    return ServerError(
        f"SGLang on {server.folder} at {server.url}: {why}; the end of its log:\n{server.log_end()}"
    )


@contextlib.contextmanager
def servers(how: Launch, logs: Path) -> Iterator[Callable[..., Server]]:
    """Gives `start(folder, *more_args) -> Server`; at the end every server that it started is stopped.

    Their logs are LOGS/server-N.log.
    """
    with contextlib.ExitStack() as stack:
        started = 0

        def start(folder: Path, *more_args: str) -> Server:
            nonlocal started
            started += 1
            server = start_server(how, folder, logs / f"server-{started}.log", *more_args)
            stack.callback(server.stop)
            return server

        yield start
