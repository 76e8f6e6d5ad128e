"""What the embedded rollout engine (rollout/embedded.py) takes on rank 0: a whole model of its own."""

from __future__ import annotations

from dataclasses import dataclass

from paced_megatron.models.families import ModelShape
from paced_megatron.plan.parameters import parameters_on_rank

# Turns in which it samples: the student's attempts, the teacher's responses, the student on held-out
# problems; before training is set up, or after it has ended.
ROLLOUTS, RESPONSES, EVALUATION = "rollouts", "responses", "evaluation"
# And the student on the way: beside all that training holds, but for what `teacher.offload` puts away.
BETWEEN_STEPS = "evaluation between steps"
APART_FROM_TRAINING = (ROLLOUTS, RESPONSES, EVALUATION)
OF_ENGINE = (*APART_FROM_TRAINING, BETWEEN_STEPS)


@dataclass(frozen=True)
class Rollouts:
    """The engine's settings.

    Attributes:
        batch_size: texts that are sampled together.
        text_tokens: prompt and answer, at most.
        element: bytes of a weight and of an entry of the KV cache.
        responds: the teacher whose responses are sampled; None: nobody's are.
        evaluated_tokens: as `text_tokens`, of an evaluation; None: there is none.
        between_steps: the same of what is sampled between two steps of training; None: nothing is.
    """

    batch_size: int
    text_tokens: int
    element: int
    responds: ModelShape | None = None
    evaluated_tokens: int | None = None
    between_steps: int | None = None

    def turns(self, student: ModelShape) -> dict[str, tuple[ModelShape, int]]:
        """Turn -> the model that is sampled, and the tokens of a text."""
        found = {
            ROLLOUTS: (student, self.text_tokens),
            RESPONSES: (self.responds, self.text_tokens),
            EVALUATION: (student, self.evaluated_tokens),
            BETWEEN_STEPS: (student, self.between_steps),
        }
        return {
            turn: (shape, tokens)
            for turn, (shape, tokens) in found.items()
            if shape is not None and tokens is not None
        }


def engine_parts(rollouts: Rollouts, shape: ModelShape, text_tokens: int) -> dict[str, float]:
    """Part -> bytes for sampling texts of so many tokens from one model."""
    entries = 2 * shape.num_layers * shape.num_query_groups * shape.head_dim  # keys and values of a token
    return {
        "engine's weights": float(parameters_on_rank(shape, 1, 1, 0).total * rollouts.element),
        "engine's KV cache": float(entries * rollouts.element * rollouts.batch_size * text_tokens),
        "engine's logits": float(rollouts.batch_size * shape.vocab_size * 4),
    }
