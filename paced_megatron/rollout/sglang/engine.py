"""The SGLang engine: a RolloutEngine whose model sits in servers that run, or in one that it starts."""

from __future__ import annotations

import os
import shlex
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from paced_megatron.config import RolloutConfig
from paced_megatron.errors import UserError
from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.problems.tokenizer import load_tokenizer
from paced_megatron.rollout.checks import check_requests, folder_end_ids
from paced_megatron.rollout.engine import Completion, Key, Request, Sampling
from paced_megatron.rollout.sglang.client import ServerError
from paced_megatron.rollout.sglang.facts import read_version
from paced_megatron.rollout.sglang.generation import Generation
from paced_megatron.rollout.sglang.launcher import KEY_VARIABLE, Launch, check_launch
from paced_megatron.rollout.sglang.member import Member, Say, Weights
from paced_megatron.rollout.sglang.pool import Pool

SAY_EVERY_S = 30.0  # that no server is left


@dataclass(frozen=True)
class _Loaded:
    folder: Path
    shape: ModelShape
    stop_ids: tuple[int, ...]
    members: tuple[Member, ...]
    served_version: str


class SGLangEngine:
    """A RolloutEngine over HTTP.

    Every attempt is yielded when it is done, and none twice. What a server does not answer,
    or gives up, is asked for again, of whichever server is free. Servers that are gone are left out, and
    taken back when they answer again and have the weights; where none is left the engine waits and says so.

    The servers know the weights by a name that no other run gives them ("stage-1-5f0c2a9e"), so that a server
    that was started anew, or that somebody else has given weights of the same version, is noticed.

    Args:
        student, teacher: their folders. `rollout.urls` serve what has the student's shapes, `teacher_urls`
            the teacher; a server that we start is started anew where the shapes differ.
        logs: the folder for the log of a server that we start.
        say: prints a line for a person.
        check: raises where the job has been asked to stop; called while no server is ready.
    """

    def __init__(
        self,
        rollout: RolloutConfig,
        *,
        student: Path,
        teacher: Path,
        logs: Path,
        say: Say,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.weight_version = ""
        self._rollout, self._student, self._teacher, self._say = rollout, student, teacher, say
        self._check = check
        self._loaded: _Loaded | None = None
        self._contacted: set[Member] = set()
        api_key = (os.environ.get(KEY_VARIABLE) or "").strip() or None
        log = logs / "sglang.log"
        if rollout.urls:
            self._members, self._teachers = (
                tuple(Member(url, launch=None, log=log, api_key=api_key, say=say) for url in urls)
                for urls in (rollout.urls, rollout.teacher_urls)
            )
        else:
            launch = launch_of(rollout, api_key)
            check_launch(launch)
            self._members = (Member(None, launch=launch, log=log, api_key=api_key, say=say),)
            self._teachers = ()

    def load_weights(self, folder: Path, version: str) -> None:
        """Give the weights of a Hugging Face folder to the servers, and call them `version`.

        Raises:
            UserError: no server answers at the first contact; one is no SGLang server, or has a model of
                another family, vocabulary or size; one that we start does not start; or the folder is not
                complete.
        """
        self.weight_version, self._loaded = "", None
        shape = model_shape(folder)
        members = self._for(folder, shape)
        weights = Weights(folder, f"{version}-{uuid.uuid4().hex[:8]}")
        with ThreadPoolExecutor(len(members)) as pool:  # a server may take a minute to read a large folder
            for given in [pool.submit(self._give, member, weights) for member in members]:
                given.result()
        stop_ids = folder_end_ids(folder, load_tokenizer(folder), shape.vocab_size)
        self._loaded = _Loaded(folder, shape, stop_ids, members, weights.served_version)
        self.weight_version = version

    def check_weights(self, folder: Path) -> None:
        """Ask the servers for the name of their weights. No other weights have that name, and a server gets
        it when its log-probabilities are the folder's (`weights.py`), so it need not be probed again.

        Raises UserError where a server that answers has other weights; one that does not is left to
        `generate`.
        """
        if self._loaded is None:
            raise RuntimeError("load_weights has to come before check_weights")
        for member in self._loaded.members:
            try:
                named = read_version(member.client)
            except ServerError:
                continue
            if not member.trouble and named != self._loaded.served_version:
                raise UserError(
                    f"{member.url}: it has been given the weights of {folder} as "
                    f"{self._loaded.served_version!r}, and calls its own {named!r}: does another run use it?"
                )

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, skip: Collection[Key] = ()
    ) -> Iterator[list[Completion]]:
        """Yield the attempts that are not in `skip` as they arrive, those together that arrive together.

        Raises UserError, before anything is asked for, for a prompt that is empty, has no room for the
        answer, or holds an id that the model does not have, and for equal seeds where the servers draw by
        them; later, where a server refuses an attempt or fails at it again and again.
        """
        if self._loaded is None:
            raise RuntimeError("load_weights has to come before generate")
        loaded, left = self._loaded, [request for request in requests if request.key not in skip]
        ready = self._wait_for_one(loaded)
        check_requests(
            left,
            sampling.max_new_tokens,
            rows=loaded.shape.vocab_size,
            context=min(member.facts.room for member in ready),
            model=" and ".join(member.url for member in ready),
        )
        if sampling.temperature > 0 and any(member.facts.deterministic for member in ready):
            _check_seeds(left)
        how = Generation(
            sampling,
            loaded.stop_ids,
            loaded.shape.vocab_size,
            loaded.served_version,
            self.weight_version,
            self._rollout.request_timeout_s,
        )
        pool = Pool(left, how, [(member, self._concurrency(member, ready)) for member in loaded.members])
        return self._run(pool, loaded)

    def sleep(self) -> None:
        """With rollout.colocate the servers release their memory; otherwise nothing."""
        if self._rollout.colocate:
            for member in self._contacted:
                member.sleep()

    def close(self) -> None:
        """End the server that we have started; leave the others as they are."""
        self.weight_version, self._loaded = "", None
        for member in (*self._members, *self._teachers):
            member.close()

    # ---------------------------------------------------------------------------------------------- inside

    def _for(self, folder: Path, shape: ModelShape) -> tuple[Member, ...]:
        """The servers that these weights belong to."""
        if self._rollout.launch.python is not None and not self._rollout.urls:
            return self._members
        if self._teachers and folder.resolve() == self._teacher.resolve():
            return self._teachers
        if shape == model_shape(self._student):
            return self._members
        raise UserError(
            f"rollout.urls: servers of {self._student} can't take the weights of {folder}, which have other "
            "shapes; start servers on it and name them in rollout.teacher_urls"
        )

    def _give(self, member: Member, weights: Weights) -> None:
        """A server that does not answer is a mistake at the first contact, and left out for a while later."""
        try:
            member.take(weights)
            self._contacted.add(member)
        except UserError:
            self._check()  # a start that was given up because the job stops
            raise
        except ServerError as error:
            if member not in self._contacted:
                there = "; is an SGLang server running there? See rollout.urls" if error.retryable else ""
                raise UserError(f"{error}{there}") from error
            member.trouble = str(error)
            self._say(f"{error}; the server is left out until it answers again")

    def _concurrency(self, member: Member, ready: Sequence[Member]) -> int:
        if self._rollout.concurrency is not None:
            return self._rollout.concurrency
        known = member if member in ready else ready[0]
        return known.facts.max_running_requests

    def _wait_for_one(self, loaded: _Loaded) -> list[Member]:
        """The servers that are ready; where there is none, wait for the first."""
        said = -SAY_EVERY_S
        while not (ready := [member for member in loaded.members if not member.trouble]):
            said = self._say_none_left(loaded, said)
            time.sleep(1.0)
            self._check()
            for member in loaded.members:
                try:
                    member.take(Weights(loaded.folder, loaded.served_version))
                except ServerError as error:
                    member.trouble = str(error)
        return ready

    def _run(self, pool: Pool, loaded: _Loaded) -> Iterator[list[Completion]]:
        said = time.monotonic() - SAY_EVERY_S / 2
        for unit in self._or_stopped(pool.run()):
            yield unit  # also an empty one: somebody may want to stop
            if all(member.trouble for member in loaded.members):
                said = self._say_none_left(loaded, said)
            else:
                said = max(said, time.monotonic() - SAY_EVERY_S / 2)

    def _or_stopped(self, units: Iterator[list[Completion]]) -> Iterator[list[Completion]]:
        """The units; where the job stops, that is the end of it, whatever a server being started says."""
        try:
            yield from units
        except UserError:
            self._check()
            raise

    def _say_none_left(self, loaded: _Loaded, said: float) -> float:
        """Say it every now and then; the time at which it was said last."""
        if time.monotonic() - said < SAY_EVERY_S:
            return said
        reasons = "; ".join(f"{member.url}: {member.trouble}" for member in loaded.members)
        self._say(f"no SGLang server is left; waiting for one to answer again ({reasons})")
        return time.monotonic()


def launch_of(rollout: RolloutConfig, api_key: str | None) -> Launch:
    """What the configuration says about the server to be started."""
    launch = rollout.launch
    if launch.python is None:
        raise UserError("rollout.launch.python is missing: the interpreter that has SGLang")
    return Launch(
        launch.python, tuple(shlex.split(launch.args)), launch.env, launch.host, launch.timeout_s, api_key
    )


def _check_seeds(requests: Sequence[Request]) -> None:
    seen: dict[tuple[tuple[int, ...], int], Request] = {}
    for request in requests:
        other = seen.setdefault((request.prompt_ids, request.seed), request)
        if other is not request:
            raise UserError(
                f"problem {request.problem_id}: attempts {other.index} and {request.index} have the seed "
                f"{request.seed} both, and a server in deterministic mode would give the same answer twice"
            )
