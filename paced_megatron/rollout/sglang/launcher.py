"""A server that we start: on a folder, watched until it answers, and ended with all its children."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx
import psutil
import yaml

from paced_megatron.errors import UserError
from paced_megatron.rollout.sglang.client import ServerClient, ServerError
from paced_megatron.runtime.launch import die_with, free_port

STOP_GRACE_S = 20.0  # after SIGTERM
GONE_S = 5.0  # after SIGKILL
POLL_S = 0.3
SHOWN_LINES = 40  # of a server's log
KEY_VARIABLE = "SGLANG_API_KEY"
NOT_OURS = ("PYTHONPATH", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", KEY_VARIABLE)

# The kernel kills the server's main process when we are killed, and that one's children look after
# themselves, but not yet while they start (seen: a detokenizer that was left). So a process waits for our
# end, which closes its input, and kills the whole group.
GUARD = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"

# A child is killed when the thread that started it ends (PR_SET_PDEATHSIG), not only when its process does. A
# server is started again from short-lived threads, so there is one thread that lives as long as we do.
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="sglang-starter")


@dataclass(frozen=True)
class Launch:
    """How a server is started.

    Attributes:
        python: the interpreter of the environment that has SGLang.
        args: for `python -m sglang.launch_server`, beside the model, the host and the port.
        env: added to this process's environment, from which what belongs to our job alone is taken out.
        host: the address to listen on. Other than loopback it needs an API key.
        startup_s: seconds that a start may take.
        api_key: what a client has to show; reaches the server through a file that only we can read.
    """

    python: Path
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    startup_s: float = 600.0
    api_key: str | None = None


@dataclass(frozen=True)
class LaunchedServer:
    """A running server: its address, the folder it was started on, its main process and its log."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]
    log: Path
    guard: subprocess.Popen[bytes]  # see GUARD

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """The main process and all below it that run now."""
        try:
            main = psutil.Process(self.process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def last_line(self) -> str:
        """The log's last line that says something: of a traceback or of argparse, the cause."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "nothing")

    def log_end(self) -> str:
        """The last lines of the log, for a person to read."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(["[...]"] * (len(lines) > SHOWN_LINES) + lines[-SHOWN_LINES:])

    def stop(self, client: ServerClient | None = None) -> None:
        """Abort what it is at (where there is a client: SIGTERM alone would wait for it), then SIGTERM to the
        main process, then SIGKILL to whatever is left of its group. Stopping twice does nothing.

        Raises:
            RuntimeError: a process is still there.
        """
        self.guard.kill()  # first: once the group is gone, its number may become another's
        self.guard.wait()
        if self.guard.stdin is not None:
            self.guard.stdin.close()
        processes = self.processes()
        if self.runs:
            if client is not None:
                with contextlib.suppress(ServerError):
                    client.post("/abort_request", {"abort_all": True}, timeout_s=2.0, tries=1)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + GONE_S
        while left := [process for process in processes if runs(process)]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"of the server at {self.url} there still runs: {left}\n{self.log_end()}")
            time.sleep(0.05)


def runs(process: psutil.Process) -> bool:
    """Whether the process is there (a zombie, which nobody may have collected yet, is not)."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def check_launch(how: Launch) -> None:
    """Raises UserError where the interpreter can't be run, or a server would listen widely without a key."""
    if not os.access(how.python, os.X_OK) or how.python.is_dir():
        raise UserError(
            f"rollout.launch.python={how.python} can't be run: it has to be the interpreter of an "
            "environment that has SGLang"
        )
    if how.api_key is None and not _is_loopback(how.host):
        raise UserError(
            f"rollout.launch.host={how.host} can be reached from other hosts: set the environment variable "
            f"{KEY_VARIABLE}, or leave the host at 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def start_server(
    how: Launch, folder: Path, log: Path, cancelled: Callable[[], bool] = lambda: False
) -> LaunchedServer:
    """Start a server on a Hugging Face folder, on a free port of this host, and wait until it answers.

    It has a process group of its own, and dies with this process (Linux). Its log is begun anew. Where
    `cancelled` becomes true, which is asked now and then, the start is given up.

    Raises:
        UserError: `check_launch`; or it ended, could not have its port, serves something else, or took too
            long. The message ends with its log's last line; nothing of it is left running.
    """
    check_launch(how)
    log.parent.mkdir(parents=True, exist_ok=True)
    with _key_file(how.api_key) as key_args:
        server = _STARTER.submit(_start, how, folder, log, key_args).result()
        try:
            _wait_until_it_answers(server, how, cancelled)
        except BaseException:  # Ctrl-C and a test's time limit too
            server.stop()
            raise
    return server


