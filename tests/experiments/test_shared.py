"""What the arms of a seed share: linked, known by hash, and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paced_megatron.errors import UserError
from paced_megatron.experiments.shared import check_shared, link_shared, record_shared
from paced_megatron.run_folder import RunFolder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    shared, arm = RunFolder(tmp_path / "shared/seed-1"), RunFolder(tmp_path / "arms/paced/seed-1")
    (shared.stage(1).path / "evaluation/step-0000000").mkdir(parents=True)
    arm.path.mkdir(parents=True)
    shared.stage(1).attempts.write_text('{"a": 1}\n')
    shared.stage(1).pass_rates.write_text('{"weights": "of the base"}\n')
    shared.stage(1).evaluation_attempts(0, "test", "sampled").write_text('{"b": 2}\n')
    shared.stage(1).forgetting(0, "sums").write_text('{"c": 4}\n')
    shared.timings.write_text('{"seconds": 3}\n')
    record_shared(shared)
    link_shared(shared, arm)
    return shared, arm


def test_an_arm_gets_the_files_of_its_seed_but_weighs_for_itself(
    folders: tuple[RunFolder, RunFolder],
) -> None:
    shared, arm = folders
    assert arm.stage(1).attempts.read_text() == '{"a": 1}\n'
    assert arm.stage(1).evaluation_attempts(0, "test", "sampled").exists()
    assert not arm.stage(1).pass_rates.exists()
    assert arm.timings.read_text() == shared.timings.read_text()
    entries = json.loads(arm.shared.read_text())
    step = "stage-1/evaluation/step-0000000"
    assert sorted(entries) == [
        "stage-1/attempts.jsonl",
        f"{step}/forgetting-sums.jsonl",
        f"{step}/test-sampled.jsonl",
    ]
    assert {entry["from"] for entry in entries.values()} == {"../../../shared/seed-1"}
    for folder in folders:
        check_shared(folder)


def test_a_changed_byte_is_noticed_in_the_shared_folder_and_in_the_arm(
    folders: tuple[RunFolder, RunFolder],
) -> None:
    shared, _ = folders
    with shared.stage(1).attempts.open("r+b") as file:  # in place, so that the linked file changes with it
        file.write(b"[")
    for folder in folders:
        with pytest.raises(UserError, match=r"stage-1/attempts\.jsonl is not what it was") as caught:
            check_shared(folder)
        assert "shared.json" in str(caught.value) and "seed-1" in str(caught.value)


def test_a_file_that_was_replaced_in_an_arm_alone_is_noticed_there(
    folders: tuple[RunFolder, RunFolder],
) -> None:
    shared, arm = folders
    arm.stage(1).attempts.unlink()
    with pytest.raises(UserError, match=r"attempts\.jsonl is missing"):
        check_shared(arm)
    arm.stage(1).attempts.write_text('{"a": 2}\n')
    with pytest.raises(UserError, match="is not what it was"):
        check_shared(arm)
    check_shared(shared)


def test_a_broken_list_is_named(folders: tuple[RunFolder, RunFolder]) -> None:
    folders[1].shared.write_text("[1")
    with pytest.raises(UserError, match=r"shared\.json: not a list of shared files"):
        check_shared(folders[1])


def test_a_folder_that_shares_nothing_is_fine(tmp_path: Path) -> None:
    check_shared(RunFolder(tmp_path))
