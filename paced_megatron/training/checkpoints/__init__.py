"""Checkpoints of a stage in Megatron's distributed format (torch_dist), whole or not at all.

What is saved, written, found whole, and loaded at any layout belongs here; when that happens is `loop.py`'s
and `phases/distillation.py`'s matter, and how a converter writes the same format is `models/`'s. Open
`checkpoint.py` first: `folder.py` knows the folders (names, manifest, damage, which are kept), `state.py`
what is not a tensor, `blocks.py` which part of which tensor is this rank's, `write.py` how blocks get into
files. docs/resume.md says what a run promises, docs/decisions/0008 why the format is written in this way.
"""

from paced_megatron.training.checkpoints.checkpoint import (
    load_checkpoint,
    load_model_weights,
    newest_whole,
    save_checkpoint,
    spent_at,
)
from paced_megatron.training.checkpoints.folder import latest_iteration, mark_best
from paced_megatron.training.checkpoints.state import InForce

__all__ = [
    "InForce",
    "latest_iteration",
    "load_checkpoint",
    "load_model_weights",
    "mark_best",
    "newest_whole",
    "save_checkpoint",
    "spent_at",
]
