"""How far a phase has come, on a terminal and in a log: progress.py."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from paced_megatron.progress import bars_only, console_for, duration, say, track, warn


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def a_log() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=40), text


def a_terminal() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=True, width=120, _environ={"TERM": "xterm"}), text


def test_time_left_of_a_budget_in_seconds_goes_by_what_is_spent_of_it_by_the_clock_on_the_wall() -> None:
    """A quarter of the budget took 8 s on the wall, evaluations and all."""
    console, _ = a_log()
    clock = Clock()
    with track("training", 10.0, "seconds", console=console, clock=clock) as bar:
        clock.now += 8.0
        bar.advance(2.5)
        assert bar.status() == "2.5/10.0 seconds, 0.312 seconds/s, 24 s left"


def test_a_log_has_a_line_at_the_start_one_every_five_seconds_and_one_at_the_end() -> None:
    console, text = a_log()
    clock = Clock()
    with track("rollouts", total=20, unit="attempts", console=console, clock=clock) as bar:
        for _ in range(10):
            clock.now += 2.0
            bar.advance(2, correct=0.25)
    assert text.getvalue().splitlines() == [
        "rollouts: 0/20 attempts",
        "rollouts: 6/20 attempts, 1 attempts/s, 14 s left, correct 0.25",
        "rollouts: 12/20 attempts, 1 attempts/s, 8.0 s left, correct 0.25",
        "rollouts: 18/20 attempts, 1 attempts/s, 2.0 s left, correct 0.25",
        "rollouts: 20/20 attempts in 20 s, 1 attempts/s, correct 0.25",
    ]


def test_what_was_done_before_counts_but_not_for_the_rate_and_the_time_left() -> None:
    console, text = a_log()
    clock = Clock()
    with track("stage 1", total=1000, unit="steps", console=console, clock=clock, done=900) as bar:
        clock.now += 10.0
        bar.advance(20)
        clock.now += 40.0
        bar.advance(80)
    lines = text.getvalue().splitlines()
    assert lines[0] == "stage 1: 900/1000 steps"
    assert lines[1] == "stage 1: 920/1000 steps, 2 steps/s, 40 s left"
    assert lines[-1] == "stage 1: 1000/1000 steps in 50 s, 2 steps/s"


def test_facts_stay_until_they_are_replaced() -> None:
    console, text = a_log()
    clock = Clock()
    with track("stage 1", total=None, unit="steps", console=console, clock=clock) as bar:
        clock.now += 6.0
        bar.advance(3, loss=0.123456, lr="1e-6")
        clock.now += 6.0
        bar.advance(3, loss=0.1)
    assert text.getvalue().splitlines()[1:3] == [
        "stage 1: 3 steps, 0.5 steps/s, loss 0.1235, lr 1e-6",
        "stage 1: 6 steps, 0.5 steps/s, loss 0.1, lr 1e-6",
    ]


def test_a_phase_that_is_stopped_says_how_far_it_came() -> None:
    for console, text in (a_log(), a_terminal()):
        clock = Clock()
        shown = track("rollouts", total=20, unit="attempts", console=console, clock=clock)
        with pytest.raises(KeyboardInterrupt), shown as bar:
            clock.now += 3.0
            bar.advance(6)
            raise KeyboardInterrupt
        last_line = text.getvalue().splitlines()[-1]
        assert last_line.endswith("rollouts: stopped at 6/20 attempts in 3.0 s, 2 attempts/s")


def test_a_phase_with_nothing_to_do_divides_nothing_by_zero() -> None:
    console, text = a_log()
    with track("rollouts", total=0, unit="attempts", console=console, clock=Clock()) as bar:
        bar.advance(0)
    assert text.getvalue().splitlines() == ["rollouts: 0/0 attempts", "rollouts: 0/0 attempts in 0.0 s"]


def test_a_terminal_has_a_bar_with_the_same_words_and_one_line_is_left_behind() -> None:
    console, text = a_terminal()
    clock = Clock()
    with track("rollouts [b]", total=20, unit="attempts", console=console, clock=clock) as bar:
        clock.now += 2.0
        bar.advance(4, correct=0.5)
        bar.say("a line above the bar")
    written = text.getvalue()
    assert "rollouts [b] " in written and "━" in written
    assert "4/20 attempts, 2 attempts/s, 8.0 s left, correct 0.5" in written
    assert written.index("a line above the bar\n") < written.rindex("━")
    assert "\x1b[1A\x1b[2K" in written[written.rindex("━") :], "the bar was not wiped away (up a line, erase)"
    assert written.endswith("rollouts [b]: 4/20 attempts in 2.0 s, 2 attempts/s, correct 0.5\n")


def test_only_rank_0_prints() -> None:
    text = io.StringIO()
    for rank in (1, 0):
        console = console_for(rank, text)
        say(console, f"rank {rank}")
        with track("rollouts", total=1, unit="attempts", console=console, rank=rank, clock=Clock()) as bar:
            bar.advance(1)
            bar.say(f"said by {rank}")
        with track("more", total=1, unit="attempts", console=console_for(0, text), rank=rank) as bar:
            bar.advance(1)
        assert ("rank 1" in text.getvalue(), bool(text.getvalue())) == (False, rank == 0)
    assert "said by 0" in text.getvalue()


def test_a_line_is_printed_as_it_is_however_long_and_whatever_brackets_it_holds() -> None:
    console, text = a_log()
    line = "[bold]problem[/bold] 17 of " + "a very long name " * 20 + "12.5 :smile:"
    say(console, line)
    assert text.getvalue() == line + "\n"


def test_durations_read_as_people_say_them() -> None:
    spoken = {0: "0.0 s", 4.23: "4.2 s", 9.97: "10 s", 59.4: "59 s", 59.6: "1 min 00 s", 65: "1 min 05 s"}
    spoken |= {3599.7: "1 h 00 min", 7380: "2 h 03 min", 90000: "1 d 01 h"}
    assert {seconds: duration(seconds) for seconds in spoken} == spoken


def test_among_many_runs_only_what_goes_on_and_warnings_are_shown() -> None:
    console, text = a_log()
    quiet, clock = bars_only(console), Clock()
    say(quiet, "a page of results")
    with track("rollouts", total=20, unit="attempts", console=quiet, clock=clock) as bar:
        clock.now += 6.0
        bar.advance(12)
    warn(quiet, "warning: few problems")
    assert text.getvalue().splitlines() == [
        "rollouts: 12/20 attempts, 2 attempts/s, 4.0 s left",
        "warning: few problems",
    ]


def test_among_many_runs_a_terminal_still_shows_a_bar_and_ranks_other_than_0_nothing() -> None:
    console, text = a_terminal()
    quiet = bars_only(console)
    assert quiet.is_terminal
    with track("rollouts", total=20, unit="attempts", console=quiet) as bar:
        bar.advance(20)
    assert "rollouts" in text.getvalue() and "20/20 attempts in" not in text.getvalue()
    assert bars_only(console_for(1)).quiet
