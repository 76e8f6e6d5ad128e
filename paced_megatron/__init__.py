"""paced_megatron: distillation on Megatron-Core in which every problem is weighted by where it lies on the
student's frontier, w(p) = p(1-p), p being the student's pass rate on it.

This folder holds the rooms (each says in its own `__init__.py` what belongs there) and the few files that
join them: `run.py` is the loop in the order in which it happens and the file to open first; `cli.py` is the
command `paced`; `config/` is every setting there is, read and checked; `errors.py` is
the one exception for a user's mistake. What computes something belongs in a room, not here.
"""

from __future__ import annotations

__version__ = "0.1.0.dev0"
