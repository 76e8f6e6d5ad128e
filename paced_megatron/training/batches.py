"""From examples to the tensors of a micro-batch.

The loss is a sum with its denominator inside the coefficients: here, and only here, it is divided, by a
number that is the same on all ranks and doesn't depend on weights or micro-batches (docs/method.md, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paced_megatron.training.examples import Example

PADDING = 0  # any id will do: attention is causal and padding stands at the end


@dataclass(frozen=True)
class TokenRows:
    """Texts of one model, padded at the end, and where their response's next-token distributions are.

    Attributes:
        tokens: [b, s] int64.
        positions: [M] int64, indices into hidden states [s, b, H] flattened to [s*b, H]: for each response
            token the position *before* it, which predicts it. Ordered by example, then by token, alike for
            student and teacher.
    """

    tokens: Tensor
    positions: Tensor


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass needs, on the CPU.

    Attributes:
        student, teacher: the rows of each; their M positions belong together one by one.
        labels: [M] int64, the response tokens.
        coefficients: [M] float64: what each token's divergence is multiplied by in the loss, 1/Z included.
        problem_ids: which problems are in it.
    """

    student: TokenRows
    teacher: TokenRows
    labels: Tensor
    coefficients: Tensor
    problem_ids: tuple[str, ...]


def batch_order(number_of_examples: int, batch_size: int, iteration: int, seed: int) -> list[int]:
    """The examples of step `iteration` (from 0), as indices: epochs, each in a shuffled order of its own, cut
    into batches.

    A batch may span two epochs; all batches are full. Depends on the arguments only, so that a resumed run
    needs no state.
    """
    first = iteration * batch_size
    epochs = range(first // number_of_examples, (first + batch_size - 1) // number_of_examples + 1)
    order = [index for epoch in epochs for index in _permutation(number_of_examples, epoch, seed)]
    start = first - epochs.start * number_of_examples
    return order[start : start + batch_size]


def _permutation(size: int, epoch: int, seed: int) -> list[int]:
    return np.random.default_rng([seed, epoch]).permutation(size).tolist()


Normalization = Callable[[Sequence[Example], int], list[float]]


def _mean_over_problems(batch: Sequence[Example], global_batch_size: int) -> list[float]:
    """w_i / (B T_i): the mean over B problems of the mean over tokens (docs/method.md, 3)."""
    return [example.weight / (global_batch_size * len(example.response)) for example in batch]


def _mean_over_tokens(batch: Sequence[Example], global_batch_size: int) -> list[float]:
    """w_i / sum_i T_i, with the tokens of every example, whatever its weight, in the denominator."""
    tokens = sum(len(example.response) for example in batch)
    return [example.weight / tokens for example in batch]


NORMALIZATIONS: dict[str, Normalization] = {"problems": _mean_over_problems, "tokens": _mean_over_tokens}


def micro_batches(
    batch: Sequence[Example],
    *,
    normalization: str,
    global_batch_size: int,
    micro_batch_size: int,
    data_parallel_size: int = 1,
) -> list[list[MicroBatch]]:
    """A global batch, for each replica of the student its share in micro-batches of at most
    `micro_batch_size` examples.

    Always at least one: a replica without an example gets one that has no token in the loss, since it takes
    part in the collectives all the same.

    Args:
        batch: the examples of the whole global batch, the same list on all ranks.
        normalization: a row of `NORMALIZATIONS`.
        global_batch_size: the configured number of problems, B, also where `batch` is shorter.
    """
    coefficients = NORMALIZATIONS[normalization](batch, global_batch_size) if batch else []
    pairs = list(zip(batch, coefficients, strict=True))
    replicas = []
    for replica in range(data_parallel_size):
        share = pairs[replica::data_parallel_size]
        cuts = [share[start : start + micro_batch_size] for start in range(0, len(share), micro_batch_size)]
        replicas.append([_collate(cut) for cut in cuts] or [_collate([])])
    return replicas


def _collate(pairs: Sequence[tuple[Example, float]]) -> MicroBatch:
    examples = [example for example, _ in pairs]
    responses = [example.response for example in examples]
    lengths = torch.tensor([len(response) for response in responses], dtype=torch.int64)
    return MicroBatch(
        student=_rows([example.student_prompt for example in examples], responses),
        teacher=_rows([example.teacher_prompt for example in examples], responses),
        labels=torch.tensor([token for response in responses for token in response], dtype=torch.int64),
        coefficients=torch.tensor([value for _, value in pairs], dtype=torch.float64).repeat_interleave(
            lengths
        ),
        problem_ids=tuple(example.problem_id for example in examples),
    )


def _rows(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> TokenRows:
    if not prompts:
        return TokenRows(torch.full((1, 1), PADDING), torch.empty(0, dtype=torch.int64))
    texts = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    longest, count = max(map(len, texts)), len(texts)
    tokens = torch.tensor([text + [PADDING] * (longest - len(text)) for text in texts])
    positions = [
        (len(prompt) - 1 + step) * count + row
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
        for step in range(len(response))
    ]
    return TokenRows(tokens, torch.tensor(positions, dtype=torch.int64))
