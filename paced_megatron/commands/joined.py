"""This process's part of a job of several."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from paced_megatron.config import Config
from paced_megatron.errors import UserError
from paced_megatron.exit_codes import DONE, FAILED, USER_ERROR

if TYPE_CHECKING:
    from paced_megatron.runtime.world import World


def work_joined(config: Config, work: Callable[[World], None]) -> int:
    """Join the job's other processes and do the work with them; returns the exit code.

    A process of a teacher that has its own does the teacher's part instead.
    """
    from paced_megatron.runtime.lead import LeadFailed
    from paced_megatron.runtime.world import is_teachers, joined_teacher, joined_world

    job = config.parallel, config.teacher, config.seed
    try:
        if is_teachers(config.parallel):
            from paced_megatron.runtime.out_of_memory import end_alone, told_where
            from paced_megatron.training.memory_told import CHANGES
            from paced_megatron.training.teacher_service import serve

            with joined_teacher(*job) as place:
                try:
                    with told_where(lambda: "the teacher, on processes of its own", CHANGES):
                        serve(place)
                except UserError as error:  # only rank 0's are printed
                    print(f"paced: {error}", file=sys.stderr, flush=True)
                    end_alone(error)
                    raise
        else:
            with joined_world(*job) as world:
                work(world)
    except LeadFailed as error:
        if not error.is_user_error:
            traceback.print_exc()
        return USER_ERROR if error.is_user_error else FAILED
    return DONE
