"""What does not fit is one clear exception, on every rank, before any collective."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from divergence.cases import TOKENS, VOCAB, Spec, call, case_of

WRONG: dict[str, dict[str, Any]] = {
    "divergence: 'jeffreys' is unknown; known are forward_kl, reverse_kl, jsd": {"divergence": "jeffreys"},
    "parameter: forward_kl takes none, but 0.5 is given": {"parameter": 0.5},
    "parameter: jsd needs beta, a number between 0 and 1": {"divergence": "jsd"},
    "parameter: skew_forward_kl needs skew": {"divergence": "skew_forward_kl"},
    "parameter: beta of jsd must be between 0 and 1, not 0.0": {"divergence": "jsd", "parameter": 0.0},
    "parameter: skew of skew_reverse_kl must be": {"divergence": "skew_reverse_kl", "parameter": 1.0},
    "parameter: mu of akl must be between 0 and 1, not nan": {"divergence": "akl", "parameter": math.nan},
    "temperature: 0": {"temperature": 0.0},
    "temperature: nan": {"temperature": float("nan")},
    "workspace_mb: 0": {"workspace_mb": 0},
    "vocab_size: 204 is not between 1 and the 203 head rows": {"vocab_size": 204},
    "vocab_size: 0": {"vocab_size": 0},
    "student_hidden: shape": {"student_hidden": torch.zeros(2, 12, 19)},
    "student_hidden: dtype torch.int64": {"student_hidden": torch.zeros(24, 19, dtype=torch.int64)},
    "student_head: rows of 18": {"student_head": torch.zeros(203, 18)},
    "teacher_head: rows of 18": {"teacher_head": torch.zeros(203, 18)},
    "teacher_hidden: 23 tokens": {"teacher_hidden": torch.zeros(23, 27)},
    "teacher_head: 202 rows, but this rank's 203": {"teacher_head": torch.zeros(202, 27)},
    "weights: 23 entries for 24 tokens": {"weights": torch.zeros(23)},
    "weights: dtype torch.bfloat16": {"weights": torch.zeros(24, dtype=torch.bfloat16)},
    "weights: on meta": {"weights": torch.zeros(24, device="meta")},
    "labels: 23 entries": {"labels": torch.zeros(23, dtype=torch.int64)},
    "labels: dtype torch.int32": {"labels": torch.zeros(24, dtype=torch.int32)},
    "token_indices: on meta": {"token_indices": torch.zeros(24, dtype=torch.int64, device="meta")},
    "token_indices: not all are in 0 .. 23": {"token_indices": torch.arange(1, 25)},
    "main_grad: shape": {"main_grad": torch.zeros(203, 18)},
    "main_grad: dtype": {"main_grad": torch.zeros(203, 19, dtype=torch.bfloat16)},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_a_value_error_that_names_it(message: str) -> None:
    assert call().divergence.shape == (TOKENS,)
    with pytest.raises(ValueError) as error:
        call(**WRONG[message])
    assert str(error.value).startswith(message)


def wrong_calls(rank: int, world_size: int) -> tuple[list[str], int]:
    """The messages, and what the collective gives that is the group's next."""
    import torch.distributed as dist

    case, messages = case_of(Spec()), []
    half = {"student_head": case.student_head[:90], "teacher_head": case.teacher_head[rank * 90 :][:90]}
    for wrong in ({"vocab_size": VOCAB}, {"vocab_size": 180, "divergence": "jsd"}):
        with pytest.raises(ValueError) as error:
            call(**half, **wrong, group=dist.group.WORLD)
        messages.append(str(error.value))
    total = torch.tensor([rank + 1])
    dist.all_reduce(total)
    return messages, int(total)


@pytest.mark.parallel
def test_ranks_that_are_all_called_wrongly_raise_before_any_collective(pool: Any) -> None:
    messages = [
        "vocab_size: 203 is not between 1 and the 180 head rows that 2 rank(s) with 90 rows hold",
        "parameter: jsd needs beta, a number between 0 and 1",
    ]
    assert pool.run(wrong_calls, 2) == [(messages, 3)] * 2


def with_a_group_of_rank_0(rank: int, world_size: int) -> str:
    import torch.distributed as dist

    group = dist.new_group([0])
    try:
        return f"{call(group=group).divergence.shape[0]} tokens"
    except ValueError as error:
        return str(error)


@pytest.mark.parallel
def test_a_group_that_the_rank_is_not_in_is_refused_there_and_taken_by_its_member(pool: Any) -> None:
    message = "group: this rank is not a member of the tensor-parallel group it passed in"
    assert pool.run(with_a_group_of_rank_0, 2) == [f"{TOKENS} tokens", message]
