"""Rank 0 works alone, the others wait: runtime/lead.py. Ranks are threads here, each with a client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from paced_megatron.errors import UserError
from paced_megatron.runtime.lead import Lead, LeadFailed
from paced_megatron.runtime.signals import Stopped
from pool import Pool


def new_stores(world_size: int, timeout_s: float = 1.0) -> list[dist.TCPStore]:
    timeout = timedelta(seconds=timeout_s)
    server = dist.TCPStore("127.0.0.1", 0, None, is_master=True, timeout=timeout, wait_for_workers=False)
    others = range(1, world_size)
    return [server, *(dist.TCPStore("127.0.0.1", server.port, None, False, timeout=timeout) for _ in others)]


def on_ranks(leads: list[Lead], body: Callable[[Lead], Any]) -> list[Any]:
    """What `body` returns on each rank, or the exception that it raises there."""

    def outcome(lead: Lead) -> Any:
        try:
            return body(lead)
        except (Exception, Stopped) as error:
            return error

    with ThreadPoolExecutor(len(leads)) as ranks:
        return list(ranks.map(outcome, leads))


def new_leads(world_size: int, **settings: float) -> list[Lead]:
    settings = {"begin_patience_s": 20.0} | settings  # so that a broken lead fails a test, not hangs it
    stores = [dist.PrefixStore("x", store) for store in new_stores(world_size)]
    return [Lead(rank, world_size, store, **settings) for rank, store in enumerate(stores)]


def test_a_single_process_just_calls_the_function() -> None:
    lead = Lead(0, 1, None)
    assert lead.alone(lambda: 7, "seven") == 7
    assert lead.agree({"a": 1}) == {"a": 1}
    lead.close()
    with pytest.raises(ValueError, match="need a store"):
        Lead(0, 2, None)


def test_only_rank_0_works_and_in_its_own_thread_and_the_others_return_none_after_it() -> None:
    calls: list[tuple[int, bool]] = []
    finished = [0.0]

    def body(lead: Lead) -> tuple[Any, float]:
        mine = threading.current_thread()

        def work() -> str:
            time.sleep(0.3)
            calls.append((lead.rank, threading.current_thread() is mine))
            finished[0] = time.monotonic()
            return "done"

        return lead.alone(work, "work"), time.monotonic()

    results = on_ranks(new_leads(3), body)
    assert [result for result, _ in results] == ["done", None, None]
    assert calls == [(0, True)]
    assert all(when >= finished[0] for _, when in results)


def test_the_others_wait_much_longer_than_the_store_s_timeout() -> None:
    leads = new_leads(2, heartbeat_s=0.2, patience_s=2.0)  # on stores that give up after 1 s
    start = time.monotonic()
    results = on_ranks(leads, lambda lead: lead.alone(lambda: time.sleep(4.0), "a long sleep"))
    assert results == [None, None]
    assert time.monotonic() - start >= 4.0


def test_what_rank_0_raises_reaches_the_others_with_its_cause() -> None:
    def fail() -> None:
        raise ZeroDivisionError("no problem left")

    first, *others = on_ranks(new_leads(3), lambda lead: lead.alone(fail, "pass rates"))
    assert type(first) is ZeroDivisionError
    for error in others:
        assert isinstance(error, LeadFailed) and not error.is_user_error
        assert str(error) == "rank 0 failed (pass rates): ZeroDivisionError: no problem left"


def test_a_user_s_mistake_on_rank_0_is_marked_as_one_on_the_others() -> None:
    def fail() -> None:
        raise UserError("train.jsonl:3: no answer; add one")

    first, second = on_ranks(new_leads(2), lambda lead: lead.alone(fail, "problems"))
    assert type(first) is UserError
    assert isinstance(second, LeadFailed) and second.is_user_error
    assert "train.jsonl:3: no answer; add one" in str(second)


def test_rank_0_stays_until_the_others_have_read_why_it_failed() -> None:
    read_at = [0.0]

    def body(lead: Lead) -> float:
        try:
            if lead.rank:
                time.sleep(1.0)
            lead.alone(lambda: 1 / 0, "work")
        except LeadFailed:
            read_at[0] = time.monotonic()
        except ZeroDivisionError:
            return time.monotonic()
        return 0.0

    left_at, _ = on_ranks(new_leads(2), body)
    assert left_at >= read_at[0] - 0.05 > 0


def test_a_silent_rank_0_is_given_up_after_the_patience() -> None:
    leads = new_leads(2, heartbeat_s=1000.0, patience_s=0.5)
    start = time.monotonic()
    waited = [0.0]
    given_up = threading.Event()

    def body(lead: Lead) -> bool | None:
        try:
            return lead.alone(lambda: given_up.wait(60.0), "rollouts of stage 1")
        finally:
            if lead.rank:
                waited[0] = time.monotonic() - start
                given_up.set()

    in_time, error = on_ranks(leads, body)
    assert isinstance(error, LeadFailed)
    assert "rank 0 has shown no sign of life" in str(error) and "rollouts of stage 1" in str(error)
    assert in_time is True and waited[0] >= 0.5


def test_a_rank_0_that_comes_late_is_waited_for_longer_but_not_for_ever() -> None:
    def body(lead: Lead) -> Any:
        if lead.rank == 0:
            time.sleep(2.0)
        return lead.alone(lambda: "here", "work")

    assert on_ranks(new_leads(2, patience_s=1.5, begin_patience_s=60.0), body) == ["here", None]
    _, error = on_ranks(new_leads(2, patience_s=30.0, begin_patience_s=0.3), body)
    assert isinstance(error, LeadFailed) and "not come to it" in str(error)


def test_a_rank_0_that_has_gone_with_its_store_is_named() -> None:
    server, client = new_stores(2)
    lead = Lead(1, 2, client)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(lead.alone, lambda: None, "work")
        time.sleep(0.3)
        del server  # as when rank 0's process ends
        with pytest.raises(LeadFailed, match="rank 0 is gone"):
            waiting.result(timeout=60)


def test_calls_do_not_mix_when_rank_0_runs_ahead() -> None:
    def body(lead: Lead) -> list[Any]:
        values = []
        for step in range(5):
            if lead.rank == 2:
                time.sleep(0.1)
            values.append(lead.agree({"step": step, "of": (lead.rank, None)}))
        return values

    expected = [{"step": step, "of": [0, None]} for step in range(5)]
    assert on_ranks(new_leads(3), body) == [expected] * 3


def test_answered_calls_leave_no_keys_in_the_store() -> None:
    stores = new_stores(3)
    leads = [Lead(rank, 3, store) for rank, store in enumerate(stores)]
    before = stores[0].num_keys()

    def body(lead: Lead) -> None:
        for _ in range(4):
            lead.alone(lambda: time.sleep(0.01), "work")
            lead.agree(1)
        lead.close()

    assert on_ranks(leads, body) == [None] * 3
    assert stores[0].num_keys() == before


def test_close_lets_rank_0_leave_only_after_the_others_have_read_its_last_word() -> None:
    read_at = [0.0]

    def body(lead: Lead) -> float:
        if lead.rank:
            time.sleep(1.0)
        lead.agree("the last word")
        if lead.rank:
            read_at[0] = time.monotonic()
        lead.close()
        return time.monotonic()

    left_at, _ = on_ranks(new_leads(2), body)
    assert left_at >= read_at[0] - 0.05 > 0


def works_alone_between_collectives(rank: int, world_size: int) -> tuple[Any, float]:
    import torch

    store = dist.PrefixStore("lead", dist.distributed_c10d._get_default_store())
    lead = Lead(rank, world_size, store)
    told = lead.alone(lambda: "only zero knows", "work")
    x = torch.tensor([float(lead.agree(rank + 5))])
    dist.all_reduce(x)
    lead.close()
    return told, x.item()


@pytest.mark.parallel
def test_it_works_between_the_collectives_of_real_processes(pool: Pool) -> None:
    results = pool.run(works_alone_between_collectives, 3)
    assert results == [("only zero knows", 15.0), (None, 15.0), (None, 15.0)]


def asked_on(leads: list[Lead], rank: int) -> list[Lead]:
    """One rank has heard SIGUSR1, the others nothing."""
    leads[rank].asked = lambda: "SIGUSR1"
    return leads


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_is_asked_to_stop_while_rank_0_works_stops_all_of_them_between_two_units(rank) -> None:
    units = []

    def body(lead: Lead) -> None:
        def work() -> None:
            while len(units) < 100:
                units.append(time.sleep(0.05))
                lead.stop_work_if_asked(f"{len(units)} units are kept")

        lead.alone(work, "rollouts")

    ends = on_ranks(asked_on(new_leads(3), rank), body)
    assert all(isinstance(end, Stopped) and end.asked == "SIGUSR1" for end in ends), ends
    assert {end.saved for end in ends} == {f"{len(units)} units are kept"} and len(units) < 20


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_ask_together_whether_to_stop_do_the_same(rank) -> None:
    def body(lead: Lead) -> int:
        for call in range(20):
            lead.alone(lambda: time.sleep(0.02), "work")  # in which a rank tells what it has heard
            lead.stop_if_asked(f"{call} calls")
        return 20

    ends = on_ranks(asked_on(new_leads(2), rank), body)
    assert [type(end) for end in ends] == [Stopped, Stopped] and ends[0].saved == ends[1].saved
    assert on_ranks(new_leads(2), body) == [20, 20]


def test_a_single_process_stops_when_it_is_asked() -> None:
    lead = Lead(0, 1, None, asked=lambda: "SIGTERM")
    with pytest.raises(Stopped, match="stopped by SIGTERM: 3 of 9 are kept"):
        lead.alone(lambda: lead.stop_work_if_asked("3 of 9 are kept"), "work")
    with pytest.raises(Stopped):
        lead.stop_if_asked("all")


def test_a_rank_for_which_rank_0_has_never_to_wait_is_heard_all_the_same() -> None:
    """As one whose own work is longer than rank 0's: the answer is there whenever it comes."""
    leads = asked_on(new_leads(2), 1)
    leads[0].agree("work")
    assert leads[0].heard() is None and leads[1].agree(None) == "work"
    assert leads[0].heard() == "SIGUSR1"


@pytest.mark.parametrize("rank", [0, 2])
def test_who_waits_for_rank_0_hears_of_a_rank_that_has_failed_alone(rank: int) -> None:
    """As rank 0 of a run whose folder another process holds: it never comes to the call, and the others
    waited for it until it had gone with the store."""
    leads = new_leads(3)
    leads[rank].tell_failure("process 7 is at work in this folder")
    with pytest.raises(LeadFailed, match=r"at work in this folder$") as caught:
        leads[1].agree(None)
    assert caught.value.is_user_error
