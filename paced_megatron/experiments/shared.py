"""What the arms of a seed have in common, kept once and known by hash: shared.json.

In shared/seed-N it lists the files, {file: {"sha256": ...}}; it is written last, so that a folder that has
it is complete. An arm has the same files as hard links (copies, where the file system knows no links), so
that its folder is a whole run's, and a shared.json that says where they are from.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from paced_megatron.errors import UserError
from paced_megatron.run_folder import RunFolder
from paced_megatron.runtime.files import copy_atomically, sha256, write_atomically

_NOT_SHARED = ("pass_rates.jsonl",)  # each arm weighs for itself


def record_shared(shared: RunFolder) -> None:
    """Write shared.json of a folder whose shared files are all there."""
    stage = shared.stage(1).path
    files = sorted(path for path in stage.rglob("*.jsonl") if path.name not in _NOT_SHARED)
    write_shared(shared, {str(path.relative_to(shared.path)): {"sha256": sha256(path)} for path in files})


def link_shared(shared: RunFolder, arm: RunFolder) -> None:
    """Give the arm's folder the shared files; nothing happens where it has them."""
    if arm.shared.exists():
        return
    origin = os.path.relpath(shared.path, arm.path)
    files = read_shared(shared)
    for name in files:
        target = arm.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            _link(shared.path / name, target)
    if shared.timings.exists() and not arm.timings.exists():
        # What the shared work took belongs to the costs of each arm: alone it would have had to do it.
        write_atomically(arm.timings, shared.timings.read_bytes())
    write_shared(arm, {name: {**entry, "from": origin} for name, entry in files.items()})


def check_shared(folder: RunFolder) -> None:
    """Raises UserError where a file that shared.json lists is missing, damaged or changed. No shared.json:
    nothing to check."""
    if not folder.shared.exists():
        return
    for name, entry in read_shared(folder).items():
        path = folder.path / name
        if not path.is_file():
            raise UserError(f"{path} is missing, which {folder.shared} lists: {_remedy(folder)}")
        found = sha256(path)
        if found != entry.get("sha256"):
            raise UserError(
                f"{path} is not what it was when it was made (sha256 {found[:12]}..., in "
                f"{folder.shared.name} {str(entry.get('sha256'))[:12]}...): {_remedy(folder)}"
            )


def read_shared(folder: RunFolder) -> dict[str, dict[str, str]]:
    """File, from the folder -> its entry. Raises UserError where shared.json is not ours."""
    try:
        files = json.loads(folder.shared.read_text(encoding="utf-8"))
        if not all(isinstance(entry, dict) for entry in files.values()):
            raise ValueError("an entry is no object")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{folder.shared}: not a list of shared files ({error}): {_remedy(folder)}") from None
    return files


def write_shared(folder: RunFolder, files: dict[str, dict[str, str]]) -> None:
    write_atomically(folder.shared, json.dumps(files, indent=2) + "\n")


def _remedy(folder: RunFolder) -> str:
    return (
        f"put the file back, or delete the {folder.path.name} folders under shared/ and every arm, and they "
        "are made anew"
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        copy_atomically(source, target)
