"""pytest in a process that has imported what is slow to import and not ours, for the mutants.

Python's own fork server imports PRELOADED once; every run of pytest, and every worker of its pool, is forked
from there. So each begins without a line of paced_megatron or of the tests, and imports them from the copy.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = [
    "pytest",
    "numpy",
    "torch.distributed",
    "torch.testing",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen3.modeling_qwen3",
    "megatron.core.distributed",
    "megatron.core.models.gpt",
]
OURS = ("paced_megatron", "pool", "tiny_models", "conftest")


def run_pytest(folder: Path, arguments: Sequence[str], timeout: float) -> tuple[int | None, str]:
    """(pytest's exit code or None when it was not done in time, its output), in the copy at `folder`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    output = folder / "output.txt"
    process = context.Process(target=_pytest, args=(folder, list(arguments), output))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()  # its workers end with their socket
        process.join()
        return None, output.read_text(errors="replace")
    return process.exitcode, output.read_text(errors="replace")


def _pytest(folder: Path, arguments: list[str], output: Path) -> None:
    _begin(output, os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"})
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    import pytest

    sys.exit(int(pytest.main(arguments, plugins=[ForkedPool()])))


class ForkedPool:
    """A plugin: the pool's workers are forked as well."""

    def pytest_collection_finish(self) -> None:
        if (pool := sys.modules.get("pool")) is not None:
            pool.Pool._new_worker = new_worker


def new_worker(pool: Any) -> Any:
    """In place of `Pool._new_worker`."""
    pool.started += 1
    ours, theirs = multiprocessing.Pipe()
    output = pool.folder / f"worker-{pool.started}.log"
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_worker, args=(theirs, output, dict(os.environ), os.getcwd()))
    process.start()
    theirs.close()
    return sys.modules["pool"].Worker(Popen(process), ours, output)


@dataclass
class Popen:
    """What the pool asks of a worker's process."""

    process: BaseProcess

    @property
    def pid(self) -> int | None:
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.kill()
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid or 0, number)


def _worker(pipe: Connection, output: Path, environ: dict[str, str], folder: str) -> None:
    os.setsid()  # the pool kills a worker together with what it has started
    only = {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}
    _begin(output, environ | only)
    os.chdir(folder)
    tests = str(Path(folder) / "tests")
    sys.path[:0] = [folder, tests]
    import pool_worker

    pool_worker.main(os.dup(pipe.fileno()))


def _begin(output: Path, environ: dict[str, str]) -> None:
    early = [name for name in sys.modules if name.partition(".")[0] in OURS]
    assert not early, f"imported before the copy could be: {early}"
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environ)
