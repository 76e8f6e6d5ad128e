"""The phases of a stage, a function each. `paced VERB` calls one of them, `run.py` all, in order.

A phase reads the files of the phases before it and writes its own. It does nothing where its output is
complete, goes on where it was interrupted, and names the verb to run where its input is missing. Every rank
calls every phase; what only rank 0 does is wrapped in `lead.alone`. What a phase computes lives in the room
of that name; here it is only tied to the job, its files and its progress lines. Open `rollouts.py` first.
"""

from __future__ import annotations

from paced_megatron.phases.distillation import export, train
from paced_megatron.phases.evaluation import evaluate_after, evaluate_before, show_results
from paced_megatron.phases.rollouts import respond, roll_out
from paced_megatron.phases.weighing import weigh

__all__ = [
    "evaluate_after",
    "evaluate_before",
    "export",
    "respond",
    "roll_out",
    "show_results",
    "train",
    "weigh",
]
