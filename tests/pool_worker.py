"""One worker process of tests/pool.py: runs one rank of a job after another, and leaves nothing of it behind.

Started by the pool as `python tests/pool_worker.py FD`, FD being its end of a socket. It has torch imported
and waits. For a job it joins a fresh gloo group, calls the test's function and reports; when every rank has
reported, the pool says so and the worker takes the job's world down (`clean`). When the socket closes the
worker dies, whatever it is doing.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib.util
import os
import pickle
import queue
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SEED = 1234


@dataclass(frozen=True)
class Job:
    """What one rank has to run. `args` is a pickle, to be opened when the test's file has been imported."""

    path: str
    module: str
    qualname: str
    args: bytes
    rank: int
    world_size: int
    store: str
    timeout: float


@dataclass(frozen=True)
class Report:
    """How a rank's part ended: with `result` (a pickle) or with `error` (a traceback)."""

    seconds: float
    result: bytes | None = None
    error: str | None = None


def function_of(job: Job) -> Callable[..., Any]:
    """The test's function; its file is imported once, under the name that it has in the test process."""
    module = sys.modules.get(job.module)
    if module is None:
        folder = str(Path(job.path).parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(job.module, job.path)
        assert spec is not None and spec.loader is not None, job.path
        module = importlib.util.module_from_spec(spec)
        sys.modules[job.module] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[job.module]
            raise
    found: Any = module
    for name in job.qualname.split("."):
        found = getattr(found, name)
    return found


def seed_everything() -> None:
    import numpy
    import torch

    random.seed(SEED)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)


def run(job: Job, loaded: Callable[[], None]) -> Report:
    """Call the job's function in a fresh gloo group; tell (`loaded`) when its file has been imported."""
    import torch.distributed as dist

    start = time.monotonic()
    try:
        function = function_of(job)
        args = pickle.loads(job.args)
        loaded()
        start = time.monotonic()
        seed_everything()
        dist.init_process_group(
            "gloo",
            init_method=f"file://{job.store}",
            rank=job.rank,
            world_size=job.world_size,
            timeout=timedelta(seconds=job.timeout + 60),  # the pool's limit comes first
        )
        result = pickle.dumps(function(job.rank, job.world_size, *args))
        return Report(time.monotonic() - start, result=result)
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        return Report(time.monotonic() - start, error=describe(error))


def describe(error: BaseException) -> str:
    """The traceback; of a failed assertion also the local variables, for pytest explains none here."""
    text = traceback.format_exc()
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None or not isinstance(error, AssertionError):
        return text
    shown = [f"    {name} = {shorten(value)}" for name, value in frame.tb_frame.f_locals.items()]
    return text + "\n".join(["  where", *shown, ""])


def shorten(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"<its repr raised {type(error).__name__}>"
    return text if len(text) <= 200 else text[:200] + "..."


def clean(environ: dict[str, str], folder: str) -> None:
    """Destroy the job's world, Megatron's then torch's, and undo what a test may have switched."""
    import torch
    import torch.distributed as dist

    if "megatron.core.parallel_state" in sys.modules:
        clean_megatron()
    if dist.is_initialized():
        dist.destroy_process_group()
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(1)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    gc.collect()  # models sit in reference cycles


def clean_megatron() -> None:
    from megatron.core import (
        num_microbatches_calculator,
        parallel_state,
        rerun_state_machine,
        tensor_parallel,
    )

    parallel_state.destroy_model_parallel()
    parallel_state.destroy_global_memory_buffer()
    num_microbatches_calculator.destroy_num_microbatches_calculator()
    rerun_state_machine.destroy_rerun_state_machine()
    tensor_parallel.random.initialize_rng_tracker(force_reset=True)


def die() -> None:
    """End this process at once, and those that a test started from it (it leads a session of its own)."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def listen(pool: Connection, messages: queue.SimpleQueue[Any]) -> None:
    """Hand on what the pool sends. In a thread: the end of the pool must be seen inside a collective too."""
    try:
        while True:
            messages.put(pickle.loads(pool.recv_bytes()))
    except (EOFError, OSError):
        die()


def main(fd: int) -> None:
    pool = Connection(fd)
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(pool, messages), daemon=True).start()
    faulthandler.register(signal.SIGUSR1, file=sys.stderr)  # the pool asks a hung rank where it is

    here = Path(__file__).resolve().parent
    for folder in (str(here.parent), str(here)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    environ, folder = dict(os.environ), os.getcwd()

    import torch
    import torch.distributed

    torch.set_num_threads(1)
    pool.send_bytes(pickle.dumps("ready"))
    while True:
        message = messages.get()
        if isinstance(message, Job):
            pool.send_bytes(pickle.dumps(run(message, lambda: pool.send_bytes(pickle.dumps("loaded")))))
            continue
        start = time.monotonic()
        try:
            clean(environ, folder)
            report = Report(time.monotonic() - start)
        except BaseException as error:
            report = Report(time.monotonic() - start, error=describe(error))
        pool.send_bytes(pickle.dumps(report))


if __name__ == "__main__":
    # Under its module name, so that the pool and the worker pickle the same classes.
    import pool_worker

    pool_worker.main(int(sys.argv[1]))
