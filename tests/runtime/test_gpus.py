"""A GPU for each process. torch is told how many there are: this machine has none, or too many."""

from __future__ import annotations

import pytest
import torch

from paced_megatron.errors import UserError
from paced_megatron.runtime.gpus import check_gpus


def test_fewer_gpus_than_processes_are_refused_and_none_at_all_means_the_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_gpus(2)
    with pytest.raises(UserError, match="3 processes take a GPU each, and torch sees 2 here"):
        check_gpus(3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_gpus(3)
