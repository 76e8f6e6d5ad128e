"""Where a run keeps what: the names of its files, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StageFolder:
    """The files of one stage; `number` counts from 1."""

    path: Path
    number: int

    @property
    def attempts(self) -> Path:
        return self.path / "attempts.jsonl"

    @property
    def pass_rates(self) -> Path:
        return self.path / "pass_rates.jsonl"

    @property
    def responses(self) -> Path:
        return self.path / "responses.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def student(self) -> Path:
        """The trained student, as a Hugging Face folder."""
        return self.path / "hf"

    def snapshot(self, step: int) -> Path:
        """The student after `step` optimizer steps, for as long as it is being evaluated."""
        return self.path / f"snapshot-{step:07d}"

    def evaluation_attempts(self, step: int) -> Path:
        return self.path / "evaluation" / f"step-{step:07d}.jsonl"


@dataclass(frozen=True)
class RunFolder:
    """A run's folder; readable without this project's code."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def problems(self) -> Path:
        return self.path / "problems.jsonl"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def logs(self) -> Path:
        """What the ranks other than 0 print."""
        return self.path / "logs"

    def stage(self, number: int) -> StageFolder:
        return StageFolder(self.path / f"stage-{number}", number)
