"""To be imported before Megatron-Core: what of NVIDIA's can't be used is hidden from it (extensions.py), and
on a machine without CUDA it comes without torch's compiler.

Megatron-Core decorates small functions (`jit_fuser`) with `torch.compile` while it is imported, and that
loads torch's compiler: 2.2 of the 7 seconds of processor time that a process of ours takes to start, and
65 MB. None of these functions is called on the CPU (`models/fusions.py` has every fusion off there), so there
the decorator hands back the function itself. With CUDA nothing is changed: the compiler makes one kernel of
each.
"""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

import torch

from paced_megatron.runtime.extensions import hide_what_is_of_no_use


def _as_it_is(function: Any = None, **options: Any) -> Any:
    """In place of `torch.compile`, with arguments or without."""
    return function if function is not None else lambda decorated: decorated


if "megatron.core" not in sys.modules:
    hide_what_is_of_no_use()
if "megatron.core" not in sys.modules and not torch.cuda.is_available():
    with mock.patch.object(torch, "compile", _as_it_is):
        import megatron.core  # noqa: F401  its module `jit` takes the decorator from torch, once
