"""Named ways to sample a benchmark, each from a paper or its code: no number means anything without its own.

A new one is a row of PRESETS.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from paced_megatron.errors import UserError
from paced_megatron.rollout.engine import Sampling

OFF = -1  # top_k


@dataclass(frozen=True)
class Preset:
    """How a benchmark is sampled.

    Attributes:
        attempts: at each problem.
        thinking: given to the chat template as `enable_thinking`, where the template reads that; None: not
            given, since the source doesn't say.
        source: who does so.
    """

    attempts: int
    sampling: Sampling
    thinking: bool | None
    source: str


PRESETS: dict[str, Preset] = {
    # PACED's tables: "8-sample mean"; the sampling is its authors' script (the next row), which its README
    # doesn't repeat. Prompts of up to 2,048 tokens; METHOD.md, section 4.
    "paper": Preset(8, Sampling(0.7, 0.8, 20, 16384), False, "PACED, tables; sampling of its repository"),
    # Its authors' repository: scripts/eval/eval_math.sh, process_eval_data.py; Qwen3's non-thinking values.
    "authors": Preset(16, Sampling(0.7, 0.8, 20, 16384), False, "the authors' repository, eval_math.sh"),
    # TIP, of the same group: mean@16 at temperature 1, 16,384 tokens together with the prompt.
    "tip": Preset(16, Sampling(1.0, 1.0, OFF, 16384), False, "TIP, as XFDG reads it"),
    # OPSD: avg@16, thinking.
    "opsd": Preset(16, Sampling(1.0, 1.0, OFF, 38912), True, "OPSD"),
    # AntiSD: avg@32, "32K".
    "antisd": Preset(32, Sampling(0.7, 0.95, OFF, 32768), None, "AntiSD"),
    # ROPD: k = 16, not thinking.
    "ropd": Preset(16, Sampling(1.0, 0.95, OFF, 32768), False, "ROPD"),
    # Uni-OPD: 32 samples.
    "uni-opd": Preset(32, Sampling(1.0, 1.0, OFF, 16384), None, "Uni-OPD"),
    # One attempt, the likeliest token each time.
    "greedy": Preset(1, Sampling(0.0, 1.0, OFF, 16384), False, "greedy decoding"),
}
DEFAULT = "paper"


def find_preset(name: str) -> Preset:
    """A row of PRESETS. Raises UserError for an unknown name, with the nearest one."""
    if name not in PRESETS:
        raise UserError(f"--preset {name}: no such preset; {did_you_mean(name, PRESETS)}")
    return PRESETS[name]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "did you mean aime2024? (known: ...)", for a name that is not among the known ones."""
    known = list(known)
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    all_of_them = f"known: {', '.join(known)}"
    return f"did you mean {near[0]}? ({all_of_them})" if near else all_of_them


def in_words(sampling: Sampling, thinking: bool | None) -> str:
    """As in "T 0.7, top_p 0.8, top_k 20, 16,384 new tokens, no thinking"."""
    parts = ["greedy"] if sampling.temperature == 0 else [f"T {sampling.temperature:g}"]
    if sampling.temperature > 0:
        parts.append(f"top_p {sampling.top_p:g}")
        parts.append("top_k off" if sampling.top_k == OFF else f"top_k {sampling.top_k}")
    parts.append(f"{sampling.max_new_tokens:,} new tokens")
    if thinking is not None:
        parts.append("thinking" if thinking else "no thinking")
    return ", ".join(parts)
