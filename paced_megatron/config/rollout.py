"""The keys of `rollout`: the engine, its servers, and how text is sampled."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from paced_megatron.config.key import Key


@dataclass(frozen=True)
class LaunchConfig:
    """An SGLang server that the job starts and ends; for `rollout.engine: sglang` without `rollout.urls`."""

    python: Annotated[
        Path | None,
        Key("interpreter of the environment that has SGLang; null: no server is started"),
    ] = None
    args: Annotated[
        str, Key("arguments of `sglang.launch_server` beside model, host and port, as in a shell")
    ] = ""
    env: Annotated[
        dict[str, str], Key("environment variables of the server beside ours, e.g. which GPU it sees")
    ] = field(default_factory=dict)
    host: Annotated[
        str, Key("address it listens on; one that is not loopback needs SGLANG_API_KEY in the environment")
    ] = "127.0.0.1"
    timeout_s: Annotated[float, Key("seconds that a start may take", above=0)] = 600.0


@dataclass(frozen=True)
class AdaptiveConfig:
    """More attempts where a weight is still uncertain, `rollout.attempts` being the mean over problems."""

    rounds: Annotated[
        int, Key("rounds in which attempts are added; 0: every problem has rollout.attempts", at_least=0)
    ] = 0
    first: Annotated[int, Key("attempts that every problem gets before", at_least=2)] = 4
    step: Annotated[int, Key("a problem chosen in a round gets a multiple of this", at_least=1)] = 2
    most: Annotated[int, Key("no problem gets more attempts than this", at_least=2)] = 64


@dataclass(frozen=True)
class RolloutConfig:
    """How the student's attempts, and the teacher's responses, are sampled."""

    engine: Annotated[
        Literal["embedded", "sglang"],
        Key("`embedded`: inside this job, batched, with a KV cache; `sglang`: SGLang servers (rollouts.md)"),
    ] = "embedded"
    attempts: Annotated[int, Key("attempts per problem, K; one alone tells no frontier", at_least=2)] = 8
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)
    temperature: Annotated[float, Key("sampling temperature; 0: greedy", at_least=0)] = 1.0
    top_p: Annotated[
        float, Key("nucleus sampling keeps this much probability; 1: all", above=0, at_most=1)
    ] = 1.0
    top_k: Annotated[int, Key("sample among the k likeliest tokens; -1: all", at_least=1, off=-1)] = -1
    max_new_tokens: Annotated[int, Key("tokens after which an attempt is truncated", at_least=1)] = 1024
    batch_size: Annotated[
        int, Key("attempts generated together, and redone together, by the embedded engine", at_least=1)
    ] = 64
    urls: Annotated[
        list[str], Key("SGLang servers that run, started on the student, e.g. `[http://gpu7:30000]`")
    ] = field(default_factory=list)
    teacher_urls: Annotated[
        list[str],
        Key("servers beside `urls` that were started on the teacher; a teacher of other sizes needs them"),
    ] = field(default_factory=list)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    colocate: Annotated[
        bool, Key("the servers share the trainer's GPUs: they release their memory while it trains")
    ] = False
    concurrency: Annotated[
        int | None,
        Key("attempts asked of each server at a time; null: as many as it says that it runs", at_least=1),
    ] = None
    request_timeout_s: Annotated[
        float, Key("seconds after which a request to a server is given up and made again", above=0)
    ] = 3600.0
    respond_to: Annotated[
        Literal["kept", "all"],
        Key(
            "the teacher answers the problems that are kept, or `all`: then its text does not depend on "
            "pacing, and the arms of an experiment share it"
        ),
    ] = "kept"
