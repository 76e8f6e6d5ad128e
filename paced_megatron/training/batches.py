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

from paced_megatron.config import ParallelConfig, TrainingConfig
from paced_megatron.training.examples import Example
from paced_megatron.training.packing import deal, pack

PADDING = 0  # any id will do: attention is causal and padding stands at the end


@dataclass(frozen=True)
class TokenRows:
    """Texts of one model, padded at the end, and where their response's next-token distributions are.

    Attributes:
        tokens: [b, s] int64: a text in each row; packed: b = 1, and texts one after the other.
        positions: [M] int64, indices into hidden states [s, b, H] flattened to [s*b, H]: for each response
            token the position *before* it, which predicts it. Ordered by example, then by token, alike for
            student and teacher.
        cu_seqlens: [n + 1] int32, where packed texts begin and, last, s; the padding counts as one. None:
            not packed.
    """

    tokens: Tensor
    positions: Tensor
    cu_seqlens: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(b, s)."""
        batch_size, seq_length = self.tokens.shape
        return batch_size, seq_length


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass needs, on the CPU.

    Attributes:
        student, teacher: the rows of each; their M positions belong together one by one.
        labels: [M] int64, the response tokens.
        coefficients: [M] float64: what each token's divergence is multiplied by in the loss, 1/Z included.
        problem_ids: which problems are in it.
        examples: its texts, in the order of the positions.
    """

    student: TokenRows
    teacher: TokenRows
    labels: Tensor
    coefficients: Tensor
    problem_ids: tuple[str, ...]
    examples: tuple[Example, ...]


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


Normalization = Callable[[Sequence[Example], int, float], list[float]]
"""(examples, global_batch_size, tokens of the batch) -> what each example's tokens are multiplied by"""


def _mean_over_problems(batch: Sequence[Example], global_batch_size: int, tokens: float) -> list[float]:
    """w_i / (B T_i): the mean over B problems of the mean over tokens (docs/method.md, 3)."""
    return [example.weight / (global_batch_size * len(example.response)) for example in batch]


def _mean_over_tokens(batch: Sequence[Example], global_batch_size: int, tokens: float) -> list[float]:
    """w_i / sum_i T_i, with the tokens of every problem, whatever its weight, in the denominator."""
    return [example.weight / tokens for example in batch]


NORMALIZATIONS: dict[str, Normalization] = {"problems": _mean_over_problems, "tokens": _mean_over_tokens}


@dataclass(frozen=True)
class Batching:
    """How a global batch is cut into micro-batches.

    Attributes:
        normalization: a row of `NORMALIZATIONS`.
        global_batch_size: the configured number of problems, B, also where a batch is shorter.
        micro_batch_size: texts side by side in one forward pass, at most.
        data_parallel_size: replicas of the student.
        pack_length: tokens of a packed row; None: a text has a row of its own.
        length_multiple: s is a multiple of it (sequence parallelism cuts s over the TP ranks).
        one_shape: all micro-batches have one shape [b, s] (messages between pipeline stages are of one size).
        count_multiple: a replica's number of micro-batches is a multiple of it (interleaving wants that).
    """

    normalization: str
    global_batch_size: int
    micro_batch_size: int
    data_parallel_size: int = 1
    pack_length: int | None = None
    length_multiple: int = 1
    one_shape: bool = False
    count_multiple: int = 1

    @classmethod
    def of(cls, training: TrainingConfig, parallel: ParallelConfig) -> Batching:
        """What the configured layout needs."""
        stages = parallel.pipeline_model_parallel_size
        return cls(
            normalization=training.normalization,
            global_batch_size=training.global_batch_size,
            micro_batch_size=training.micro_batch_size,
            data_parallel_size=parallel.data_parallel_size,
            pack_length=training.pack_length,
            length_multiple=parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1,
            one_shape=stages > 1,
            count_multiple=stages if parallel.virtual_pipeline_model_parallel_size else 1,
        )


