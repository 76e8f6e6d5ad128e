"""Issue 13's goals for the divergence, from the rows of a run: at most 1.10 times the floor at N = 8192, and
ahead of every peer at every N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.gpu.roofline import GOAL

GOAL_TOKENS = 8192
OURS = "ours"
PEERS = ("torch", "torch_float32_logits", "torch_compile", "liger_", "trl_")
"""the beginnings of their names"""

Row = Mapping[str, str]


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Lines: met, not met, or not measured and why."""
    lines = []
    ours = [row for row in rows if row["variant"] == OURS]
    for row in ours:
        if int(row["N"]) == GOAL_TOKENS:
            lines.append(f"<= {GOAL:.2f} x floor   {_name(row)}: {_over_floor(row)}")
    if not any(int(row["N"]) == GOAL_TOKENS for row in ours):
        lines.append(f"<= {GOAL:.2f} x floor at N = {GOAL_TOKENS}: not measured, no such size in this run")
    for row in ours:
        peers = [peer for peer in rows if _place(peer) == _place(row) and peer["variant"].startswith(PEERS)]
        lines.append(f"ahead of all peers {_name(row)}: {_ahead(row, peers)}")
    return lines


def _over_floor(row: Row) -> str:
    if not row["over_floor"]:
        return f"not measured ({row['note']})"
    met = float(row["over_floor"]) <= GOAL
    return f"{'met' if met else 'not met'}, {row['over_floor']}"


def _ahead(row: Row, peers: Sequence[Row]) -> str:
    """Peers without a time can't be beaten, and are named."""
    if not row["median_ms"]:
        return f"not measured ({row['note']})"
    missing = [f"{peer['variant']} ({peer['note']})" for peer in peers if not peer["median_ms"]]
    timed = [peer for peer in peers if peer["median_ms"]]
    without = f"; without {', '.join(missing)}" if missing else ""
    if not timed:
        return f"not measured, no peer was{without}"
    best = min(timed, key=lambda peer: float(peer["median_ms"]))
    met = float(row["median_ms"]) < float(best["median_ms"])
    return (
        f"{'met' if met else 'not met'}, {row['median_ms']} ms against {best['median_ms']} ms of "
        f"{best['variant']} (errors {row['grad_rel_error']} and {best['grad_rel_error']}){without}"
    )


def _place(row: Row) -> tuple[str, ...]:
    return row["N"], row["H_s"], row["H_t"], row["V"], row["divergence"]


def _name(row: Row) -> str:
    wider = "" if row["H_s"] == row["H_t"] else f"/{row['H_t']}"
    return f"{row['N']}x{row['H_s']}{wider} {row['divergence']}"
