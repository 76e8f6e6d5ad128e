"""Whether there is room for the next checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from paced_megatron.errors import UserError
from paced_megatron.training.room import check_room


def test_what_a_killed_save_left_does_not_take_the_room_of_the_next(tmp_path: Path, monkeypatch) -> None:
    """A disk of 1,000 bytes, as full as what lies on it."""

    def usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=1000 - sum(x.stat().st_size for x in tmp_path.rglob("*") if x.is_file()))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    for name, size in (("iter_0000001", 400), ("saving_0000002", 300)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state").write_bytes(b"0" * size)
    check_room(tmp_path, None)  # type: ignore[arg-type]  # a newest checkpoint tells the size
    assert [path.name for path in tmp_path.iterdir()] == ["iter_0000001"]
    (tmp_path / "something else").write_bytes(b"0" * 300)
    with pytest.raises(UserError, match=r"make room .* goes on from step 1; iter_0000001 is kept"):
        check_room(tmp_path, None)  # type: ignore[arg-type]
