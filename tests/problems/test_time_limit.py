"""The time limit, and that it leaves no trace."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from paced_megatron.problems.time_limit import OutOfTime, time_limit

# A machine of CI stalls for seconds: what is not interrupted takes ENDLESS_S, what is far less than that.
ENDLESS_S, SOON_S = 120.0, 60.0


def test_a_limit_of_a_fraction_of_a_second_interrupts() -> None:
    started = time.monotonic()
    with pytest.raises(OutOfTime), time_limit(0.1):
        time.sleep(ENDLESS_S)
    assert 0.1 <= time.monotonic() - started < SOON_S


def test_big_integer_arithmetic_is_interrupted() -> None:
    started = time.monotonic()
    with pytest.raises(OutOfTime), time_limit(0.2):
        pow(10, 10**10)
    assert time.monotonic() - started < SOON_S


def test_code_that_swallows_the_interruption_is_interrupted_again() -> None:
    swallowed = 0
    with pytest.raises(OutOfTime), time_limit(0.1):
        for _ in range(3):
            try:
                time.sleep(3)
            except BaseException:
                swallowed += 1
                if swallowed == 3:
                    raise
    assert swallowed == 3


def test_code_that_catches_every_exception_does_not_swallow_the_interruption() -> None:
    caught: list[Exception] = []
    with pytest.raises(OutOfTime), time_limit(0.1):
        try:
            time.sleep(ENDLESS_S)
        except Exception as error:
            caught.append(error)
            time.sleep(1)
    assert caught == []


@pytest.fixture
def strikes() -> Iterator[list[int]]:
    """Every alarm outside a time limit; the test runner's own timer is stopped meanwhile."""
    seen: list[int] = []
    old_timer = signal.setitimer(signal.ITIMER_REAL, 0)
    old_handler = signal.signal(signal.SIGALRM, lambda signum, frame: seen.append(signum))
    yield seen
    signal.setitimer(signal.ITIMER_REAL, *old_timer)
    signal.signal(signal.SIGALRM, old_handler)


def test_nothing_strikes_after_the_block(strikes: list[int]) -> None:
    def is_off() -> bool:
        return signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)

    with time_limit(ENDLESS_S):
        assert not is_off()
    assert is_off()
    with pytest.raises(OutOfTime), time_limit(0.1):
        time.sleep(ENDLESS_S)
    assert is_off()
    time.sleep(0.5)  # longer than it takes to strike again
    with pytest.raises(ZeroDivisionError), time_limit(ENDLESS_S):
        _ = 1 / 0
    assert is_off()
    assert strikes == []


def test_an_outer_timer_and_its_handler_are_put_back(strikes: list[int]) -> None:
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.6)
    with pytest.raises(OutOfTime), time_limit(0.2):
        time.sleep(ENDLESS_S)
    while not strikes and time.monotonic() - started < SOON_S:
        time.sleep(0.05)
    assert strikes == [signal.SIGALRM]
    assert 0.6 <= time.monotonic() - started < SOON_S


def test_no_limit_and_another_thread_are_refused() -> None:
    with pytest.raises(ValueError, match="a time limit of 0 s"), time_limit(0):
        pass
    caught: list[str] = []

    def limited() -> None:
        try:
            with time_limit(1):
                pass
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=limited)
    thread.start()
    thread.join()
    assert caught == ["a verifier with a time limit must be called from the main thread"]