def _start(how: Launch, folder: Path, log: Path, key_args: list[str]) -> LaunchedServer:
    port = free_port()
    command = [str(how.python), "-m", "sglang.launch_server", "--model-path", str(folder)]
    command += ["--host", how.host, "--port", str(port), *key_args, *how.args]
    environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    output = log.open("wb")
    process = subprocess.Popen(
        command,
        cwd=log.parent,  # -m puts the working directory first on the path; here is nothing to import
        env=environment | dict(how.env),
        stdin=subprocess.DEVNULL,
        stdout=output if how.api_key is None else subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with(os.getpid()),
    )
    if how.api_key is None:
        output.close()
    else:
        assert process.stdout is not None
        copied = process.stdout, output, spellings(how.api_key)
        threading.Thread(target=_copy_without_key, args=copied, daemon=True).start()
    reached_at = how.host if _is_loopback(how.host) else "127.0.0.1"
    reached_at = f"[{reached_at}]" if ":" in reached_at else reached_at
    guard = subprocess.Popen(
        [sys.executable, "-S", "-c", GUARD, str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return LaunchedServer(f"http://{reached_at}:{port}", folder, process, log, guard)


def spellings(key: str) -> list[bytes]:
    """The key as it may stand in a log: as it is, as Python shows it, and in JSON; the longest first."""
    known = {key, repr(key)[1:-1], json.dumps(key)[1:-1]}
    return sorted((spelling.encode() for spelling in known), key=len, reverse=True)


def _copy_without_key(said: IO[bytes], log: IO[bytes], key: Sequence[bytes]) -> None:
    """SGLang prints all of its arguments when it starts, the key too."""
    with said, log:
        for line in said:
            for spelling in key:
                line = line.replace(spelling, b"<key>")
            log.write(line)
            log.flush()


@contextlib.contextmanager
def _key_file(api_key: str | None) -> Iterator[list[str]]:
    """The arguments that tell a server its key. On the command line every user of the host could read it."""
    if api_key is None:
        yield []
        return
    with tempfile.NamedTemporaryFile("w", prefix="paced-", suffix=".yaml") as file:  # mode 0600
        yaml.safe_dump({"api-key": api_key}, file)
        file.flush()
        yield ["--config", file.name]


def _wait_until_it_answers(server: LaunchedServer, how: Launch, cancelled: Callable[[], bool]) -> None:
    deadline = time.monotonic() + how.startup_s
    headers = {"Authorization": f"Bearer {how.api_key}"} if how.api_key else {}
    with httpx.Client(base_url=server.url, headers=headers, timeout=10, trust_env=False) as http:
        while True:
            if not server.runs:
                raise _not_started(server, f"it ended with code {server.process.returncode}")
            if "address already in use" in server.log.read_text(errors="replace"):
                raise _not_started(server, "its port was taken")  # it would say so and live on
            with contextlib.suppress(httpx.TransportError):
                # /health generates a token, so a server that can't is not taken for one that can.
                if http.get("/health").status_code == 200:
                    break
            if cancelled():
                raise _not_started(server, "the job ended")
            if time.monotonic() > deadline:
                raise _not_started(server, f"it did not answer within {how.startup_s:g} s")
            time.sleep(POLL_S)
        served = _model_path(http)
    if served != str(server.folder):
        raise _not_started(server, f"the server on its port serves {served}")


def _model_path(http: httpx.Client) -> str:
    try:
        return str(http.get("/model_info").json()["model_path"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return f"nothing that we know ({error})"


def _not_started(server: LaunchedServer, why: str) -> UserError:
    return UserError(
        f"SGLang on {server.folder} at {server.url}: {why}; its log, {server.log}, ends with: "
        f"{server.last_line()}"
    )
