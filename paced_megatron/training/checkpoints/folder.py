"""The folders of checkpoints: their names, whether one is whole, which are kept. No tensor is known here.

checkpoints/iter_0000020/     whole: it got this name, by one rename, when all of it was on disk
            saving_0000030/   being written, or left by a save that was killed
            damaged_0000010/  was found damaged, and set aside
            best              a link to the checkpoint of the best held-out accuracy
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.runtime.files import sha256, write_atomically

MANIFEST = "manifest.json"
BEST = "best"


def folder_of(checkpoints: Path, iteration: int) -> Path:
    """Where the checkpoint after so many steps is."""
    return checkpoints / f"iter_{iteration:07d}"


def partial_folder_of(checkpoints: Path, iteration: int) -> Path:
    """Where it is while it is written."""
    return checkpoints / f"saving_{iteration:07d}"


def iterations(checkpoints: Path) -> list[int]:
    """The numbers of optimizer steps of all checkpoints there are, in order."""
    return sorted(int(folder.name.removeprefix("iter_")) for folder in checkpoints.glob("iter_*[0-9]"))


def latest_iteration(checkpoints: Path) -> int:
    """The number of optimizer steps in the newest checkpoint, 0 where there is none."""
    return max(iterations(checkpoints), default=0)


def file_entry(path: Path) -> dict[str, Any]:
    """What the manifest says about a file: {"bytes": int, "sha256": hexadecimal digits}."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def write_manifest(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Say which files belong to the checkpoint; the last file that is written."""
    content = json.dumps({"files": dict(sorted(entries.items()))}, indent=1)
    write_atomically(folder / MANIFEST, content + "\n")


def damage(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with a checkpoint, beginning with the file's name; None for a whole one.

    Names and sizes are compared first, then the bytes of every `parts`-th file from the `part`-th on: the
    ranks share this work.

    Raises:
        UserError: an earlier version of this package wrote it.
    """
    if (folder / "rank_000.pt").exists() and not (folder / MANIFEST).exists():
        raise UserError(
            f"{folder}: a checkpoint in the format of an earlier version of paced_megatron (rank_000.pt), "
            f"which is no longer read; finish the run with that version, or {_anew(folder.parent)}"
        )
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_text())["files"]
        expected = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} can't be read"
    for name, (size, _) in expected.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (found := (folder / name).stat().st_size) != size:
            how = "truncated" if found < size else "too long"
            return f"{name} is {how} ({found} of {size} bytes)"
    for name in sorted(expected)[part::parts]:
        if sha256(folder / name) != expected[name][1]:
            return f"{name} holds other bytes than were written (SHA-256)"
    return None


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that it is no longer one; nothing is deleted."""
    name = folder.name.replace("iter_", "damaged_")
    for number in range(1, 1000):
        aside = folder.with_name(name if number == 1 else f"{name}-{number}")
        if not aside.exists():
            break
    os.rename(folder, aside)
    return aside


def none_left(checkpoints: Path) -> UserError | None:
    """The error of a stage whose checkpoints have all been set aside; None for any other."""
    damaged = sorted(folder.name for folder in checkpoints.glob("damaged_*"))
    if not damaged or iterations(checkpoints):
        return None
    return UserError(
        f"{checkpoints}: no whole checkpoint is left ({', '.join(damaged)}); put one back from a copy as "
        f"iter_*, or {_anew(checkpoints)}"
    )


def _anew(checkpoints: Path) -> str:
    beside = "(and rollouts/ and evaluation/ beside it)"
    return f"remove {checkpoints} {beside} to train the stage from its beginning"


def prune(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and the best, and what killed saves left."""
    best = best_iteration(checkpoints)
    for iteration in iterations(checkpoints)[:-keep]:
        if iteration != best:
            shutil.rmtree(folder_of(checkpoints, iteration), ignore_errors=True)  # the new one is whole
    discard_unfinished(checkpoints)


def discard_unfinished(checkpoints: Path) -> None:
    """Remove what killed saves left."""
    for left in checkpoints.glob("saving_*"):
        shutil.rmtree(left, ignore_errors=True)


def best_iteration(checkpoints: Path) -> int | None:
    """The steps of the checkpoint that `best` names; None where it names none that is there."""
    try:
        name = os.readlink(checkpoints / BEST)
    except OSError:
        return None
    number = name.removeprefix("iter_")
    return int(number) if number.isdigit() and (checkpoints / name).is_dir() else None


def mark_best(checkpoints: Path, accuracies: Mapping[int, float]) -> None:
    """Let `best` name the checkpoint with the highest accuracy, the first among equals.

    Args:
        accuracies: steps -> accuracy on the held-out problems; those without a checkpoint don't count.
    """
    there = [step for step in iterations(checkpoints) if step in accuracies]
    if not there:
        return
    best = max(there, key=lambda step: (accuracies[step], -step))
    if best == best_iteration(checkpoints):
        return
    temporary = checkpoints / f".{BEST}"
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(folder_of(checkpoints, best).name)
    os.replace(temporary, checkpoints / BEST)
