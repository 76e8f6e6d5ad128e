"""Worker processes: what hangs, grows or dies costs one answer; none outlives us; no code is evaluated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paced_megatron.problems import verifier_pool
from paced_megatron.problems.outcome import Outcome
from paced_megatron.problems.verifier_pool import GRACE_S, VerifierPool
from paced_megatron.problems.verifier_worker import HARMLESS

EQUAL, UNEQUAL, ENDLESS = ("x+x", "2x"), ("x+x", "3x"), (r"\prod_{k=1}^{10^8} k", "x^2+7")
LONG = 60.0


@pytest.fixture(scope="module")
def workers() -> Iterator[VerifierPool]:
    pool = VerifierPool(workers=2, memory_mib=512)
    yield pool
    pool.close()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_no_process_is_started_before_one_is_needed_nor_more_than_there_are_answers() -> None:
    pool = VerifierPool(workers=2, memory_mib=512)
    assert pool.pids == []
    assert pool.judge([], LONG) == []
    assert pool.pids == []
    assert pool.judge([EQUAL], LONG) == [Outcome.CORRECT]
    (pid,) = pool.pids
    pool.close()
    assert pool.pids == [] and not runs(pid)


def test_verdicts_are_in_the_order_of_the_pairs(workers: VerifierPool) -> None:
    assert workers.judge([EQUAL, UNEQUAL, EQUAL, UNEQUAL, UNEQUAL], LONG) == [
        Outcome.CORRECT,
        Outcome.INCORRECT,
        Outcome.CORRECT,
        Outcome.INCORRECT,
        Outcome.INCORRECT,
    ]
    assert len(workers.pids) == 2


def test_what_never_ends_is_timed_out_in_the_worker_which_goes_on(
    workers: VerifierPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier_pool, "GRACE_S", LONG)  # a worker that stalls for a second is not killed
    workers.judge([EQUAL, UNEQUAL], LONG)
    before = workers.pids
    assert workers.judge([ENDLESS, ENDLESS], 0.3) == [Outcome.TIMED_OUT] * 2
    assert workers.judge([EQUAL, UNEQUAL], LONG) == [Outcome.CORRECT, Outcome.INCORRECT]
    assert workers.pids == before


def test_a_worker_that_does_not_even_hear_its_timer_is_killed_and_replaced(workers: VerifierPool) -> None:
    workers.judge([EQUAL, UNEQUAL], LONG)
    for pid in workers.pids:
        os.kill(pid, signal.SIGSTOP)
    before = workers.pids
    assert workers.judge([EQUAL, UNEQUAL], 0.2) == [Outcome.TIMED_OUT] * 2
    assert workers.judge([EQUAL, UNEQUAL], LONG) == [Outcome.CORRECT, Outcome.INCORRECT]
    assert not any(runs(pid) for pid in before)


def test_workers_that_were_killed_while_idle_cost_no_answer(workers: VerifierPool) -> None:
    workers.judge([EQUAL, UNEQUAL], LONG)
    for pid in workers.pids:
        os.kill(pid, signal.SIGKILL)
    assert workers.judge([EQUAL, UNEQUAL], LONG) == [Outcome.CORRECT, Outcome.INCORRECT]


def test_a_pair_at_which_the_worker_dies_twice_is_timed_out_and_the_others_are_judged() -> None:
    pool = VerifierPool(workers=1, memory_mib=512)
    killed: list[int] = []
    done = threading.Event()

    def kill_whoever_is_at_the_second_pair() -> None:
        while not done.wait(0.05):
            for worker in [worker for worker in pool._workers if worker.question == 1]:
                if time.monotonic() > worker.deadline - GRACE_S - LONG + 0.3:
                    killed.append(worker.process.pid)
                    worker.process.kill()

    thread = threading.Thread(target=kill_whoever_is_at_the_second_pair)
    thread.start()
    verdicts = pool.judge([EQUAL, ENDLESS, UNEQUAL], LONG)
    done.set()
    thread.join()
    pool.close()
    assert verdicts == [Outcome.CORRECT, Outcome.TIMED_OUT, Outcome.INCORRECT]
    assert len(set(killed)) == 2


def test_a_worker_has_no_more_memory_than_it_may_and_what_it_keeps_is_given_back() -> None:
    pool = VerifierPool(workers=1, memory_mib=256)
    assert pool.judge([EQUAL], LONG) == [Outcome.CORRECT]
    (pid,) = pool.pids
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (space,) = [line.split()[3:5] for line in limits if line.startswith("Max address space")]
    assert space == [str(256 << 20)] * 2
    (file_size,) = [line.split()[3:5] for line in limits if line.startswith("Max file size")]
    assert file_size == ["0", "0"]
    # 2^(3 * 10^9) has 375 MB.
    assert pool.judge([("2^{3000000000}", "x"), EQUAL], 10.0)[0] is not Outcome.CORRECT
    assert pool.judge([EQUAL], LONG) == [Outcome.CORRECT]
    pool.close()


def test_a_worker_that_has_grown_over_half_its_memory_is_replaced_at_no_cost(workers: VerifierPool) -> None:
    workers.judge([EQUAL, UNEQUAL], LONG)
    pages = max(int(Path(f"/proc/{pid}/statm").read_text().split()[0]) for pid in workers.pids)
    has_mib = pages * os.sysconf("SC_PAGE_SIZE") >> 20
    pool = VerifierPool(workers=1, memory_mib=has_mib * 3 // 2)  # more than half of which it has at once
    assert pool.judge([EQUAL], LONG) == [Outcome.CORRECT]
    (first,) = pool.pids
    assert wait_for(lambda: not runs(first))
    assert pool.judge([UNEQUAL], LONG) == [Outcome.INCORRECT]
    pool.close()


def test_a_worker_that_cannot_start_is_an_error_that_says_what_to_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = VerifierPool(workers=1, memory_mib=512)
    with pytest.raises(RuntimeError, match=r"did not start \(exit code 1\); try `/bin/false -c 'import"):
        pool.judge([EQUAL], LONG)
    assert pool.pids == []


def test_any_thread_may_ask_and_each_gets_its_own_verdicts(workers: VerifierPool) -> None:
    found: dict[int, list[Outcome]] = {}

    def ask(number: int) -> None:
        found[number] = workers.judge([EQUAL if number % 2 else UNEQUAL] * 3, LONG)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert found[number] == [Outcome.CORRECT if number % 2 else Outcome.INCORRECT] * 3
    # The kernel ends a worker with the thread that started it: the main thread finds others.
    assert workers.judge([EQUAL, UNEQUAL], LONG) == [Outcome.CORRECT, Outcome.INCORRECT]


def test_after_an_interruption_no_worker_answers_for_the_batch_before(workers: VerifierPool) -> None:
    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    workers.judge([EQUAL, UNEQUAL], LONG)
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            workers.judge([ENDLESS, ENDLESS], LONG)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert workers.judge([EQUAL, UNEQUAL], LONG) == [Outcome.CORRECT, Outcome.INCORRECT]


JOB = """
import sys, time
from paced_megatron.problems.verifier_pool import VerifierPool
heavy = {"torch", "transformers", "megatron", "math_verify", "sympy"} & set(sys.modules)
assert not heavy, heavy
pool = VerifierPool(workers=2, memory_mib=512)
pool.judge([("x+x", "2x"), ("x+x", "3x")], 60.0)
print(*pool.pids, flush=True)
if sys.argv[1] == "busy":
    pool.judge([(r"\\prod_{k=1}^{10^8} k", "x^2+7")] * 2, 300.0)
