"""What a lack of memory in training is told with: the step, its texts, what is kept, what to change."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from paced_megatron.config import TrainingConfig
from paced_megatron.runtime.out_of_memory import told_where
from paced_megatron.training.examples import Example

CHANGES = (
    "`paced plan CONFIG` counts what each part takes; set training.recompute_granularity=full, lower "
    "training.micro_batch_size, training.loss_workspace_mb or rollout.max_new_tokens, raise "
    "parallel.tensor_model_parallel_size, or set teacher.offload=true"
)


def step_told(
    stage: int, step: int, saved: int, training: TrainingConfig, examples: Sequence[Example]
) -> AbstractContextManager[None]:
    """Around one step; `saved`: the newest step of which there is a checkpoint, 0: of none."""
    kept = f"the checkpoint of step {saved} is kept" if saved else "there is no checkpoint before it"

    def where() -> str:
        prompts = max((len(one.student_prompt) for one in examples), default=0)
        responses = max((len(one.response) for one in examples), default=0)
        rows = f"{training.micro_batch_size} in a micro-batch"
        if training.pack_length is not None:
            rows = f"packed into rows of {training.pack_length}"
        return (
            f"stage {stage}, step {step} of training, prompts of up to {prompts} and responses of up to "
            f"{responses} tokens, {rows}"
        )

    return told_where(where, f"{kept}, and the same command goes on from there; {CHANGES}")


def models_told(stage: int) -> AbstractContextManager[None]:
    """Around the loading of a stage's models."""
    return told_where(lambda: f"stage {stage}: setting up student, teacher and optimizer", CHANGES)
