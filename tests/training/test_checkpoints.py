"""The folders of checkpoints: a damaged one is named and passed over, the best one is never removed."""

from __future__ import annotations

import errno
import json
import math
import resource
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint

from paced_megatron.errors import UserError
from paced_megatron.models.distributed_checkpoint import Checkpoint
from paced_megatron.models.gpt import build_model
from paced_megatron.plan.work import Layout
from paced_megatron.runtime.cpu import megatron_on_cpu
from paced_megatron.runtime.world import job_of_one
from paced_megatron.training.checkpoints import (
    InForce,
    latest_iteration,
    load_checkpoint,
    mark_best,
    newest_whole,
    save_checkpoint,
)
from paced_megatron.training.checkpoints.blocks import Block, flat_range
from paced_megatron.training.checkpoints.checkpoint import _read
from paced_megatron.training.checkpoints.folder import (
    BEST,
    MANIFEST,
    best_iteration,
    damage,
    file_entry,
    folder_of,
    iterations,
    none_left,
    prune,
    write_manifest,
)
from paced_megatron.training.trainer import Trainer
from plan.counted import Case, build_trainer, examples
from tiny_models import make_tiny_qwen3

DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "other bytes": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "missing": lambda path: path.unlink(),
}


def each_file_damaged_in_turn(rank, world_size, checkpoints, model):
    """Train and save twice, then for each file of the newer one and each damage (file, damage, the step that
    is gone on from, what is said)."""
    with megatron_on_cpu():
        case = Case(Layout(data_parallel_size=2, use_distributed_optimizer=True), "float32")
        trainer = build_trainer(rank, world_size, model, model, case)
        for step in (1, 2):
            trainer.step(examples(case))
            save_checkpoint(checkpoints, step, trainer)
        newest, spare, found = folder_of(checkpoints, 2), checkpoints.parent / "spare", []
        if rank == 0:
            shutil.copytree(newest, spare)
        dist.barrier()
        for name in sorted(path.name for path in spare.iterdir()):
            for kind, spoil in DAMAGE.items():
                if rank == 0:
                    spoil(newest / name)
                dist.barrier()
                said: list[str] = []
                found.append((name, kind, newest_whole(checkpoints, said.append), said))
                assert said, (name, kind)
                if rank == 0:
                    shutil.rmtree(checkpoints / "damaged_0000002")
                    shutil.copytree(spare, newest)
                dist.barrier()
        found.append(("nothing", "", newest_whole(checkpoints, said.append), []))
        load_checkpoint(checkpoints, 1, trainer)
        return found, trainer.schedule.num_steps


@pytest.mark.parallel
def test_with_any_file_damaged_the_checkpoint_before_is_used_and_the_file_named(pool, tmp_path):
    model = make_tiny_qwen3(tmp_path / "model", seed=1, num_hidden_layers=2)
    ranks = pool.run(each_file_damaged_in_turn, 2, tmp_path / "checkpoints", model, timeout=120)
    assert ranks[0] == ranks[1]
    found, steps = ranks[0]
    *damaged, whole = found
    assert whole[2] == 2 and steps == 1
    names = {name for name, *_ in damaged}
    assert names >= {"__0_0.distcp", "__1_0.distcp", "rng_001.pt", ".metadata", "state.json", MANIFEST}
    assert len(damaged) == 3 * len(names)
    for name, kind, iteration, said in damaged:
        assert iteration == 1, (name, kind)
        (line,) = said
        word = "can't be read" if name == MANIFEST and kind != "missing" else kind
        assert f"{name} " in line and word in line and "damaged_0000002" in line


def test_norms_that_were_float32_themselves_are_their_own_main_weights(tmp_path):
    # As checkpoints of bf16 runs had it before norms were of params_dtype: no main weight beside the norm's.
    saved = torch.linspace(0.9, 1.1, 6)

    torch.distributed.checkpoint.save({"norm.weight": saved}, checkpoint_id=tmp_path, no_dist=True)
    weight, main = torch.zeros(6, dtype=torch.bfloat16), torch.zeros(6)
    key = "optimizer.state.fp32_param.norm.weight"
    _read(
        Checkpoint(tmp_path),
        [Block("norm.weight", (6,), (0,), weight, True), Block(key, (6,), (0,), main, True)],
    )
    assert torch.equal(main, saved) and torch.equal(weight, saved.bfloat16())


