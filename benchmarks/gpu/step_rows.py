"""The table of the step's benchmark: its columns, whether the losses agree, and the goals."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.machine import about_this_run, add_rows

Row = Mapping[str, Any]

MEASURED = (
    "variant",
    "what",
    "status",
    "batch",
    "length",
    "prompt",
    "dtype",
    "optimizer",
    "made_of",
    "recompute",
    "median_ms",
    "min_ms",
    "max_ms",
    "repetitions",
    "tokens_per_s",
    "tflop_useful",
    "tflop_done",
    "matmul_tflop_per_s",
    "share_of_matmul",
    "peak_mb",
    "loss_first",
    "loss_third",
    "found",
    "bound",
)
PACKAGES = ("transformers", "megatron-core", "trl", "liger-kernel", "triton", "transformer-engine")

# By dtype: how far apart the losses may be, relative, before what was timed is not the same thing. In bf16 a
# peer rounds logits, log-probabilities or the sum itself.
SAME_LOSS = {"float32": 1e-4, "bfloat16": 0.05}

STEP_GOAL, TEXT_GOAL = 1.5, 4.0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class Table:
    """A CSV whose rows are appended as they come."""

    def __init__(self, out: Path, device: str, commit: str | None = None) -> None:
        """
        Args:
            commit: None: that of the repository, which a lent machine may not have.

        Raises ValueError: the file is there, with other columns.
        """
        self.out = out
        self.about = about_this_run(device) | {f"{name}_version": _version(name) for name in PACKAGES}
        self.about["commit"] = commit or self.about["commit"]
        self.rows: list[dict[str, Any]] = []
        columns = [*self.about, *MEASURED]
        if out.exists():
            with out.open() as file:
                if next(csv.reader(file), None) != columns:
                    raise ValueError(f"{out} has other columns than this script writes: name another --out")

    def add(self, row: Row) -> None:
        whole = dict.fromkeys(MEASURED, "") | dict(row)
        assert set(whole) == set(MEASURED), set(whole) - set(MEASURED)
        self.rows.append(whole)
        add_rows(self.out, [self.about | whole])


def disagreements(rows: Sequence[Row]) -> list[str]:
    """The variants whose losses on the same weights and texts are not ours (or, without ours, the first
    one's), before any step and after two."""
    checked = [row for row in rows if row["what"] == "check" and row["status"] == "ok"]
    found = []
    for row in checked[1:]:
        for loss in ("loss_first", "loss_third"):
            of, reference = float(row[loss]), float(checked[0][loss])
            apart = abs(of - reference) / abs(reference)
            if not apart <= SAME_LOSS[row["dtype"]]:
                found.append(
                    f"{row['variant']}: {loss} {of:.6g}, not the {reference:.6g} of {checked[0]['variant']}"
                )
    return found


def goals(rows: Sequence[Row]) -> list[str]:
    """Ours against TRL, each at its best: a line for each length that both were timed at, and for the longest
    text."""
    lines = []
    timed = [row for row in rows if row["what"] == "step" and row["status"] == "ok"]
    for length in sorted({row["length"] for row in timed}):
        here = [row for row in timed if row["length"] == length]
        best = _best(here, "tokens_per_s")
        lines += [_goal(f"step at {length}", best, kind, STEP_GOAL, "tokens_per_s") for kind in TRL_KINDS]
        if "ours" in best:
            lines.append(f"step at {length}: ours at {best['ours']['share_of_matmul']} of the matmul's rate")
    longest = _best([row for row in rows if row["what"] == "longest text" and row["found"]], "found")
    return lines + [_goal("longest text", longest, kind, TEXT_GOAL, "found") for kind in TRL_KINDS]


TRL_KINDS = ("trl gkd", "trl distillation")


def _best(rows: Sequence[Row], key: str) -> dict[str, Row]:
    """By kind, the part of a variant's name before the comma."""
    best: dict[str, Row] = {}
    for row in rows:
        kind = row["variant"].partition(",")[0]
        if kind not in best or float(row[key]) > float(best[kind][key]):
            best[kind] = row
    return best


def _goal(what: str, best: Mapping[str, Row], peer: str, goal: float, key: str) -> str:
    if "ours" not in best or peer not in best or not float(best[peer][key]):
        return f"{what}: ours over {peer}: not measured"
    ours, other = best["ours"], best[peer]
    ratio = float(ours[key]) / float(other[key])
    met = "met" if ratio >= goal else "not met"
    bounds = {
        row["variant"]: row["bound"] for row in (ours, other) if row["bound"] not in ("", "out of memory")
    }
    open_end = "".join(f"; {name} stopped by {bound}" for name, bound in bounds.items())
    return f"{what}: {ours['variant']} over {other['variant']} {ratio:.2f}, goal {goal}: {met}{open_end}"