"""


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_no_worker_outlives_the_process_that_started_it(how: str) -> None:
    state = "busy" if how == "killed" else "idle"
    with subprocess.Popen([sys.executable, "-c", JOB, state], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        pids = [int(pid) for pid in job.stdout.readline().split()]
        assert len(pids) == 2
        if how == "killed":
            assert all(runs(pid) for pid in pids)
            job.kill()
    assert wait_for(lambda: not any(runs(pid) for pid in pids))


def test_a_worker_holds_neither_torch_nor_megatron(workers: VerifierPool) -> None:
    workers.judge([EQUAL], LONG)
    maps = Path(f"/proc/{workers.pids[0]}/maps").read_text()
    assert "libpython" in maps or "python" in maps
    assert "torch" not in maps


@pytest.mark.parametrize(
    "code",
    ["Integer (12 )", "Float ('2.5' )", "Float ('1.5e-8' )", "Symbol ('exbi' )", "E ", "-Integer (3 )"],
)
def test_the_gate_before_eval_lets_numbers_and_names_through(code: str) -> None:
    assert HARMLESS.fullmatch(code)


@pytest.mark.parametrize(
    "code",
    [
        "Integer (12 ).__class__ ",
        "Integer (12 )**Integer (10 )",
        "Symbol ('x' ).diff ()",
        "exit ()",
        "__import__ ('os').system ('true')",
        "open ",
        "Symbol ('x'+'y')",
        "Integer (12 ) or exit ()",
        "Float ('1' )\nexit()",
    ],
)
def test_the_gate_before_eval_lets_nothing_else_through(code: str) -> None:
    assert not HARMLESS.fullmatch(code)


GATED = """
from paced_megatron.problems import math_equal, verifier_worker
from sympy import sympify
verifier_worker.harden(512)
try:
    sympify("[].append(print('evaluated'))")
except Exception as error:
    print(type(error).__name__)
print(math_equal.judge_value("1.5", r"\\\\frac{3}{2}", 60.0).value)
try:
    with open("/tmp/verifier-%d" % __import__("os").getpid(), "w") as file:
        file.write("x" * 10)
except OSError as error:
    print(error.strerror)
"""


def test_sympy_evaluates_no_other_code_in_a_worker_and_no_byte_is_written_to_a_file() -> None:
    run = subprocess.run(
        [sys.executable, "-c", GATED.replace("\\\\\\\\", "\\\\")], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == ["ValueError", "correct", "File too large"]