@pytest.fixture
def one_process():
    with job_of_one():
        yield


def checkpoint(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    write_manifest(folder, {name: file_entry(folder / name) for name in files})
    return folder


@pytest.fixture
def checkpoints(tmp_path) -> Path:
    for step in (10, 20, 30, 40):
        checkpoint(folder_of(tmp_path, step), a="a" * step)
    return tmp_path


def test_when_all_are_damaged_nothing_starts_afresh_by_itself(one_process, checkpoints):
    for folder in checkpoints.glob("iter_*"):
        (folder / "a").write_text("")
    said: list[str] = []
    for _ in range(2):  # the next start says so again
        with pytest.raises(UserError, match=r"no whole checkpoint is left .*remove .* to train the stage"):
            newest_whole(checkpoints, said.append)
    assert [line.split(" is damaged")[0][-2:] for line in said] == ["40", "30", "20", "10"]
    assert len(list(checkpoints.glob("damaged_*/a"))) == 4  # nothing is deleted
    assert none_left(checkpoints.parent / "elsewhere") is None


def test_a_stage_that_never_had_a_checkpoint_starts_at_0(one_process, tmp_path):
    assert newest_whole(tmp_path / "checkpoints", print) == 0


def test_a_checkpoint_of_an_earlier_version_is_told_as_such(one_process, tmp_path):
    (tmp_path / "iter_0000020").mkdir()
    (tmp_path / "iter_0000020" / "rank_000.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"earlier version .*remove"):
        newest_whole(tmp_path, print)


def test_a_folder_that_a_killed_save_left_is_no_checkpoint(checkpoints):
    checkpoint(checkpoints / "saving_0000050", a="a")
    assert latest_iteration(checkpoints) == 40
    prune(checkpoints, 2)
    assert not list(checkpoints.glob("saving_*"))


def test_a_manifest_that_is_no_manifest_is_damage(tmp_path):
    folder = checkpoint(tmp_path / "iter_0000001", a="a")
    assert damage(folder) is None
    for content in ("", "[]", "{}", '{"files": {"a": 1}}'):
        (folder / MANIFEST).write_text(content)
        assert damage(folder) == f"{MANIFEST} can't be read"


def test_the_newest_and_the_best_are_kept(checkpoints):
    mark_best(checkpoints, {10: 0.2, 20: 0.5, 30: 0.5, 50: 0.9})  # 50 has no checkpoint; 20 was the first
    assert best_iteration(checkpoints) == 20
    assert (checkpoints / BEST).resolve() == folder_of(checkpoints, 20).resolve()
    prune(checkpoints, 1)
    assert iterations(checkpoints) == [20, 40]
    mark_best(checkpoints, {20: 0.5, 40: 0.6})
    prune(checkpoints, 1)
    assert iterations(checkpoints) == [40] and best_iteration(checkpoints) == 40


def test_without_an_evaluation_only_the_newest_are_kept(checkpoints):
    mark_best(checkpoints, {})
    prune(checkpoints, 3)
    assert iterations(checkpoints) == [20, 30, 40] and best_iteration(checkpoints) is None


def test_a_flat_range_is_its_boxes_one_after_the_other():
    generator = torch.Generator().manual_seed(4)
    for shape in [(7,), (3, 5), (4, 3, 2), (1, 6), (5, 1)]:
        whole = torch.arange(math.prod(shape)).view(shape)
        for _ in range(40):
            start, end = sorted(torch.randint(0, whole.numel() + 1, (2,), generator=generator).tolist())
            found = []
            for offsets, sizes, skipped in flat_range(shape, start, end):
                box = whole[tuple(slice(a, a + n) for a, n in zip(offsets, sizes, strict=True))]
                assert box.shape == sizes and box.flatten()[0] == start + skipped
                found += box.flatten().tolist()
            assert found == list(range(start, end)), (shape, start, end)


def test_other_pass_rates_than_those_in_force_are_refused(pool, tmp_path):
    model = make_tiny_qwen3(tmp_path / "model", seed=1, num_hidden_layers=2)
    (line,) = pool.run(load_with_other_pass_rates, 1, tmp_path / "stage-1" / "checkpoints", model)
    assert "stage-1/pass_rates.jsonl: not the file that iter_0000001 was trained with" in line


def load_with_other_pass_rates(rank, world_size, checkpoints, model) -> str:
    with megatron_on_cpu():
        case = Case(Layout(), "float32")
        trainer = build_trainer(rank, world_size, model, model, case)
        trainer.step(examples(case))
        in_force = InForce(1, "config", "rates")
        save_checkpoint(checkpoints, 1, trainer, in_force)
        state = json.loads((folder_of(checkpoints, 1) / "state.json").read_text())
        assert (state["stage"], state["iteration"], state["config_sha256"]) == (1, 1, "config")
        load_checkpoint(checkpoints, 1, trainer, in_force)
        try:
            load_checkpoint(checkpoints, 1, trainer, InForce(1, "config", "others"))
        except UserError as error:
            return str(error)
    return "no error"


def save_where_rank_1_cannot_write(rank, world_size, checkpoints, model) -> tuple[list[str], list[str]]:
    """(what the second save raises, the folders that are there afterwards)."""
    with megatron_on_cpu():
        case = Case(Layout(data_parallel_size=2, use_distributed_optimizer=True), "float32")
        trainer = build_trainer(rank, world_size, model, model, case)
        trainer.step(examples(case))
        save_checkpoint(checkpoints, 1, trainer)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        raised = ["nothing"]
        try:
            if rank == 1:  # a file may have a kilobyte: what a full disk does, without a disk to fill
                resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
            save_checkpoint(checkpoints, 2, trainer)
        except OSError as error:
            raised = [type(error).__name__, errno.errorcode[error.errno or 0]]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        dist.barrier()
        return raised, sorted(folder.name for folder in checkpoints.iterdir())


@pytest.mark.parallel
def test_when_one_rank_cannot_write_all_say_why_and_the_last_checkpoint_is_there(pool, tmp_path):
    model = make_tiny_qwen3(tmp_path / "model", seed=1, num_hidden_layers=2)
    ranks = pool.run(save_where_rank_1_cannot_write, 2, tmp_path / "checkpoints", model, timeout=120)
    assert ranks == [(["OSError", "EFBIG"], ["iter_0000001"])] * 2


def save_another_model(rank, world_size, checkpoints, model) -> tuple[set[float], list[str]]:
    """(the other model's weights after loading, prefixes of the checkpoint's keys)."""
    with megatron_on_cpu():
        case = Case(Layout(), "float32")
        trainer = build_trainer(rank, world_size, model, model, case)
        trainer.step(examples(case))
        other = build_model(trainer.student.shape, trainer.world.groups, torch.float32)
        models = {"student": trainer.student.chunks, "average": [other]}
        with mock.patch.object(Trainer, "models", models), torch.no_grad():
            for weight in other.parameters():
                weight.fill_(0.5)
            save_checkpoint(checkpoints, 1, trainer)
            for weight in other.parameters():
                weight.fill_(7)
            load_checkpoint(checkpoints, 1, trainer)
        keys = Checkpoint(folder_of(checkpoints, 1)).shapes
        values = {float(value) for weight in other.parameters() for value in weight.unique()}
        return values, sorted({key.split(".")[0] for key in keys})


def test_another_model_that_training_changes_is_in_the_checkpoint_under_its_name(pool, tmp_path):
    model = make_tiny_qwen3(tmp_path / "model", seed=1, num_hidden_layers=2)
    ((values, prefixes),) = pool.run(save_another_model, 1, tmp_path / "checkpoints", model)
    assert values == {0.5}
    assert prefixes == ["average", "decoder", "embedding", "optimizer", "output_layer"]
