"""This process's part of a job of several."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from paced_megatron.config import Config
from paced_megatron.exit_codes import DONE, FAILED, USER_ERROR

if TYPE_CHECKING:
    from paced_megatron.runtime.world import World


def work_joined(config: Config, work: Callable[[World], None]) -> int:
    """Join the job's other processes and do the work with them; returns the exit code."""
    from paced_megatron.runtime.lead import LeadFailed
    from paced_megatron.runtime.world import joined_world

    try:
        with joined_world(config.parallel, config.teacher, config.seed) as world:
            work(world)
    except LeadFailed as error:
        if not error.is_user_error:
            traceback.print_exc()
        return USER_ERROR if error.is_user_error else FAILED
    return DONE
