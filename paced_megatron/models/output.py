"""The folder that a conversion or an export makes: whole or not at all, and never over something else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paced_megatron.errors import UserError
from paced_megatron.runtime.files import DISK_FULL, atomic_folder

MB = 2**20
# A folder that holds one of these was written as a model, so that it may be replaced by one.
_MARKS = ("config.json", "latest_checkpointed_iteration.txt")


def check_output(out: Path, source: Path, *, replace: bool, needed_bytes: int = 0) -> None:
    """What can be known of the output before any work is done.

    Raises:
        UserError: its parent isn't there or may not be written; it is there itself, and `replace` is False or
            it holds no model; it is a symbolic link; it and `source` lie in one another; the disk has fewer
            than `needed_bytes` left.
    """
    if not out.parent.is_dir():
        raise UserError(f"{out}: its parent folder {out.parent} is not there; make it first")
    here, there = out.resolve(), source.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UserError(f"{out}: the output lies in the input {source}, or around it; choose another place")
    if out.is_symlink():
        raise UserError(
            f"{out}: a symbolic link, which a folder would take the place of; name {out.readlink()} itself"
        )
    if out.exists() and not replace:
        raise UserError(f"{out}: is there already; choose another name, or pass --overwrite to replace it")
    if out.exists() and not _may_be_replaced(out):
        raise UserError(f"{out}: is there already and holds no model, so it is not overwritten; remove it")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise UserError(f"{out}: its parent folder {out.parent} may not be written; choose another place")
    free = shutil.disk_usage(out.parent).free
    if needed_bytes > free:
        raise UserError(
            f"{out}: needs {needed_bytes / MB:.0f} MB, and its disk has {free / MB:.0f} MB left; make room"
        )


def _may_be_replaced(out: Path) -> bool:
    return out.is_dir() and (
        not any(out.iterdir()) or any(map(Path.is_file, (out / mark for mark in _MARKS)))
    )


@contextmanager
def output_folder(out: Path, *, replace: bool) -> Iterator[Path]:
    """`atomic_folder`, with a full disk as the user's matter rather than a traceback.

    Raises:
        UserError: the disk is full; what had been written is removed again.
    """
    try:
        with atomic_folder(out, replace) as folder:
            yield folder
    except Exception as error:
        cause: BaseException | None = error  # torch.save puts an error of its own before the disk's
        while cause is not None and not (isinstance(cause, OSError) and cause.errno in DISK_FULL):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise UserError(f"{out}: the disk is full ({cause}); make room. Nothing is left of it") from None
