"""Asked to stop: runtime/signals.py, in a process of its own, without torch."""

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

from paced_megatron.runtime.signals import STOP_SIGNALS, Stopped, asked_to_stop, listening, stop_if_asked

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import os, signal, sys, time
from paced_megatron.runtime import signals

def until_asked():
    with signals.listening():
        print("ready", flush=True)
        while not signals.asked_to_stop():
            time.sleep(0.01)
        print(signals.asked_to_stop(), signals.as_number(signals.asked_to_stop()), flush=True)
        time.sleep(60)

def in_a_call_that_never_ends():
    import ctypes
    libc = ctypes.CDLL(None)
    with signals.listening():
        print("ready", flush=True)
        while True:
            libc.sleep(60)  # returns to Python in a minute, as a collective may never do

def blocked_at_first():
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOP_SIGNALS)
    print("ready", flush=True)
    sys.stdin.readline()
    with signals.listening():
        time.sleep(0.1)
        print(signals.asked_to_stop(), flush=True)

def with_a_forked_child():
    with signals.listening():
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(3)
        time.sleep(0.1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        time.sleep(0.1)
        print(os.waitstatus_to_exitcode(status), signals.asked_to_stop(), flush=True)

globals()[sys.argv[1]]()
"""


@pytest.fixture
def child() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    children: list[subprocess.Popen[str]] = []

    def start(what: str, ready: bool = True) -> subprocess.Popen[str]:
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", CHILD, what],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        if ready:
            assert said(children[-1]) == "ready"
        return children[-1]

    yield start
    for process in children:
        process.kill()
        process.wait()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_the_first_signal_is_noted_and_the_second_one_ends_the_process(child, number) -> None:
    process = child("until_asked")
    process.send_signal(number)
    assert said(process) == f"{number.name} {int(number)}"
    process.send_signal(number)  # the same request, handed on by a launcher
    time.sleep(1.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert process.stderr.read() == "paced: SIGTERM after a first one: ended at once, unsaved\n"


def test_a_second_signal_ends_a_process_that_hangs_in_a_library(child) -> None:
    process = child("in_a_call_that_never_ends")
    process.send_signal(signal.SIGUSR1)
    time.sleep(1.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM


def test_a_signal_that_came_while_the_process_started_is_heard_later(child) -> None:
    process = child("blocked_at_first")
    process.send_signal(signal.SIGTERM)
    process.stdin.write("\n")
    process.stdin.flush()
    assert said(process) == "SIGTERM"


def test_a_forked_child_is_ended_by_the_signal_and_does_not_tell_its_parent(child) -> None:
    assert said(child("with_a_forked_child", ready=False)) == f"{-signal.SIGTERM} None"


def test_outside_everything_is_as_it_was_and_a_new_listener_has_heard_nothing() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        deadline = time.monotonic() + 60
        while asked_to_stop() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(
            Stopped, match="stopped by SIGUSR1: all of it; the same command goes on from here"
        ):
            stop_if_asked("all of it")
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    with listening():
        stop_if_asked("nothing")


def test_a_thread_that_may_not_choose_handlers_works_without() -> None:
    entered = []

    def body() -> None:
        with listening():
            entered.append(True)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert entered == [True]
