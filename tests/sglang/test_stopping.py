"""Nothing of a server is left when its fixture ends."""

from __future__ import annotations

import socket

import pytest

from sglang_server import STARTUP_S, runs, servers
from tiny_models import make_tiny_qwen3


@pytest.mark.sglang
@pytest.mark.timeout(STARTUP_S + 180)
def test_when_the_fixture_ends_the_server_is_gone_with_all_its_children(sglang_launch, tmp_path):
    folder = make_tiny_qwen3(tmp_path / "model", seed=23)
    with servers(sglang_launch, tmp_path) as start:
        server = start(folder)
        processes = server.processes()
        assert len(processes) >= 3 and all(map(runs, processes))  # it, its scheduler and its detokenizer
    assert not [process for process in processes if runs(process)]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(server.url.rpartition(":")[2]))) != 0
