"""One server of the engine's: which weights it has, what it is at, and how it becomes ready again."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from paced_megatron.errors import UserError
from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.rollout.engine import Completion, Request
from paced_megatron.rollout.sglang.client import ServerClient, ServerError, jittered
from paced_megatron.rollout.sglang.facts import ServerFacts, check_serves, read_facts, read_version
from paced_megatron.rollout.sglang.generation import Generation, generate_group
from paced_megatron.rollout.sglang.launcher import Launch, LaunchedServer, start_server
from paced_megatron.rollout.sglang.weights import sync_weights
from paced_megatron.runtime.signals import asked_to_stop

HEALTH_S = 30.0  # /health generates a token, behind what is already waiting
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0  # between two looks at a server that is gone
CLOSE_S = 2.0  # for what is under way when the job ends
MOST_STARTS = 5  # of a server that we start, for one set of weights

Say = Callable[[str], None]


@dataclass(frozen=True)
class Weights:
    """What the servers shall have: a folder, and a name that no other weights have (see `engine.py`)."""

    folder: Path
    served_version: str


class Member:
    """A server that somebody else runs, or (`launch`) one that we start and end.

    Its methods may be called from several threads. `generate` and `recover` go together: after a ServerError
    of the former the latter returns when the server has the right weights again.
    """

    def __init__(
        self, url: str | None, *, launch: Launch | None, log: Path, api_key: str | None, say: Say
    ) -> None:
        self._launch, self._log, self._api_key, self._say = launch, log, api_key, say
        self._launched: LaunchedServer | None = None
        self._shape: ModelShape | None = None  # that it was started on; its folder may be gone by now
        self._client = ServerClient(url, api_key) if url else None
        self._facts: ServerFacts | None = None
        self._weights: Weights | None = None
        self._asleep_as: str | None = None  # what it called its weights when it released its memory
        self._starts = 0  # of our server, since it was last given weights
        self._closing = threading.Event()
        self._in_flight: set[str] = set()
        self._lock = threading.Lock()  # held while the server is being made ready
        self._flight_lock = threading.Lock()
        self._epoch = 0
        self.trouble = ""  # why it can't be used now; "": it can

    @property
    def url(self) -> str:
        return self._client.url if self._client else "the server that was to be started"

    @property
    def epoch(self) -> int:
        """How often it has been made ready."""
        return self._epoch

    @property
    def client(self) -> ServerClient:
        """Raises ServerError where the server isn't there."""
        if self._client is None:
            raise ServerError(f"{self.url} does not run")
        return self._client

    @property
    def facts(self) -> ServerFacts:
        """What it said of itself when it was last made ready."""
        if self._facts is None:
            raise ServerError(f"{self.url} has not answered yet")
        return self._facts

    # ------------------------------------------------------------------------------------------- weights

    def take(self, weights: Weights) -> None:
        """Have these weights, and be ready.

        Raises:
            ServerError: the server does not answer now.
            UserError: it is another kind of server, or serves a model that can't take the weights.
        """
        with self._lock:
            self._weights, self._starts = weights, 0
            self._make_ready()

    def recover(self, seen: int, error: ServerError, stop: threading.Event) -> None:
        """Return when the server is ready again, or `stop` is set. One thread works at it, others wait.

        Args:
            seen: `epoch` when the request was sent that failed with `error`.

        Raises:
            UserError: a server that we start does not start any more.
        """
        with self._lock:
            if self._epoch != seen or stop.is_set():
                return
            self.trouble = str(error)
            if error.status is None:
                self._say(f"{error}; the server is left out until it answers again")
            pause = FIRST_PAUSE_S
            while not stop.wait(jittered(pause)):
                pause = min(2 * pause, LONGEST_PAUSE_S)
                try:
                    self._make_ready()
                except ServerError as still:
                    self.trouble = str(still)
                except UserError as other:
                    if self._launch is not None:
                        raise
                    self.trouble = str(other)  # another server has come up at its address
                else:
                    if error.status is None:
                        self._say(f"{self.url} answers again")
                    return

    def _make_ready(self) -> None:
        """Start it where it is ours to start, wake it up, look whether it is what it should be, and see to
        its weights. With the lock held."""
        assert self._weights is not None
        weights = self._weights
        if self._launch is not None:
            self._keep_running(weights.folder)
        client = self.client
        facts = self._facts or read_facts(client)  # first, whether it is SGLang at all
        if self._asleep_as is not None:  # before /health, which generates a token and so needs the memory
            # One that was started again meanwhile is awake, calls its weights otherwise, and dies of this.
            if read_version(client) == self._asleep_as:
                client.post("/resume_memory_occupation", {}, timeout_s=HEALTH_S)
            self._asleep_as = None
        client.get("/health", timeout_s=HEALTH_S, tries=1)
        if read_version(client) != weights.served_version:
            facts = read_facts(client)  # anew: a server that was started again may be another
            check_serves(client, facts, model_shape(weights.folder), weights.folder)
            sync_weights([client], weights.folder, weights.served_version)
        self._facts = facts
        self._epoch += 1
        self.trouble = ""

    def _keep_running(self, folder: Path) -> None:
        assert self._launch is not None
        shape = model_shape(folder)
        if self._launched is not None and self._launched.runs:
            if self._shape == shape:
                return
            self._stop()  # it can't take weights of other shapes
        if self._starts == MOST_STARTS:
            raise UserError(
                f"the SGLang server has ended {self._starts} times with the weights of {folder}; see "
                f"{self._log}, and rollout.launch"
            )
        self._starts += 1
        self._say(f"starting an SGLang server on {folder}; its log: {self._log}")
        self._launched = start_server(self._launch, folder, self._log, cancelled=self._to_end)
        self._client = ServerClient(self._launched.url, self._api_key)
        self._facts, self._asleep_as, self._shape = None, None, shape

    def _to_end(self) -> bool:
        return self._closing.is_set() or asked_to_stop() is not None

    # --------------------------------------------------------------------------------------------- requests

    def generate(self, group: Sequence[Request], how: Generation) -> Iterator[tuple[int, Completion | None]]:
        """As `generate_group`."""
        ids = [uuid.uuid4().hex for _ in group]
        with self._flight_lock:
            self._in_flight.update(ids)
        try:
            yield from generate_group(self.client, group, how, ids)
        except ServerError:
            self._abort(ids)  # it may still be at them, if only the connection broke or time ran out
            raise
        finally:
            with self._flight_lock:
                self._in_flight.difference_update(ids)

    def abort(self) -> None:
        """Give up all that was asked of it."""
        with self._flight_lock:
            ids = list(self._in_flight)
        self._abort(ids)

    def _abort(self, ids: Sequence[str]) -> None:
        with contextlib.suppress(ServerError):
            for name in ids:
                self.client.post("/abort_request", {"rid": name}, timeout_s=2.0, tries=1)

    # -------------------------------------------------------------------------------------------------- life

    def sleep(self) -> None:
        """Release the server's memory; a server of ours that can't is stopped."""
        with self._lock:  # a thread of the last phase may still be making it ready
            self._release_memory()

    def _release_memory(self) -> None:
        if self._client is None or self._asleep_as is not None:
            return
        if self._launch is not None and not (self._facts and self._facts.memory_saver):
            self._say(
                "the SGLang server is stopped while the trainer works; it would only release its memory with "
                "--enable-memory-saver in rollout.launch.args"
            )
            self._stop()
            return
        try:
            version = read_version(self._client)
            self._client.post("/release_memory_occupation", {}, timeout_s=HEALTH_S)
            self._asleep_as = version
        except ServerError as error:
            if self._launch is None:
                raise UserError(
                    f"rollout.colocate: the server does not release its memory: {error}"
                ) from error
            self._stop()

    def close(self) -> None:
        """End a server that is ours, also one that is only starting; close the connections to one that is
        not."""
        self._closing.set()
        if not self._lock.acquire(timeout=CLOSE_S):  # it is being given weights, which may take its time
            if (client := self._client) is not None:
                client.close()  # what waits for its answer fails now
            self._lock.acquire()
        try:
            self._stop()
        finally:
            self._lock.release()

    def _stop(self) -> None:
        launched, client = self._launched, self._client
        if launched is not None:
            self._launched = self._client = self._facts = None
            launched.stop(client)
        if client is not None:
            client.close()
