"""How a run's jobs stand, in words: `submit.sh --status RUN | ID...`.

    python -m paced_megatron.cluster.status RUN
    python -m paced_megatron.cluster.status 1207 1208

`RUN/logs/slurm-jobs.tsv` names the jobs that submit.sh has submitted for a run: a line each with id, name,
id of the job it waits for ("-": none), log, and when it was submitted, the same for all jobs of a chain; the
last chain is shown. `scontrol` is asked first; a job that Slurm's controller has forgotten (MinJobAge, 5
minutes by default) is looked up by `sacct`, which not every cluster has.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paced_megatron.errors import UserError
from paced_megatron.exit_codes import DONE, FAILED, STOPPED, USER_ERROR

JOBS = "slurm-jobs.tsv"
ASK_S = 30.0

GOING = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED")
UNKNOWN = "UNKNOWN"
SIGNALLED = 128  # an exit code above it: ended by the signal of the rest


@dataclass(frozen=True)
class Job:
    """A line of slurm-jobs.tsv."""

    id: str
    name: str = ""
    after: str = ""
    log: str = ""
    submitted: str = ""

    @property
    def title(self) -> str:
        return f"job {self.id} ({self.name})" if self.name else f"job {self.id}"


@dataclass(frozen=True)
class State:
    """What Slurm says of a job; `ran`: as D-HH:MM:SS."""

    state: str = UNKNOWN
    reason: str = ""
    exit_code: int = 0
    ran: str = "00:00:00"
    nodes: str = ""
    restarts: int = 0

    @property
    def failed(self) -> bool:
        """Whether it has ended otherwise than well."""
        return self.state not in (*GOING, "COMPLETED", UNKNOWN)


def read_jobs(run: Path) -> list[Job]:
    """The jobs of the run's last submission. Raises UserError where there is none."""
    path = run / "logs" / JOBS
    try:
        jobs = [Job(*line.split("\t")) for line in path.read_text().splitlines() if line]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; slurm/submit.sh writes it when it submits a run") from None
    except TypeError:
        raise UserError(
            f"{path}: a line is not ID, NAME, AFTER, LOG, SUBMITTED; give job ids instead"
        ) from None
    return [job for job in jobs if job.submitted == jobs[-1].submitted]


def ask_slurm(job_id: str) -> State:
    """A job's state, by scontrol or else by sacct."""
    shown = _output("scontrol", "-o", "show", "job", job_id)
    if shown:
        words = dict(word.split("=", 1) for word in shown.splitlines()[0].split() if "=" in word)
        # The RunTime of a job that was cancelled before it started may be counted from 1970.
        started = words.get("StartTime") != "Unknown"
        return State(
            words["JobState"],
            words.get("Reason", ""),
            _exit_code(words.get("ExitCode", "0:0")),
            words.get("RunTime", "") if started else "",
            words.get("NodeList", ""),
            int(words.get("Restarts", 0)),
        )
    kept = _output("sacct", "-n", "-X", "-P", "-o", "State,ExitCode,Elapsed,NodeList", "-j", job_id)
    if not kept:
        return State()
    state, code, ran, nodes = kept.splitlines()[-1].split("|")
    return State(state.split()[0], "", _exit_code(code), ran, nodes)


def _exit_code(text: str) -> int:
    """Of Slurm's CODE:SIGNAL; a signal as a shell has it, 128 and its number."""
    code, _, by_signal = text.partition(":")
    return int(code) or (SIGNALLED + int(by_signal) if int(by_signal or 0) else 0)


def _output(*command: str) -> str:
    """What it prints; "" where it fails or isn't there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


_ENDS = {
    "TIMEOUT": "hit its time limit",
    "NODE_FAIL": "lost a node",
    "OUT_OF_MEMORY": "ran out of memory",
    "PREEMPTED": "was preempted",
    "BOOT_FAIL": "was given a node that did not boot",
    "DEADLINE": "came to its deadline",
}


def in_words(job: Job, state: State, before: Job | None, before_failed: bool) -> str:
    """How a job stands. `before`: the one it waits for; `before_failed`: it, or one before it, has failed."""
    never_ran = state.ran in ("", "00:00:00")
    if state.state == UNKNOWN:
        return "is no longer known to Slurm"
    if before is not None and before_failed and never_ran and state.state in ("PENDING", "CANCELLED"):
        return f"does not start: {before.title} failed or was not started"
    if state.state == "PENDING":
        if before is not None and state.reason.startswith("Dependency"):
            return f"waits for {before.title}"
        if state.restarts:
            return f"was requeued and waits for its next start ({state.reason})"
        return f"waits in the queue ({state.reason})"
    if state.state in GOING:
        return f"runs since {state.ran} on {state.nodes}"
    if state.state == "COMPLETED":
        return f"done in {state.ran}"
    if state.state == "FAILED":
        saved = ", with everything saved" if state.exit_code == STOPPED else ""
        return f"failed after {state.ran} with exit code {state.exit_code}{_signal(state.exit_code)}{saved}"
    if state.state == "CANCELLED":
        return "was cancelled before it started" if never_ran else f"was cancelled after {state.ran}"
    return f"{_ENDS.get(state.state, state.state.lower())} after {state.ran}"


def _signal(exit_code: int) -> str:
    """As in " (SIGKILL)"; nothing where the exit code is of no signal that this machine knows."""
    try:
        return f" ({signal.Signals(exit_code - SIGNALLED).name})"
    except ValueError:
        return ""


def report(jobs: Sequence[Job], states: Mapping[str, State]) -> tuple[list[str], bool]:
    """The lines to show, and whether a job has failed."""
    by_id = {job.id: job for job in jobs}
    failed: dict[str, bool] = {}
    lines = []
    for job in jobs:
        before = by_id.get(job.after)
        before_failed = before is not None and failed[before.id]
        failed[job.id] = before_failed or states[job.id].failed
        words = in_words(job, states[job.id], before, before_failed)
        lines.append(f"{job.id:>8}  {job.name:24}  {words}".replace("  " + " " * 24, ""))
    causes = [job for job in jobs if failed[job.id] and not (job.after in by_id and failed[job.after])]
    done = sum(states[job.id].state == "COMPLETED" for job in jobs)
    lines.append(f"{done} of {len(jobs)} done" + ("" if causes else _rest(jobs, states)))
    for job in causes:
        log = f"; its log: {job.log}" if job.log else ""
        ended = "was cancelled" if states[job.id].state == "CANCELLED" else "is the one that failed"
        lines.append(f"{job.title} {ended}{log}")
        if len(jobs) > 1:
            lines.append(
                "mend it and submit the same chain again: what is complete is not done a second time"
            )
    return lines, bool(causes)


def _rest(jobs: Sequence[Job], states: Mapping[str, State]) -> str:
    unknown = sum(states[job.id].state == UNKNOWN for job in jobs)
    return f", {unknown} unknown (see their logs)" if unknown else ""


def main(argv: Sequence[str], ask: Callable[[str], State] = ask_slurm) -> int:
    try:
        if not argv:
            raise UserError("--status: of which run? Its folder, or job ids")
        ids = all(word.isdecimal() for word in argv)
        jobs = [Job(word) for word in argv] if ids else read_jobs(Path(argv[0]))
    except UserError as error:
        print(f"paced: {error}", file=sys.stderr)
        return USER_ERROR
    lines, failed = report(jobs, {job.id: ask(job.id) for job in jobs})
    print("\n".join(lines))
    return FAILED if failed else DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
