"""Whole or not at all: runtime/files.py."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paced_megatron.errors import UserError
from paced_megatron.runtime import files
from paced_megatron.runtime.files import (
    append_lines,
    atomic_folder,
    cannot_write,
    make_folder,
    read_jsonl,
    sweep_leftovers,
    write_atomically,
)

ROOT = Path(__file__).resolve().parents[2]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    write_atomically(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    write_atomically(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert names_in(tmp_path) == ["evaluation.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "evaluation.json"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and names_in(tmp_path) == ["evaluation.json"]


def test_a_reader_sees_only_whole_contents_while_a_writer_is_killed_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    script = (
        "import sys; from pathlib import Path; from paced_megatron.runtime.files import write_atomically\n"
        "i = 0\n"
        "while True:\n"
        "    write_atomically(Path(sys.argv[1]), str(i % 10) * 500_000); i += 1\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    leftovers = kills = 0
    while kills < 5 or (not leftovers and kills < 30):
        kills += 1
        writer = subprocess.Popen([sys.executable, "-c", script, str(path)], env=env)
        start = time.monotonic()
        while time.monotonic() - start < 0.4 or not path.exists():
            if path.exists():
                content = path.read_text()
                assert len(content) == 500_000 and len(set(content)) == 1
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        leftovers += len(sweep_leftovers(tmp_path))
        assert names_in(tmp_path) == ["state.json"]
    assert leftovers > 0, "no writer was killed in the middle: this shows nothing"


def test_a_folder_appears_whole_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "hf"
    with atomic_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "config.json").write_text("{}")
        assert not path.exists() and folder.parent == tmp_path
    assert (path / "inner" / "config.json").read_text() == "{}" and names_in(tmp_path) == ["hf"]


def test_a_folder_whose_block_raises_does_not_appear(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "hf") as folder:
        (folder / "half").write_text("")
        raise ZeroDivisionError
    assert names_in(tmp_path) == []


def test_a_folder_that_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "hf"
    with atomic_folder(path) as folder:
        (folder / "old").write_text("")
    with pytest.raises(FileExistsError), atomic_folder(path):
        raise AssertionError("the block must not run")
    with atomic_folder(path, replace=True) as folder:
        (folder / "new").write_text("")
    assert names_in(path) == ["new"] and names_in(tmp_path) == ["hf"]


def test_a_replacement_stopped_between_the_renames_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hf"
    with atomic_folder(path) as folder:
        (folder / "old").write_text("")
    rename, calls = os.rename, []

    def stopped_at_the_second(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", stopped_at_the_second)
    with pytest.raises(KeyboardInterrupt), atomic_folder(path, replace=True) as folder:
        (folder / "new").write_text("")
    assert names_in(path) == ["old"] and names_in(tmp_path) == ["hf"]


def test_leftovers_are_swept_at_any_depth_and_nothing_else_is(tmp_path: Path) -> None:
    stage = tmp_path / "stage-1"
    kept = [tmp_path / "a.tmp", stage / "hf" / "x.tmp-notes", stage / "y.tmp-0123456789"]
    swept = [tmp_path / "b.json.tmp-0123abcd", stage / "hf.tmp-89abcdef"]
    for path in [*kept, swept[0], swept[1] / "inner" / "model.safetensors"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert sweep_leftovers(tmp_path) == swept
    assert all(path.exists() for path in kept) and not any(path.exists() for path in swept)
    assert sweep_leftovers(tmp_path / "not there") == []


def test_appended_lines_are_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_jsonl(path) == []
    append_lines(path, ['{"step": 1}', '{"step": 2}'])
    append_lines(path, [])
    append_lines(path, ['{"step": 3, "text": "é\\n\u2028"}'])
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}, {"step": 3, "text": "é\n\u2028"}]


def test_an_append_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    append_lines(path, ['{"step": 1}'])

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        append_lines(path, ['{"step": 2}'])
    assert read_jsonl(path) == [{"step": 1}]


def test_a_line_with_a_newline_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="newline"):
        append_lines(tmp_path / "metrics.jsonl", ['{"a":\n1}'])
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3}', "{"])
def test_a_torn_last_line_is_no_record_and_is_cut_off_when_asked(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    append_lines(path, ['{"step": 1}', '{"step": 2}'])
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}]
    assert path.read_bytes() == whole + torn.encode()
    with pytest.raises(ValueError, match="torn"):
        append_lines(path, ['{"step": 3}'])
    assert read_jsonl(path, cut_torn_tail=True) == [{"step": 1}, {"step": 2}]
    assert path.read_bytes() == whole
    append_lines(path, ['{"step": 3}'])
    assert read_jsonl(path)[2] == {"step": 3}


@pytest.mark.parametrize("broken", ['{"step": 2', "[2]", ""])
def test_a_broken_line_before_the_last_is_named_by_file_and_line(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{broken}\n{{"step": 3}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: not a JSON object"):
        read_jsonl(path)


def test_a_denied_write_and_a_folder_that_cannot_be_made_are_told_in_words(tmp_path: Path) -> None:
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs/a/config.yaml")
    assert str(cannot_write(denied)).startswith(
        "runs/a/config.yaml: permission is denied: allow it and start"
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"/file/logs: can't be made \(Not a directory\); choose another place"
    ):
        make_folder(tmp_path / "file" / "logs")
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
