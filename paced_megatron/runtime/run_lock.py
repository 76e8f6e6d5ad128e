"""One job at a time writes into a run's folder: rank 0's process holds a lock that vanishes with it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paced_megatron.errors import UserError


@contextmanager
def run_lock(run_dir: Path, elsewhere: str = "choose another run_dir") -> Iterator[None]:
    """Hold RUN_DIR/.lock, making the folder if need be. For rank 0, around everything that writes there.

    The lock is the kernel's (flock), not the file's being there: it ends with the process, however that ends,
    and the file stays. It tells who holds it: process id and host. `elsewhere`: what to do where
    nothing can be written there.

    Raises:
        UserError: another process holds it; the file system knows no locks; or nothing can be written there.
    """
    path = run_dir / ".lock"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"{run_dir}: can't be written ({error.strerror}); {elsewhere}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise UserError(
                f"{run_dir}: {holder} is at work in this folder; wait for it, stop it, or choose another one"
            ) from None
        except OSError as error:
            raise UserError(
                f"{path}: this file system gives no lock ({error.strerror}); choose a run_dir on another one"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
