"""A server that we start lives as long as the job's engine: through phases, sleep, deaths and other shapes.

The server is the stand-in as a process of its own, found as `sglang.launch_server`; a real one is started in
tests/sglang.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from paced_megatron.config import LaunchConfig, RolloutConfig
from paced_megatron.errors import UserError
from paced_megatron.rollout import Sampling, attempt_requests
from paced_megatron.rollout.engines import EngineSetting, JobEngine
from paced_megatron.rollout.sglang import member
from paced_megatron.rollout.sglang.launcher import runs

SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=12)
REQUESTS = attempt_requests({"p": [5], "q": [6, 7]}, 8, seed=2)


@pytest.fixture
def setting(tiny: Path, tmp_path: Path, sglang_quickly: None) -> Callable[..., EngineSetting]:
    """What a job's engine is made from, with a stand-in to be launched; what it says is in `setting.said`."""
    package = tmp_path / "package" / "sglang"
    package.mkdir(parents=True)
    stand_in = Path(__file__).with_name("sglang_stand_in.py")
    (package / "launch_server.py").write_text(
        f"import runpy; runpy.run_path({str(stand_in)!r}, run_name='__main__')"
    )

    def make(args: str = "", **keys: Any) -> EngineSetting:
        launch = LaunchConfig(Path(sys.executable), args, {"PYTHONPATH": str(package.parent)}, timeout_s=60)
        rollout = RolloutConfig(engine="sglang", launch=launch, **keys)
        make.said = []  # type: ignore[attr-defined]
        say = make.said.append  # type: ignore[attr-defined]
        return EngineSetting(rollout, torch.device("cpu"), tiny, tiny, tmp_path / "logs", say)

    return make


def of(folder: Path) -> list[psutil.Process]:
    """The servers that were started on `folder` and run."""
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if str(folder) in (process.info["cmdline"] or []) and runs(process)]


def made_with(job: JobEngine, weights: Path, version: str) -> set[str]:
    """The weight versions of a phase's attempts, each of which came once."""
    with job.loaded(weights, version) as engine:
        completions = [completion for unit in engine.generate(REQUESTS, SAMPLING) for completion in unit]
    assert sorted(c.request.key for c in completions) == sorted(request.key for request in REQUESTS)
    return {completion.weight_version for completion in completions}


def test_one_server_serves_all_phases_of_a_job_and_is_gone_after_it(
    setting: Callable[..., EngineSetting], tiny: Path
) -> None:
    with JobEngine(setting()) as job:
        assert not of(tiny)  # made when it is first asked for
        assert made_with(job, tiny, "initial") == {"initial"}
        (first,) = of(tiny)
        assert made_with(job, tiny, "stage-1") == {"stage-1"}
        assert of(tiny) == [first]
    assert not of(tiny)


def test_a_server_serves_on_when_the_folder_that_it_was_started_on_is_gone(
    setting: Callable[..., EngineSetting], tiny: Path, tmp_path: Path
) -> None:
    """A run that goes on begins with a snapshot or an on-policy stage's policy/, removed after it."""
    snapshot = shutil.copytree(tiny, tmp_path / "snapshot-0000010")
    with JobEngine(setting()) as job:
        assert made_with(job, snapshot, "step-10") == {"step-10"}
        (first,) = of(snapshot)
        shutil.rmtree(snapshot)
        assert made_with(job, tiny, "step-20") == {"step-20"}
        assert of(snapshot) == [first]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, UserError])
def test_nothing_runs_on_after_a_job_that_failed(
    setting: Callable[..., EngineSetting], tiny: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error), JobEngine(setting()) as job, job.loaded(tiny, "initial") as engine:
        next(engine.generate(REQUESTS, SAMPLING))
        assert of(tiny)
        raise error
    assert not of(tiny)


