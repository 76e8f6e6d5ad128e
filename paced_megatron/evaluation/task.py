"""One model on one benchmark: everything that decides its attempts, settled before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paced_megatron.config import PromptConfig, VerifierConfig
from paced_megatron.errors import UserError
from paced_megatron.evaluation.benchmarks import ProblemList
from paced_megatron.evaluation.presets import Preset, find_preset
from paced_megatron.evaluation.targets import Target
from paced_megatron.models.families import read_config
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.prompts import (
    check_one_template,
    check_prompts,
    prompt_token_ids,
    template_variables,
)
from paced_megatron.rollout.engine import Request, Sampling
from paced_megatron.rollout.requests import attempt_requests, attempt_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINKING = "enable_thinking"  # Qwen3's argument of its chat template


@dataclass(frozen=True)
class Protocol:
    """How all models are measured.

    Attributes:
        preset: the row of PRESETS that it began with; `source`: whose that is; `changed`: what is another.
        attempts: K, at each problem; `pass_at`: the k of pass@k and maj@k.
        thinking: for the chat template, see `Preset`; `asked`: somebody asked for it, so that a template that
            doesn't read it is a mistake.
    """

    preset: str
    source: str
    changed: tuple[str, ...]
    attempts: int
    sampling: Sampling
    thinking: bool | None
    asked: bool
    pass_at: tuple[int, ...]
    seed: int


def make_protocol(
    preset: str,
    *,
    attempts: int | None = None,
    max_new_tokens: int | None = None,
    thinking: bool | None = None,
    pass_at: Sequence[int] = (),
    seed: int = 1234,
) -> Protocol:
    """A preset with what was changed of it; without `pass_at` pass@K and maj@K are told.

    Raises:
        UserError: an unknown preset, fewer attempts than pass@k needs, several greedy attempts, a number
            below 1.
    """
    row: Preset = find_preset(preset)
    count = row.attempts if attempts is None else attempts
    numbers = [("--attempts", count), *(("--pass-at", k) for k in pass_at)]
    if max_new_tokens is not None:
        numbers.append(("--max-new-tokens", max_new_tokens))
    for name, value in numbers:
        if value < 1:
            raise UserError(f"{name} {value}: has to be at least 1")
    if row.sampling.temperature == 0 and count > 1:
        raise UserError(f"--attempts {count}: greedy attempts at a problem are all the same; 1 is enough")
    if pass_at and max(pass_at) > count:
        raise UserError(
            f"--pass-at {max(pass_at)}: pass@{max(pass_at)} needs at least {max(pass_at)} attempts at each "
            f"problem, and --preset {preset} with --attempts {count} makes {count}; raise --attempts"
        )
    sampling = row.sampling
    if max_new_tokens is not None:
        sampling = replace(sampling, max_new_tokens=max_new_tokens)
    ks = tuple(sorted(set(pass_at))) or ((count,) if count > 1 else ())
    thinks = row.thinking if thinking is None else thinking
    changed = (
        ("attempts", count, row.attempts),
        ("max_new_tokens", sampling.max_new_tokens, row.sampling.max_new_tokens),
        ("thinking", thinks, row.thinking),
    )
    return Protocol(
        preset,
        row.source,
        tuple(f"{name} {ours} in place of {theirs}" for name, ours, theirs in changed if ours != theirs),
        count,
        sampling,
        thinks,
        thinking is not None,
        ks,
        seed,
    )


@dataclass(frozen=True)
class Task:
    """Attributes:
    prompts, verifier: how the problems are asked and scored, the template's arguments included.
    token_ids: problem id -> its prompt.
    weights: the folder's fingerprint (`models.identity.fingerprint`).
    engine: a row of ENGINES.
    out: the folder of this model's results.
    """

    target: Target
    problems: ProblemList
    protocol: Protocol
    prompts: PromptConfig
    verifier: VerifierConfig
    tokenizer: PreTrainedTokenizerBase
    token_ids: Mapping[str, Sequence[int]]
    weights: str
    engine: str
    out: Path

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the attempts and their outcomes. Not the servers' addresses, nor how many workers
        score."""
        prompts = asdict(self.prompts)
        if self.prompts.chat_template is not None:
            prompts["chat_template"] = self.prompts.chat_template.read_text(encoding="utf-8")
        scored = {name: getattr(self.verifier, name) for name in ("kind", "answer_marker")}
        return {
            "weights": self.weights,
            "benchmark": self.problems.name,
            "problems": self.problems.sha256,
            "attempts": self.protocol.attempts,
            "sampling": asdict(self.protocol.sampling),
            "prompts": prompts,
            "verifier": scored,
            "seed": self.protocol.seed,
            "engine": self.engine,
        }

    @property
    def folder(self) -> Path:
        """Other settings or weights are another folder: nothing is taken for what it isn't."""
        text = json.dumps(self.settings, sort_keys=True)
        short = hashlib.sha256(text.encode()).hexdigest()[:8]
        return self.out / self.problems.name / f"{self.protocol.preset}-{short}"

    @property
    def attempts_file(self) -> Path:
        return self.folder / "attempts.jsonl"

    @property
    def version(self) -> str:
        """What the weights are called in the attempts file."""
        return self.weights[:16]

    @property
    def by_id(self) -> dict[str, Problem]:
        return {problem.id: problem for problem in self.problems.problems}

    def requests(self) -> list[Request]:
        seed = attempt_seed(self.protocol.seed, self.problems.name, 0)
        return attempt_requests(self.token_ids, self.protocol.attempts, seed)


def make_task(
    target: Target,
    problems: ProblemList,
    protocol: Protocol,
    *,
    tokenizer: PreTrainedTokenizerBase,
    weights: str,
    engine: str,
    out: Path,
) -> Task:
    """Raises UserError where the prompts can't be made, or one leaves no room for its answer."""
    prompts = problems.prompts
    check_one_template(tokenizer)
    if _gives_thinking(protocol, prompts, tokenizer):
        prompts = replace(
            prompts, chat_template_kwargs={**prompts.chat_template_kwargs, THINKING: protocol.thinking}
        )
    check_prompts(tokenizer, prompts)
    token_ids = {problem.id: prompt_token_ids(tokenizer, problem, prompts) for problem in problems.problems}
    _check_lengths(target.folder, token_ids, protocol.sampling.max_new_tokens)
    return Task(
        target, problems, protocol, prompts, problems.verifier, tokenizer, token_ids, weights, engine, out
    )


def _gives_thinking(protocol: Protocol, prompts: PromptConfig, tokenizer: PreTrainedTokenizerBase) -> bool:
    if protocol.thinking is None:
        return False
    if protocol.asked:
        return True  # check_prompts says so where the template doesn't read it
    read = template_variables(tokenizer.get_chat_template()) or set()
    return THINKING in read and THINKING not in prompts.chat_template_kwargs


def _check_lengths(folder: Path, token_ids: Mapping[str, Sequence[int]], new_tokens: int) -> None:
    context = read_config(folder).get("max_position_embeddings")
    if not isinstance(context, int):
        return  # the engine checks what it knows
    longest = max(token_ids, key=lambda name: len(token_ids[name]))
    length = len(token_ids[longest])
    if length + new_tokens > context:
        raise UserError(
            f"{folder}: its context is {context} tokens; the prompt of problem {longest} has {length}, and "
            f"its answer may have {new_tokens}: lower --max-new-tokens to {max(context - length, 0)}"
        )
