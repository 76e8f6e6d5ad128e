"""The keys of `evaluation` and `logging`: what is measured, and where the numbers go."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from paced_megatron.config.key import Key


@dataclass(frozen=True)
class EvaluationConfig:
    """Accuracy on the held-out problems: before, after, and in between."""

    every: Annotated[
        int, Key("steps between evaluations during training; 0: only before and after", at_least=0)
    ] = 0
    attempts: Annotated[int, Key("attempts per held-out problem; accuracy is their mean", at_least=1)] = 1
    temperature: Annotated[float, Key("sampling temperature; 0: greedy", at_least=0)] = 0.7
    top_p: Annotated[
        float, Key("nucleus sampling keeps this much probability; 1: all", above=0, at_most=1)
    ] = 0.8
    top_k: Annotated[int, Key("sample among the k likeliest tokens; -1: all", at_least=1, off=-1)] = 20
    max_new_tokens: Annotated[
        int | None,
        Key("tokens after which an attempt is truncated; null: rollout.max_new_tokens", at_least=1),
    ] = None
    greedy: Annotated[
        bool, Key("also measure the accuracy of greedy decoding, with one attempt a problem")
    ] = False
    strata_attempts: Annotated[
        int,
        Key(
            "attempts of the initial student at each held-out problem, which tell those that it never, "
            "sometimes or always solves apart; 0: no such strata",
            at_least=2,
            off=0,
        ),
    ] = 0
    pass_rates_after: Annotated[
        bool,
        Key("the trained student attempts the training problems K times too, to show which have moved"),
    ] = False
    forgetting_tasks: Annotated[
        list[str],
        Key(
            "tasks of lm-eval, e.g. `[mmlu]`, measured before and after training (docs/forgetting.md); needs "
            "its package"
        ),
    ] = field(default_factory=list)
    forgetting_fewshot: Annotated[
        int | None,
        Key(
            "examples before each question (lm-eval's num_fewshot); null: as the task says",
            at_least=0,
        ),
    ] = None
    forgetting_limit: Annotated[
        int | None, Key("only the first so many documents of each task; null: all", at_least=1)
    ] = None
    forgetting_batch_size: Annotated[
        int, Key("sequences that the student reads at once there", at_least=1)
    ] = 8
    forgetting_include_path: Annotated[
        Path | None, Key("a folder with tasks of your own, as lm-eval's YAML files; null: none")
    ] = None


@dataclass(frozen=True)
class LoggingConfig:
    """Where the numbers of each step go beside metrics.jsonl."""

    tensorboard: Annotated[
        bool, Key("also to TensorBoard, in the folder's `stage-N/tensorboard`; needs its package")
    ] = False
    wandb_project: Annotated[
        str | None, Key("also to this project of Weights & Biases; needs its package; null: not")
    ] = None
