"""The table of rollout engines, and the one engine that a job has.

A new one is a row of ENGINES and a module beside `embedded.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from paced_megatron.config import RolloutConfig
from paced_megatron.rollout.embedded import EmbeddedEngine
from paced_megatron.rollout.engine import RolloutEngine
from paced_megatron.rollout.sglang.engine import SGLangEngine
from paced_megatron.runtime.signals import Stopped


@dataclass(frozen=True)
class EngineSetting:
    """What an engine is made from.

    Attributes:
        device: rank 0's; student, teacher: their folders; logs: where a server that we start writes its log;
        say: prints a line that has to be seen; check: raises where the job has been asked to stop, for an
            engine that waits.
    """

    rollout: RolloutConfig
    device: torch.device
    student: Path
    teacher: Path
    logs: Path
    say: Callable[[str], None]
    check: Callable[[], None] = lambda: None


# name in `rollout.engine` -> engine without weights
ENGINES: dict[str, Callable[[EngineSetting], RolloutEngine]] = {
    "embedded": lambda setting: EmbeddedEngine(setting.rollout.batch_size, setting.device),
    "sglang": lambda setting: SGLangEngine(
        setting.rollout,
        student=setting.student,
        teacher=setting.teacher,
        logs=setting.logs,
        say=setting.say,
        check=setting.check,
    ),
}


class JobEngine:
    """The engine of a job, which lives as long as the job does: made when it is first asked for, asleep
    between phases, closed at the end, however the job ends. Rank 0 only.

        with JobEngine(setting) as engine:
            with engine.loaded(folder, version) as loaded:
                loaded.generate(...)
    """

    def __init__(self, setting: EngineSetting) -> None:
        self._setting = setting
        self._engine: RolloutEngine | None = None

    @contextmanager
    def loaded(self, weights: Path, version: str) -> Iterator[RolloutEngine]:
        """The engine with these weights, for one phase; asleep after it, so that training has the memory."""
        if self._engine is None:
            self._engine = ENGINES[self._setting.rollout.engine](self._setting)
        self._engine.load_weights(weights, version)
        self._engine.check_weights(weights)
        try:
            yield self._engine
        except Stopped:  # what was trained is still to be saved, and needs the memory
            self._engine.sleep()
            raise
        self._engine.sleep()  # after an error the job ends, and the engine with it

    def __enter__(self) -> JobEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
