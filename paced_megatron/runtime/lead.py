"""Rank 0 works alone (engine, files); the others wait on the job's store, never inside a collective.

Gloo gives up after 30 minutes and NCCL after 10; a phase of rollouts takes as long as it takes. So the others
look every quarter of a second whether rank 0 has posted that it is done, and a heartbeat tells them apart
from a dead one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch.distributed as dist

from paced_megatron.errors import UserError
from paced_megatron.runtime.files import cannot_write
from paced_megatron.runtime.out_of_memory import how_much, is_out_of_memory
from paced_megatron.runtime.signals import Stopped, asked_to_stop

T = TypeVar("T")

MAX_PAUSE_S = 0.25  # between two looks at the store
ASKED = "asked-to-stop"  # the store's key for what another rank than 0 has heard
FAILED = "failed"  # and for the cause of a rank that has failed alone
READ_S = 10.0  # how long a failed rank 0 (which may serve the store) stays for the others to read its cause


class LeadFailed(RuntimeError):
    """Raised on the other ranks when rank 0 failed or went silent; the message has its cause.

    `is_user_error`: the cause is a UserError, which rank 0 has shown already.
    """

    def __init__(self, message: str, is_user_error: bool = False):
        super().__init__(message)
        self.is_user_error = is_user_error


class Lead:
    """Lets rank 0 work alone while the others wait. All ranks make the same calls in the same order.

    Args:
        rank, world_size: of this process in the job.
        store: shared by the job's ranks (TCPStore, FileStore, or a PrefixStore on one); None when world_size
        is 1.
        heartbeat_s: seconds between two signs of life of rank 0 while it works.
        patience_s: silence of rank 0, in seconds, after which the others give it up.
        begin_patience_s: how long the others wait for rank 0 to come to the call at all; it shows no sign of
            life while it is still busy with something before.
        longest_pause_s: between two looks of the others at the store.
        asked: whether this process was asked to stop, and by what; or one that has told it alone.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        store: dist.Store | None,
        heartbeat_s: float = 2.0,
        patience_s: float = 60.0,
        begin_patience_s: float = 600.0,
        longest_pause_s: float = MAX_PAUSE_S,
        asked: Callable[[], str | None] = asked_to_stop,
    ):
        if world_size > 1 and store is None:
            raise ValueError(f"{world_size} ranks need a store")
        self.rank = rank
        self.world_size = world_size
        self._store = store
        self._heartbeat_s = heartbeat_s
        self._patience_s = patience_s
        self._begin_patience_s = begin_patience_s
        self._longest_pause_s = longest_pause_s
        self._calls = 0
        self.asked = asked

    def alone(self, fn: Callable[[], T], what: str) -> T | None:
        """Run `fn` on rank 0, in the calling thread, and return its result; the others wait and return None.

        `what` names the work in a failure's message ("rollouts of stage 1").

        Raises:
            LeadFailed: on the other ranks, when fn raised on rank 0, rank 0 went silent, or a rank has left
            word that it failed (`tell_failure`). Rank 0 raises fn's own exception.
            Stopped: on all ranks, when fn raised it (see `stop_work_if_asked`).
        """
        if self.rank == 0:
            return self._lead(fn, what, shared=False)
        self._follow(what)
        return None

    def agree(self, value: Any) -> Any:
        """Return rank 0's `value`, a small JSON value, on every rank (tuples become lists)."""
        if self.rank == 0:
            return self._lead(lambda: json.loads(json.dumps(value)), "agreeing on a value", shared=True)
        return self._follow("agreeing on a value")

    def stop_if_asked(self, saved: str) -> None:
        """Raise Stopped on every rank where one of them was asked to stop. All ranks call it.

        `saved` says, on rank 0, what is on disk.
        """
        if asked := self.agree(self.heard() if self.rank == 0 else None):
            raise Stopped(asked, saved)

    def stop_work_if_asked(self, saved: str) -> None:
        """The same inside of `alone`, for rank 0: between two units of work, when the last one is on disk.
        The other ranks raise Stopped too."""
        if asked := self.heard():
            raise Stopped(asked, saved)

    def heard(self) -> str | None:
        """For rank 0: the name of the signal by which it, or another rank that has waited for it since, was
        asked to stop; None: nobody was. A cluster may signal one rank alone."""
        if (asked := self.asked()) or self._store is None or self.world_size == 1:
            return asked
        return self._store.get(ASKED).decode() if self._store.check([ASKED]) else None

    def tell_failure(self, cause: str) -> None:
        """Leave word of why this rank alone has failed, for the others, whose next collective breaks."""
        if self._store is not None and self.world_size > 1:
            with suppress(RuntimeError):  # the store has gone with rank 0, and nobody is left to hear
                self._store.set(FAILED, cause)

    def told_failure(self) -> str | None:
        """What another rank has left word of."""
        if self._store is None or self.world_size == 1:
            return None
        try:
            return self._store.get(FAILED).decode() if self._store.check([FAILED]) else None
        except RuntimeError:
            return None

    def close(self, wait_s: float = 30.0) -> None:
        """Wait until every rank has read what rank 0 last posted. To be called before the store goes away.

        Rank 0's process usually serves the store: without this the others could find it gone with rank 0 and
        take a job that is done for a failed one. After `wait_s` seconds rank 0 leaves all the same.
        """
        if self.rank == 0 and self._calls and self._store is not None:
            self._wait_until_read(self._key("done"), wait_s)

    def _key(self, name: str) -> str:
        return f"lead-{self._calls}-{name}"

    def _lead(self, fn: Callable[[], T], what: str, shared: bool) -> T:
        store = self._store
        if self.world_size == 1 or store is None:
            return fn()
        self._calls += 1
        done = self._key("done")
        try:
            with self._heartbeat(store, self._key("beat")):
                result = fn()
        except BaseException as error:
            store.set(done, json.dumps(_end_in_words(error)))
            if isinstance(error, Exception | Stopped):  # on Ctrl-C the others leave by themselves
                self._wait_until_read(done, READ_S)
            raise
        store.set(done, json.dumps({"value": result if shared else None}))
        return result

    def _follow(self, what: str) -> Any:
        store = self._store
        assert store is not None
        self._calls += 1
        done = self._key("done")
        try:
            self._wait_for(store, done, what)
            message = json.loads(store.get(done))
            self._forget_if_last(store)
        except LeadFailed:
            raise
        except RuntimeError as error:  # what torch raises when the other end of the store has gone
            raise LeadFailed(f"rank 0 is gone ({what}): its store does not answer ({error})") from error
        if "error" in message:
            raise LeadFailed(f"rank 0 failed ({what}): {message['error']}", message["is_user_error"])
        if "stopped" in message:
            raise Stopped(*message["stopped"])
        return message["value"]

    def _wait_for(self, store: dist.Store, done: str, what: str) -> None:
        """Return when rank 0 has posted `done`. Only looks: a `get` would end with the store's timeout."""
        beat_key = self._key("beat")
        last_beat, last_change, pause, told = 0, time.monotonic(), 0.005, False
        while True:
            if not told and (asked := self.asked()):  # first: rank 0 may have been here before, every time
                store.set(ASKED, asked)
                told = True
            if store.check([done]):
                return
            if cause := self.told_failure():  # of rank 0, before it came to the call; or of another one
                raise LeadFailed(f"the job has failed ({what}): {cause}", is_user_error=True)
            beat = store.add(beat_key, 0) if store.check([beat_key]) else 0
            now = time.monotonic()
            if beat != last_beat:
                last_beat, last_change = beat, now
            silence = now - last_change
            if silence > (self._patience_s if beat else self._begin_patience_s):
                state = "shown no sign of life" if beat else "not come to it"
                raise LeadFailed(f"rank 0 has {state} for {silence:.0f} s ({what})")
            time.sleep(pause)
            pause = min(pause * 1.5, self._longest_pause_s)

    def _forget_if_last(self, store: dist.Store) -> None:
        """Delete this call's keys when every rank but 0 has read the answer: whoever reads last does it."""
        if store.add(self._key("read"), 1) == self.world_size - 1:
            for name in ("beat", "read", "done"):  # "done" last: rank 0 waits for its absence
                store.delete_key(self._key(name))

    def _wait_until_read(self, done: str, wait_s: float) -> None:
        assert self._store is not None
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and self._store.check([done]):
            time.sleep(0.02)

    @contextmanager
    def _heartbeat(self, store: dist.Store, key: str) -> Iterator[None]:
        """A sign of life at once and then every `heartbeat_s`, from a thread: rank 0 itself is busy."""
        store.add(key, 1)
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(self._heartbeat_s):
                try:
                    store.add(key, 1)
                except RuntimeError:  # the store has gone; the main thread will notice by itself
                    return

        thread = threading.Thread(target=beat, name="lead-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _end_in_words(error: BaseException) -> dict[str, Any]:
    """What the other ranks are told of how rank 0's work ended."""
    if isinstance(error, Stopped):
        return {"stopped": [error.asked, error.saved]}
    if not isinstance(error, UserError):
        error = cannot_write(error) or error
    if is_out_of_memory(error):
        return {"error": how_much(error), "is_user_error": True}
    is_user_error = isinstance(error, UserError)
    cause = str(error) if is_user_error else f"{type(error).__name__}: {error}"
    return {"error": cause, "is_user_error": is_user_error}