def micro_batches(
    batch: Sequence[Example], batching: Batching, tokens: float | None = None
) -> list[list[MicroBatch]]:
    """For each replica of the student its micro-batches of a global batch.

    All replicas have the same number, at least one: those without a text have no token in the loss, but a
    rank takes part in the collectives all the same.

    Args:
        batch: the examples of the whole global batch, the same list on all ranks.
        tokens: the batch's response tokens, those of problems that were left out included (see `Batch`);
            None: those of `batch`, from which none was left out.

    Raises:
        UserError: a text is longer than `pack_length`.
    """
    normalize = NORMALIZATIONS[batching.normalization]
    if tokens is None:
        tokens = sum(len(example.response) for example in batch)
    coefficients = normalize(batch, batching.global_batch_size, tokens) if batch else []
    pairs = list(zip(batch, coefficients, strict=True))
    if batching.pack_length is None:
        replicas = [
            _cuts(pairs[replica :: batching.data_parallel_size], batching.micro_batch_size)
            for replica in range(batching.data_parallel_size)
        ]
    else:
        sizes = [_size(example) for example in batch]
        bins = pack(sizes, batching.pack_length, batching.data_parallel_size * batching.count_multiple)
        dealt = deal([sum(sizes[index] for index in one) for one in bins], batching.data_parallel_size)
        replicas = [[[pairs[index] for index in bins[one]] for one in share] for share in dealt]
    count = _up(max(1, *map(len, replicas)), batching.count_multiple)
    shape = _one_shape(batch, batching) if batching.one_shape else None
    return [
        [_collate(cut, batching, shape) for cut in cuts + [[]] * (count - len(cuts))] for cuts in replicas
    ]


Pair = tuple[Example, float]  # with what each of its tokens' divergence is multiplied by


def _cuts(pairs: list[Pair], size: int) -> list[list[Pair]]:
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _size(example: Example) -> int:
    """The tokens of the longer one of its two texts."""
    return max(len(example.student_prompt), len(example.teacher_prompt)) + len(example.response)


def _one_shape(batch: Sequence[Example], batching: Batching) -> tuple[int, int]:
    longest = max((_size(example) for example in batch), default=1)
    return batching.micro_batch_size, longest


def _collate(pairs: Sequence[Pair], batching: Batching, shape: tuple[int, int] | None) -> MicroBatch:
    examples = [example for example, _ in pairs]
    responses = [_ids(example.response) for example in examples]
    lengths = torch.tensor([len(response) for response in responses], dtype=torch.int64)
    rows = [
        _rows([*zip(prompts, responses, strict=True)], batching, shape)
        for prompts in (
            [_ids(example.student_prompt) for example in examples],
            [_ids(example.teacher_prompt) for example in examples],
        )
    ]
    return MicroBatch(
        student=rows[0],
        teacher=rows[1],
        labels=_joined(responses),
        coefficients=torch.tensor([value for _, value in pairs], dtype=torch.float64).repeat_interleave(
            lengths
        ),
        problem_ids=tuple(example.problem_id for example in examples),
        examples=tuple(examples),
    )


Text = tuple[Tensor, Tensor]  # prompt and response, [length] int64 each


def _ids(tokens: Sequence[int]) -> Tensor:
    """[length] int64. By way of NumPy, which reads Python's integers several times as fast: every rank
    collates the batches of all replicas."""
    return torch.from_numpy(np.array(tokens, dtype=np.int64))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.empty(0, dtype=torch.int64), *parts])


def _rows(texts: Sequence[Text], batching: Batching, shape: tuple[int, int] | None) -> TokenRows:
    if batching.pack_length is not None:
        return _packed(texts, batching.pack_length)
    if shape is None:
        shape = (
            max(1, len(texts)),
            max((len(prompt) + len(response) for prompt, response in texts), default=1),
        )
    count, length = shape[0], _up(shape[1], batching.length_multiple)
    tokens = torch.full((count, length), PADDING)
    for row, (prompt, response) in enumerate(texts):
        tokens[row, : len(prompt) + len(response)] = torch.cat([prompt, response])
    positions = [_before_each(text) * count + row for row, text in enumerate(texts)]
    return TokenRows(tokens, _joined(positions))


def _before_each(text: Text, start: int = 0) -> Tensor:
    """For each response token the place before it, which predicts it, in a row where the text begins at
    `start`."""
    prompt, response = text
    first = start + len(prompt) - 1
    return torch.arange(first, first + len(response))


def _packed(texts: Sequence[Text], length: int) -> TokenRows:
    tokens, cuts = torch.full((1, length), PADDING), [0]
    positions: list[Tensor] = []
    for text in texts:
        start, end = cuts[-1], cuts[-1] + sum(map(len, text))
        tokens[0, start:end] = torch.cat(text)
        positions.append(_before_each(text, start))
        cuts.append(end)
    if cuts[-1] < length:
        cuts.append(length)
    return TokenRows(tokens, _joined(positions), torch.tensor(cuts, dtype=torch.int32))
