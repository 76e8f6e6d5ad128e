"""A recipe with on-policy steps on a handful of the quickstart's problems, and what its steps leave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from loop.recipes import QUICKSTART, write_recipe

# By 12 attempts of the quickstart's student: solved 5 to 7 times, always, and never.
SOMETIMES = ("train-3-08", "train-4-03", "train-4-47", "train-4-55", "train-5-08", "train-2-37")
ALWAYS, NEVER = "train-2-30", "train-5-01"

ATTEMPTS, BATCH = 4, 4
# Adam's step is lr x gradient where its epsilon is large beside the gradient, and it remembers nothing: plain
# gradient steps of this size.
STEP_SIZE, LARGE = 0.02, 1e4
PLAIN = {"lr": STEP_SIZE * LARGE, "adam_eps": LARGE, "adam_beta1": 0.0, "clip_grad": 0.0}


def write_on_policy(
    folder: Path,
    problems: Sequence[str] = (*SOMETIMES, ALWAYS, NEVER),
    *,
    stage: dict[str, Any] | None = None,
    rollout: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    **sections: Any,
) -> Path:
    """`write_recipe` with one on-policy stage of three steps on these problems; the dicts add to its
    sections."""
    recipe = write_recipe(
        folder,
        rollout={"attempts": ATTEMPTS, "max_new_tokens": 16, "batch_size": 16} | (rollout or {}),
        stages=sections.pop(
            "stages", [{"divergence": "reverse_kl", "text": "rollouts", "train_iters": 3} | (stage or {})]
        ),
        training={
            "micro_batch_size": 4,
            "global_batch_size": BATCH,
            "lr": 1e-3,
            "weight_decay": 0.0,
            "save_interval": 3,
        }
        | (training or {}),
        evaluation={"every": 0},
        **({"pacing": {"estimator": "plugin"}} | sections),
    )
    document = yaml.safe_load(recipe.read_text())
    del document["problems"]["test"]
    recipe.write_text(yaml.safe_dump(document))
    found = {json.loads(line)["id"]: line for line in (QUICKSTART / "train.jsonl").read_text().splitlines()}
    (folder / "train.jsonl").write_text("".join(found[name] + "\n" for name in problems))
    return recipe
