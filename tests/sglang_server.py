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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from paced_megatron.rollout.sglang import launcher
from paced_megatron.rollout.sglang.launcher import Launch, LaunchedServer, runs

__all__ = ["Launch", "Server", "cpu_launch", "interpreter", "runs", "servers", "start_server"]

STARTUP_S = 240.0  # 15 to 20 s on quiet cores; 150 s were seen with ten processes waiting for two cores
REQUEST_S = 60.0
SHIM = Path(__file__).parent / "sglang" / "environment" / "shim"


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
    """In float32 on the CPU, without what would need a GPU or a compiler, and with a small cache.

    A server that has nothing to do sleeps: else it takes a whole core all the time.
    """
    arguments = (
        "--device cpu --dtype float32 --attention-backend torch_native --sampling-backend pytorch "
        "--grammar-backend none --cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled "
        "--disable-overlap-schedule --mem-fraction-static 0.1 --max-total-tokens 65536 "
        "--max-running-requests 64 --watchdog-timeout 120 --sleep-on-idle"
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
class Server(LaunchedServer):
    """A running server that a test can ask."""

    def get(self, path: str) -> Any:
        return _answer(httpx.get(self.url + path, timeout=REQUEST_S, trust_env=False))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON of the answer; an answer other than 200 is an AssertionError that shows it."""
        return _answer(httpx.post(self.url + path, json=body, timeout=REQUEST_S, trust_env=False))


def _answer(response: httpx.Response) -> Any:
    assert response.status_code == 200, f"{response.url}: {response.status_code} {response.text}"
    return response.json()


def start_server(
    how: Launch, folder: Path, log: Path, *more_args: str, startup_s: float = STARTUP_S
) -> Server:
    """As `launcher.start_server`, with more arguments."""
    how = replace(how, args=(*how.args, *more_args), startup_s=startup_s)
    return Server(**vars(launcher.start_server(how, folder, log)))


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
