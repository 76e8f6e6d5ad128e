"""Room where the run goes, where temporary files go, and where models from the hub go."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from paced_megatron.config import Config
from paced_megatron.doctor.check import Asked, Finding, note, ok, problem
from paced_megatron.doctor.checks.models import models_to_fetch
from paced_megatron.doctor.limits import gb
from paced_megatron.errors import UserError
from paced_megatron.plan import PROMPT_TOKENS

if TYPE_CHECKING:
    from paced_megatron.plan.work import Work

# Attempts, responses, metrics and report beside checkpoints and exports. Two of the quickstart's twelve runs,
# with what they share, took 16 MB in all.
OTHER_FILES = 100 * 2**20
FOR_TEMPORARY = 100 * 2**20  # logs of ranks, a server's key file, what libraries put there
FOR_MODELS = 2 * 2**30  # below this the smallest of real models (Qwen3-0.6B, 1.5 GB) has no room


def check_run_folder(asked: Asked, room: int | None = None) -> Finding:
    """Where `run_dir` goes. `room`: bytes that are free there, by default as the disk says."""
    folder = Path.cwd() if asked.config is None else asked.config.run_dir
    work = _planned(asked.config)
    needed = OTHER_FILES if asked.config is None or work is None else _needed(asked.config, work)
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return problem(f"{there} can't be written, and {folder} would be in it", "give another run_dir=")
    free = shutil.disk_usage(there).free if room is None else room
    says = f"{gb(free)} are free for {folder}, and {asked.title} takes some {gb(needed)}"
    if work is None:
        says = f"{gb(free)} are free for {folder}; how much its models will take can't be told yet"
    elif work.cache_bytes:
        says += f", and teacher.cache {work.cache_bytes / 2**20:.1f} MB for each response beside"
    if free < needed:
        return problem(says, "make room, keep fewer (training.keep_checkpoints), or give another run_dir=")
    return ok(says)


def check_temporary(asked: Asked, room: int | None = None) -> Finding:
    """$TMPDIR, or /tmp. `room` as above."""
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError:
        return problem("no folder for temporary files can be written", "set TMPDIR to one that can")
    free = shutil.disk_usage(folder).free if room is None else room
    says = f"{gb(free)} are free in {folder}"
    if free < FOR_TEMPORARY:
        return problem(says, "make room, or set TMPDIR to another folder")
    return ok(says)


def check_hub_cache(asked: Asked, room: int | None = None) -> Finding:
    """Where models from the hub are kept; of no matter to a run whose models are folders. `room` as above."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free if room is None else room
    says = f"{gb(free)} are free for {folder}"
    small = free < FOR_MODELS
    writable = os.access(there, os.W_OK | os.X_OK)
    if not small and writable:
        return ok(says)
    says += "" if writable else f", and {there} can't be written"
    tell = problem if asked.config is not None and models_to_fetch(asked.config) else note
    return tell(f"{says}: no model can be fetched from the hub", "set HF_HOME to a folder with room")


def _needed(config: Config, work: Work) -> int:
    """Bytes of a run's checkpoints and exported folders at their most, and for other files a round number.

    A checkpoint has the weights, and for each of them AdamW's moments and a float32 copy
    (training/room.py); while a new one is written the old ones are still there, and the best may be kept
    beside them. Each stage keeps its own.
    """
    from paced_megatron.plan.parameters import parameters_on_rank
    from paced_megatron.training.room import MAIN_COPY, MOMENTS

    count = parameters_on_rank(work.student, 1, 1, 0).total
    copy = 0 if work.element >= 4 else MAIN_COPY  # below float32, weights have a copy in it
    checkpoint = count * (work.element + MOMENTS + copy)
    average = count * work.accurate  # of an `ema` teacher, saved with the student
    kept = config.training.keep_checkpoints + 2
    exported = 2 * count * work.element  # hf/, and the snapshot for rollouts on the way
    stages = [kept * (checkpoint + average * (stage.teacher == "ema")) + exported for stage in config.stages]
    return OTHER_FILES + sum(stages)


def _planned(config: Config | None) -> Work | None:
    """None where there is nothing to plan, or it can't be: that is the row of `models`."""
    if config is None or models_to_fetch(config):
        return None
    from paced_megatron.plan.from_config import Texts, planned_work

    try:
        return planned_work(config, Texts(PROMPT_TOKENS, config.rollout.max_new_tokens), "cpu")
    except UserError:
        return None
