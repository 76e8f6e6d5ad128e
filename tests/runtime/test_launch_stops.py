"""How a job's processes hear that they should stop, and end: runtime/launch.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.launched import alive, child_pids, start_parent, wait_until


@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_ctrl_c_reaches_every_rank_once_and_lets_it_end_cleanly(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, signum: int, code: int
) -> None:
    parent = parent_of("ends_cleanly")
    os.killpg(parent.pid, signum)  # as a terminal does: to the whole group
    assert parent.wait(timeout=60) == code
    assert [(tmp_path / f"came-{rank}").read_text() for rank in range(2)] == ["SIGINT", "SIGINT"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_reaches_every_rank_once_as_it_is_and_75_is_handed_on(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, signum: signal.Signals
) -> None:
    parent = parent_of("stops_when_asked", stop_grace_s=0.1)  # before one has stopped there is no limit
    os.killpg(parent.pid, signum)
    assert parent.wait(timeout=60) == 75
    assert [(tmp_path / f"came-{rank}").read_text() for rank in range(2)] == [signum.name] * 2


def test_a_rank_that_only_starts_hears_the_stop_signal_when_it_listens(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """Sent while the ranks' interpreters start; without the mask they would die of it (code 143)."""
    parent = start_parent("stops_when_asked", tmp_path, 60.0)
    try:
        wait_until(
            lambda: len(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()) == 2
        )
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(timeout=60) == 75
    finally:
        parent.kill()


def test_a_rank_asked_alone_stops_the_job_with_75_and_one_that_then_hangs_is_killed(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = parent_of("rank_1_hangs_after_it", stop_grace_s=0.5)
    os.kill(child_pids(tmp_path)[0], signal.SIGTERM)
    assert parent.wait(timeout=60) == 75
    assert not any(alive(pid) for pid in child_pids(tmp_path))


def test_a_rank_that_fails_while_it_should_stop_gives_the_job_its_code(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = parent_of("rank_1_fails_after_it")
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=60) == 3


def test_a_second_stop_signal_kills_but_for_the_same_request_heard_twice(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = parent_of("ignores_it", stop_grace_s=60.0)
    parent.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    parent.send_signal(signal.SIGUSR1)
    time.sleep(1.3)
    assert parent.poll() is None and all(alive(pid) for pid in child_pids(tmp_path))
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=60) == 143
    assert not any(alive(pid) for pid in child_pids(tmp_path))


def test_ranks_that_do_not_end_after_ctrl_c_are_killed_when_their_time_is_up(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = parent_of("ignores_it", stop_grace_s=0.5)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(timeout=60) == 130
    assert not any(alive(pid) for pid in child_pids(tmp_path))


def test_a_second_ctrl_c_kills_at_once(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = parent_of("ignores_it", stop_grace_s=60.0)
    parent.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert parent.poll() is None and all(alive(pid) for pid in child_pids(tmp_path))
    parent.send_signal(signal.SIGINT)
    assert parent.wait(timeout=60) == 130
    assert not any(alive(pid) for pid in child_pids(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel for it")
def test_ranks_do_not_outlive_a_parent_that_is_killed(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = parent_of("ignores_it")
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(alive(pid) for pid in child_pids(tmp_path)), seconds=30)
