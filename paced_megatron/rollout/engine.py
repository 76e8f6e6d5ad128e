"""What a rollout engine is: prompts in, completions out, with weights that have a name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Key = tuple[str, int]


@dataclass(frozen=True)
class Request:
    """The `index`-th attempt at a problem: its prompt's token ids and its seed."""

    problem_id: str
    index: int
    prompt_ids: tuple[int, ...]
    seed: int

    @property
    def key(self) -> Key:
        """(problem_id, index), by which an attempt is known everywhere."""
        return (self.problem_id, self.index)


@dataclass(frozen=True)
class Completion:
    """What the model wrote after a request's prompt.

    `token_ids` are the new tokens alone, with the end-of-sequence token last where there was one;
    `finish_reason` is "stop" then and "length" otherwise. `seed` is the one that was really used;
    `weight_version` names the weights.
    """

    request: Request
    token_ids: tuple[int, ...]
    finish_reason: str
    seed: int
    weight_version: str


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `top_k` -1 and `top_p` 1 are off."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int


class RolloutEngine(Protocol):
    """Makes completions. What it draws from is set by `Sampling` alone, never by a model's folder."""

    weight_version: str

    def load_weights(self, folder: Path, version: str) -> None:
        """Take the weights of a Hugging Face folder and call them `version`."""
        ...

    def check_weights(self, folder: Path) -> None:
        """Look at the weights that it draws from, not at what they are called: are they the folder's?

        Raises UserError where they are others: of a step ago, say.
        """
        ...

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, skip: Collection[Key] = ()
    ) -> Iterator[list[Completion]]:
        """Yield completions in units that are recorded whole; `requests` are always all of the phase. An
        empty unit says that the engine waits, so that its caller can look whether to go on.

        `skip` holds the keys of what is recorded already. An engine may make some of these again (the
        embedded one does, when a unit was recorded in part); it yields every other request exactly once.
        """
        ...

    def sleep(self) -> None:
        """Give the training phase what it needs of the memory; `load_weights` wakes the engine up."""
        ...

    def close(self) -> None:
        """Give back memory or processes. Closing twice does nothing."""
        ...
