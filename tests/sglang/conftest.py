"""The fixture `sglang_server`, and what servers said beside a test that failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_server import Launch, Server, cpu_launch, interpreter, servers
from tiny_models import make_tiny_qwen3

STARTED = pytest.StashKey[list[Server]]()


@pytest.fixture(scope="session")
def sglang_launch() -> Launch:
    """How a server on the CPU is started here."""
    return cpu_launch(interpreter(os.environ))


@pytest.fixture(scope="session")
def sglang_server(
    sglang_launch: Launch, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Server]]:
    """`sglang_server(folder, *more_args)` starts a server on a folder and returns it when it answers.

    It lives until the session ends, or until its `stop()`: a start takes 20 s, so share one; a server takes
    2 GB, so don't keep what is done with.
    """
    started = request.session.stash.setdefault(STARTED, [])
    with servers(sglang_launch, tmp_path_factory.mktemp("sglang")) as start:

        def start_and_note(folder: Path, *more_args: str) -> Server:
            started.append(start(folder, *more_args))
            return started[-1]

        yield start_and_note


@pytest.fixture(scope="session")
def tiny_server(sglang_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """One server on a tiny Qwen3 for all files that leave it as they found it: alive, with its folder's
    weights under the name "default"."""
    return sglang_server(make_tiny_qwen3(tmp_path_factory.mktemp("tiny") / "model", seed=31))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        for server in item.session.stash.get(STARTED, []):
            report.sections.append((f"SGLang on {server.folder}", server.log_end()))
    return report
