"""The whole of PACED, in the order in which it happens."""

from __future__ import annotations

from paced_megatron.job import Job
from paced_megatron.phases import (
    evaluate_after,
    evaluate_before,
    export,
    respond,
    roll_out,
    show_results,
    train,
    weigh,
)


def run(job: Job) -> None:
    """All stages, and the table of what came out."""
    run_stages(job)
    show_results(job)


def run_stages(job: Job) -> None:
    """Roll out, weigh, distil; once per stage. Start it again after it was killed, and it goes on."""
    for stage in job.stage_numbers:
        roll_out(job, stage)  # the student attempts every problem K times
        weigh(job, stage)  # its pass rates become weights, p(1-p); off the frontier a problem is dropped
        respond(job, stage)  # the teacher writes the text to learn from
        if stage == 1:
            evaluate_before(job, stage)
        train(job, stage)  # weighted KL towards the teacher, on Megatron-Core
        export(job, stage)  # back to Hugging Face form: the next stage rolls out with it
        evaluate_after(job, stage)
