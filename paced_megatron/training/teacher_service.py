"""The teacher's side of a job in which it has processes of its own: it waits for calls, and answers them."""

from __future__ import annotations

import torch

from paced_megatron.runtime.bridge import END
from paced_megatron.runtime.gpus import gpu_at
from paced_megatron.runtime.teacher_groups import TeacherPlace
from paced_megatron.training.teacher import GPU, HIDDEN_STATES, LOAD, Loading, Teacher, Work


def serve(place: TeacherPlace) -> None:
    """Hold the teacher and run it for the students until they end the job. On each of the teacher's ranks.

    Raises:
        LeadFailed: the students' rank 0 is gone.
    """
    assert place.bridge is not None
    teacher: Teacher | None = None
    while True:
        match place.bridge.next_call():
            case (name, Loading() as what) if name == LOAD:
                teacher = None  # the one before, if any, makes room first
                teacher = Teacher.from_folder(
                    what.folder,
                    place,
                    what.dtype,
                    student=what.student,
                    offload=what.offload,
                    transformer_impl=what.transformer_impl,
                )
            case (name, Work() as work) if name == HIDDEN_STATES:
                assert teacher is not None, "the students load the teacher first"
                teacher.made(work)
            case (name, None) if name == GPU:
                place.bridge.gather(gpu_at(torch.cuda.current_device()))
            case (name, None) if name == END:
                return
            case unknown:
                raise RuntimeError(f"a call that the teacher does not know: {unknown}")
