"""One process's view of a running job: what is to be done, with what, where, and together with whom."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console

from paced_megatron.config import Config, StageConfig
from paced_megatron.errors import UserError
from paced_megatron.inputs import Inputs
from paced_megatron.problems.verify import Verifier
from paced_megatron.progress import say, warn
from paced_megatron.rollout.engine import RolloutEngine
from paced_megatron.rollout.engines import EngineSetting, JobEngine
from paced_megatron.run_folder import RunFolder, StageFolder
from paced_megatron.runtime.world import World
from paced_megatron.training.budget import last_step


@dataclass(frozen=True)
class Job:
    """Handed to every phase. Phases read from it and from the run's folder, and write to that folder only."""

    config: Config
    inputs: Inputs
    folder: RunFolder
    world: World
    console: Console
    rollouts: JobEngine

    @property
    def stage_numbers(self) -> range:
        """Stages count from 1, as their folders do."""
        return range(1, len(self.config.stages) + 1)

    def stage(self, number: int) -> StageConfig:
        return self.config.stages[number - 1]

    def say(self, text: str) -> None:
        """Print a line; on rank 0 only."""
        say(self.console, text)

    def warn(self, text: str) -> None:
        """Print a warning, also where little else is printed; on rank 0 only."""
        warn(self.console, f"warning: {text}")

    def stop_if_asked(self, saved: str) -> None:
        """Raise Stopped on every rank where one was asked to stop; `saved`: what is on disk. Before something
        that takes its time, where nothing would be lost."""
        self.world.lead.stop_if_asked(saved)

    def last_step(self, number: int) -> int:
        """The step with which a stage's training has ended; UserError on every rank where it has not."""
        folder, budget = self.stage_folder(number), self.config.budget(number)
        step = self.world.lead.agree(last_step(folder, budget) if self.world.is_lead else None)
        if step is None:
            # `paced train` has nothing to do where the student is exported, and would not write it.
            exported = self.world.lead.agree(folder.student.exists())
            remedy = f"put it back, or remove {folder.student.name}/ beside it and" if exported else ""
            train = f"run `paced train --stage {number}` first"
            raise UserError(f"{folder.training} is missing: {f'{remedy} {train}'.strip()}")
        return int(step)

    def stage_folder(self, number: int) -> StageFolder:
        return self.folder.stage(number)

    def student_before(self, number: int) -> tuple[Path, str]:
        """The student that stage `number` starts from: its folder, and the version its attempts carry."""
        if number == 1:
            return self.inputs.student_folder, "initial"
        return self.folder.stage(number - 1).student, f"stage-{number - 1}"

    @cached_property
    def verifier(self) -> Verifier:
        """Scores the attempts; its worker processes end with this object. Rank 0 only."""
        return Verifier(self.config.problems.verifier)

    def engine(self, weights: Path, version: str) -> AbstractContextManager[RolloutEngine]:
        """The rollout engine with these weights, for one phase. Rank 0 only."""
        return self.rollouts.loaded(weights, version)


def job_engine(config: Config, inputs: Inputs, logs: Path, world: World, console: Console) -> JobEngine:
    """The engine of this job's rollouts; it has to be entered before the first phase and left at the end.

    `paced compare` has one for all of its runs.
    """

    def say(text: str) -> None:
        warn(console, text)

    folders = inputs.student_folder, inputs.teacher_folder or inputs.student_folder

    def check() -> None:
        world.lead.stop_work_if_asked("what was made before is kept")

    return JobEngine(EngineSetting(config.rollout, world.device, *folders, logs=logs, say=say, check=check))
