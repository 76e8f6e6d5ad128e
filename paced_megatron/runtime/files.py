"""Writing so that nothing is left half-written: files, folders and lines appear whole or not at all.

What is being written has a name that ends in `.tmp-` and eight hexadecimal digits, beside its place. A killed
run leaves it there; `sweep_leftovers` removes it at the next start.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # of OSError.errno
# What keeps a file from being written that a person can mend, and how.
NOT_WRITABLE = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the quota is used up: make room",
    errno.EROFS: "the file system is read-only: make it writable",
    errno.EACCES: "permission is denied: allow it",
    errno.EPERM: "the system does not permit it: allow it",
    errno.ENAMETOOLONG: "the name is too long: shorten it",
}
LEFTOVER = re.compile(r"\.tmp-[0-9a-f]{8}$")


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal digits. Reads every byte, about a second a GB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cannot_write(error: BaseException, path: Path | None = None) -> UserError | None:
    """The line for a disk that is full or may not be written, also where a library has put an error of its
    own before the disk's; None for any other error."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno in NOT_WRITABLE):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    assert isinstance(cause, OSError) and cause.errno is not None
    where = path if path is not None else cause.filename
    return UserError(
        f"{where or 'the run'}: {NOT_WRITABLE[cause.errno]} and start the run again, which goes on from here"
    )


def make_folder(path: Path) -> None:
    """Make a folder and those above it; nothing happens where it is there.

    Raises:
        UserError: it can't be made there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(error, path) or UserError(
            f"{path}: can't be made ({error.strerror}); choose another place for it"
        ) from error


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Raise UserError where the block fails because the disk is full or may not be written."""
    try:
        yield
    except OSError as error:
        if (told := cannot_write(error, path)) is None:
            raise
        raise told from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path`, which holds its old or its new content at every moment.

    Raises:
        UserError: the disk is full, or may not be written.
    """
    with _told(path):
        _write_atomically(path, content)


def _write_atomically(path: Path, content: str | bytes) -> None:
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_folder(path.parent)


def copy_atomically(source: Path, path: Path) -> None:
    """Let `path` be a copy of the file `source`, whole or not at all. Raises UserError as above."""
    temporary = _temporary(path)
    with _told(path):
        try:
            shutil.copyfile(source, temporary)
            _fsync(temporary, os.O_RDONLY)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends well it becomes `path`, whole, and on disk.

    Args:
        path: the folder to be; its parent is there.
        replace: allow `path` to be there: it is put aside first. Killed in the moment between the two
            renames, a run leaves no `path`, and has to make it again.

    Raises:
        FileExistsError: `path` is there, and `replace` is False.
        UserError: the disk is full, or may not be written.
    """
    if path.exists() and not replace:
        raise FileExistsError(f"{path} is there already")
    with _told(path), _atomic_folder(path, replace) as temporary:
        yield temporary


@contextmanager
def _atomic_folder(path: Path, replace: bool) -> Iterator[Path]:
    temporary, old = _temporary(path), _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        _fsync_tree(temporary)
        if replace and path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
    except BaseException:
        if old.exists() and not path.exists():  # Ctrl-C between the two
            os.rename(old, path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _fsync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def make_whole(partial: Path, path: Path) -> None:
    """Give the filled folder `partial` its name, by one rename, when all of it is on disk."""
    _fsync_tree(partial)
    os.rename(partial, path)
    _fsync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder; nothing happens where there is none."""
    if path.is_dir():
        shutil.rmtree(path)


def sweep_leftovers(folder: Path) -> list[Path]:
    """Remove what a killed run left half-written anywhere below `folder`; return what was removed."""
    removed = []
    for where, folders, files in os.walk(folder):
        for name in filter(LEFTOVER.search, folders + files):
            path = Path(where, name)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            removed.append(path)
        folders[:] = [name for name in folders if not LEFTOVER.search(name)]
    return sorted(removed)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append `lines` (each without its newline) in one write, and wait until they are on disk.

    If that fails half-way (a full disk, Ctrl-C) the file is cut back to what it was.

    Raises:
        ValueError: a line holds a newline; or the file ends in a torn line (see `read_jsonl`), to which the
            first of these would stick.
        UserError: the disk is full, or may not be written.
    """
    lines = list(lines)
    if any("\n" in line for line in lines):
        raise ValueError(f"{path}: a line with a newline in it would be two")
    with _told(path):
        _append_lines(path, lines)


def _append_lines(path: Path, lines: list[str]) -> None:
    is_new = not path.exists()
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            raise ValueError(f"{path} ends in a torn line; read_jsonl(path, cut_torn_tail=True) cuts it off")
        left = memoryview("".join(f"{line}\n" for line in lines).encode())
        try:
            while left:  # one write, but for a full disk or a signal
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(size)
            raise
    if is_new:
        _fsync_folder(path.parent)


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object of a file that was written whole; {} where there is no file.

    Raises:
        UserError: it is none; the line ends with `remedy`.
    """
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not JSON ({error}); {remedy}") from None


def read_jsonl(path: Path, cut_torn_tail: bool = False) -> list[dict[str, Any]]:
    """The records of a file that `append_lines` wrote, one JSON object a line; [] when there is no file.

    A last line without its newline is what a killed run wrote half: it is no record. Before appending again
    it must be cut off the file: `cut_torn_tail`.

    Raises:
        UserError: another line is no JSON object (file:line).
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if cut_torn_tail and whole < len(content):
        with path.open("rb+") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
    records = []
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: not a JSON object; mend or remove the line")
        records.append(record)
    return records


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp-{secrets.token_hex(4)}")


def _fsync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            _fsync(Path(folder, name), os.O_RDONLY)
        _fsync_folder(Path(folder))


def _fsync_folder(folder: Path) -> None:
    """Names are the folder's content: without this a rename may be lost with the power."""
    _fsync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
