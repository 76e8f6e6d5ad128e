"""Models, texts and truths for tests of layouts: a gradient at any layout is that of transformers in float64.

A row of `layouts.ROWS` is run on a pair of models; `Parity.truth` is the reference's gradient for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from paced_megatron.training.examples import Example
from parallel.layouts import Row
from parallel.reference_step import reference_step, scale_logits
from parallel.step_ranks import Case, Found, step_gradients
from tiny_models import make_tiny_qwen3

BATCH_SIZE = 8  # the configured number of problems, more than there are texts
Job = tuple[Path, Path, list[Example], Case]
Text = tuple[list[int], list[int], float]

# What differs from `STUDENT` and `TEACHER` in the models of a row.
MODELS: dict[str, tuple[dict[str, int | bool], dict[str, int | bool]]] = {
    "untied": ({}, {}),
    "tied": ({"tie_word_embeddings": True}, {}),
    "both tied": ({"tie_word_embeddings": True}, {"tie_word_embeddings": True}),
    "six layers": ({"num_hidden_layers": 6}, {"num_hidden_layers": 3}),
}
STUDENT = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 10,
}
TEACHER = {
    "hidden_size": 36,
    "intermediate_size": 56,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 14,
}


def texts() -> list[Text]:
    """Prompts and responses of different lengths, one of them a single token, one of weight 0."""
    generator = torch.Generator().manual_seed(11)
    lengths_and_weights = [(5, 7, 1.3), (9, 3, 0.4), (2, 1, 2.1), (8, 12, 0.0), (4, 6, 0.7), (3, 9, 1.1)]
    return [
        (
            torch.randint(0, 260, (prompt,), generator=generator).tolist(),
            torch.randint(0, 260, (response,), generator=generator).tolist(),
            weight,
        )
        for prompt, response, weight in lengths_and_weights
    ]


def examples_of(some: Sequence[Text]) -> list[Example]:
    return [
        Example(f"p{i}", tuple(prompt), tuple(prompt), tuple(response), weight)
        for i, (prompt, response, weight) in enumerate(some)
    ]


def relative_error(found: dict[str, Tensor], truth: dict[str, Tensor]) -> float:
    """The largest error of any parameter's tensor, relative to that parameter's."""
    assert found.keys() == truth.keys()
    return max(float((found[name].double() - truth[name]).norm() / truth[name].norm()) for name in truth)


class Parity:
    """Makes models and truths when they are first asked for."""

    def __init__(self, pool, folder: Path) -> None:
        self.pool, self.folder = pool, folder
        self.folders = cache(self._folders)
        self.truth = cache(self._truth)
        self.alone = cache(self._alone)

    def _folders(self, models: str, kl: float) -> tuple[Path, Path]:
        """Student and teacher whose mean forward KL on the texts is `kl`: their logits are scaled until it
        is."""
        root = self.folder / f"{models}-{kl}".replace(" ", "-")
        student, teacher = (
            make_tiny_qwen3(root / name, seed=seed, **plain | changed)
            for name, seed, plain, changed in zip(
                ("student", "teacher"), (1, 2), (STUDENT, TEACHER), MODELS[models], strict=True
            )
        )
        for _ in range(8):
            now = reference_step(student, teacher, texts(), divergence="forward_kl", denominator=1)[2]
            if abs(now / kl - 1) < 0.01:
                return student, teacher
            for folder in (student, teacher):  # KL grows with the square of the logits' size
                scale_logits(folder, (kl / now) ** 0.5)
        raise AssertionError(f"{models}: the KL stays at {now}")

    def _truth(self, models: str, kl: float, divergence: str) -> tuple[float, dict[str, Tensor]]:
        """(loss, gradient by name) of transformers and divergence/reference.py, one text at a time."""
        student, teacher = self.folders(models, kl)
        loss, gradient, mean = reference_step(
            student, teacher, texts(), divergence=divergence, denominator=BATCH_SIZE
        )
        if divergence == "forward_kl":
            assert abs(mean / kl - 1) < 0.02
        return loss, gradient

    def run(self, row: Row, works: Sequence[tuple[float, Case]]) -> list[Found]:
        """What the first rank found at the row's layout, for each (KL, case)."""
        jobs = [(*self.folders(row.models, kl), examples_of(texts()), case) for kl, case in works]
        return self._run(row.world_size, jobs)

    def run_on(self, folders: tuple[Path, Path], world_size: int, case: Case) -> Found:
        """What the first rank found with these models."""
        (found,) = self._run(world_size, [(*folders, examples_of(texts()), case)])
        return found

    def _alone(self, models: str, **changes) -> Found:
        """One process, nothing packed, at KL 1."""
        (found,) = self.run(
            Row("one process", models=models), [(1.0, Row("", models=models).case(**changes))]
        )
        return found

    def _run(self, world_size: int, jobs: Sequence[Job]) -> list[Found]:
        found, *others = self.pool.run(step_gradients, world_size, jobs, timeout=120)
        for other in others:
            assert [one.sums for one in other] == [one.sums for one in found]
        return found
