"""The whole configuration, as dataclasses: every key, its type, its default, its range, its meaning.

A file a section of the YAML; a new setting is one line there. Where Megatron has a name for a thing, the key
has that name. These dataclasses are the one source: `io.py` reads YAML files and checks them against it
(`tree.py` is the file with its places, `check.py` the types and ranges, `rules.py` and `layouts.py` what
joins several keys), and `tools/write_config_reference.py` writes docs/configuration.md from it. No path is
looked at in the files of keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from paced_megatron.config.budget import Budget, budget_of
from paced_megatron.config.evaluation import EvaluationConfig, LoggingConfig
from paced_megatron.config.key import Key
from paced_megatron.config.models import HUB_ID, ModelPathConfig, ParallelConfig, TeacherConfig
from paced_megatron.config.pacing import PacingConfig
from paced_megatron.config.problems import ProblemsConfig, PromptConfig, Source, VerifierConfig
from paced_megatron.config.rollout import AdaptiveConfig, LaunchConfig, RolloutConfig
from paced_megatron.config.training import StageConfig, TrainingConfig

__all__ = [
    "HUB_ID",
    "AdaptiveConfig",
    "Budget",
    "Config",
    "EvaluationConfig",
    "Key",
    "LaunchConfig",
    "LoggingConfig",
    "ModelPathConfig",
    "PacingConfig",
    "ParallelConfig",
    "ProblemsConfig",
    "PromptConfig",
    "RolloutConfig",
    "Source",
    "StageConfig",
    "TeacherConfig",
    "TrainingConfig",
    "VerifierConfig",
]


# torch takes 64 bits, without a sign here, and Megatron adds some thousands for the ranks.
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run: its seed, its folder, and a section for everything else."""

    seed: Annotated[
        int, Key("every random choice of the run follows from it", at_least=0, at_most=LARGEST_SEED)
    ] = 1234
    run_dir: Annotated[Path, Key("the run's folder; made if absent, continued if it holds the same run")]
    problems: ProblemsConfig
    student: ModelPathConfig
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    pacing: PacingConfig = field(default_factory=PacingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    stages: list[StageConfig]
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    @property
    def world_size(self) -> int:
        """The number of the job's processes: the student's, and those that only the teacher has."""
        return self.parallel.world_size + self.teacher.own_processes(self.parallel)

    def budget(self, number: int) -> Budget:
        """How long stage `number` (from 1) is trained."""
        return budget_of(self.stages[number - 1], self.training, number)