def test_weights_of_other_shapes_are_served_by_a_server_that_is_started_on_them(
    setting: Callable[..., EngineSetting], tiny: Path, changed: Callable[..., Path]
) -> None:
    teacher = changed("config.json", intermediate_size=96)
    with JobEngine(setting()) as job:
        made_with(job, tiny, "initial")
        assert made_with(job, teacher, "teacher") == {"teacher"}
        assert not of(tiny) and len(of(teacher)) == 1
        made_with(job, tiny, "stage-1")
        assert not of(teacher) and len(of(tiny)) == 1


def test_a_server_that_dies_is_started_again_and_given_the_weights(
    setting: Callable[..., EngineSetting], tiny: Path
) -> None:
    how = setting(concurrency=2)
    with JobEngine(how) as job, job.loaded(tiny, "initial") as engine:
        done = 0
        for unit in engine.generate(REQUESTS, SAMPLING):
            if unit and done == 0:
                os.kill(of(tiny)[0].pid, signal.SIGKILL)
            done += len(unit)
        assert done == len(REQUESTS)
        (again,) = of(tiny)
        time.sleep(0.3)  # the thread that started it has ended
        assert runs(again)
    starts = [line for line in setting.said if line.startswith("starting an SGLang")]  # type: ignore
    assert len(starts) == 2


def test_a_server_that_dies_each_time_ends_the_run_in_one_line(
    setting: Callable[..., EngineSetting], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "MOST_STARTS", 2)
    many = attempt_requests({"p": [5]}, 400, seed=2)
    with (
        pytest.raises(UserError, match=r"has ended 2 times with the weights of .*sglang\.log"),
        JobEngine(setting(concurrency=1)) as job,
        job.loaded(tiny, "initial") as engine,
    ):
        for unit in engine.generate(many, SAMPLING):
            for server in of(tiny) if unit else []:  # not while it starts
                os.kill(server.pid, signal.SIGKILL)
    assert not of(tiny)


@pytest.mark.parametrize("saver", [False, True])
def test_with_colocate_a_server_that_can_t_release_its_memory_is_stopped_while_the_trainer_works(
    setting: Callable[..., EngineSetting], tiny: Path, saver: bool
) -> None:
    with JobEngine(setting("--enable-memory-saver" if saver else "", colocate=True)) as job:
        made_with(job, tiny, "initial")
        assert len(of(tiny)) == int(saver)
        assert made_with(job, tiny, "stage-1") == {"stage-1"}
    assert not of(tiny)


def test_without_colocate_it_goes_on_running_while_the_trainer_works(
    setting: Callable[..., EngineSetting], tiny: Path
) -> None:
    with JobEngine(setting()) as job:
        made_with(job, tiny, "initial")
        assert len(of(tiny)) == 1


def test_a_start_that_fails_is_said_with_the_log_and_leaves_nothing(
    setting: Callable[..., EngineSetting], tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "package" / "sglang" / "launch_server.py").write_text("raise SystemExit('no GPU here')")
    with (
        pytest.raises(UserError, match=r"ended with code 1; its log, .*sglang\.log, ends with: no GPU here"),
        JobEngine(setting()) as job,
        job.loaded(tiny, "initial"),
    ):
        pass
    assert not of(tiny)


@pytest.fixture
def job_elsewhere(
    setting: Callable[..., EngineSetting], tiny: Path, tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that has a launched server and waits."""
    script = f"""
import sys, time
sys.path[:0] = {sys.path!r}
from pathlib import Path
from paced_megatron.config import LaunchConfig
from paced_megatron.rollout.sglang.launcher import Launch, start_server
start_server(
    Launch(Path(sys.executable), (), {{"PYTHONPATH": {str(tmp_path / "package")!r}}}),
    Path({str(tiny)!r}), Path({str(tmp_path / "log")!r}),
)
print("started", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"started\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_does_not_outlive_a_job_that_is_killed(
    job_elsewhere: subprocess.Popen[bytes], tiny: Path, sent: signal.Signals
) -> None:
    assert len(of(tiny)) == 1
    job_elsewhere.send_signal(sent)
    deadline = time.monotonic() + 60
    while of(tiny) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not of(tiny)
