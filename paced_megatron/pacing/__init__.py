"""What PACED is: how the outcomes of a problem's attempts become the weight it is trained with.

Here belong estimates of the pass rate (`pass_rate.py`), kernels of it (`kernels.py`), the weights of a stage
with their one constant (`weights.py`) and the file they are kept in (`records.py`). Nothing here makes or
scores attempts (`rollout/`, `problems/`), and nothing computes a loss. The room is pure Python: it imports
neither torch nor Megatron nor SGLang, so that it can be used by itself in somebody else's trainer. Open
`weights.py` first.
"""

from __future__ import annotations

from paced_megatron.pacing.kernels import KERNELS, Kernel, beta, make_kernel, uniform
from paced_megatron.pacing.pass_rate import ESTIMATORS, PassRate, pass_rates
from paced_megatron.pacing.records import (
    read_pass_rates,
    read_weights,
    write_pass_rates,
    write_rates_after,
)
from paced_megatron.pacing.weights import KEPT, PacedWeights, permuted, problem_weights

__all__ = [
    "ESTIMATORS",
    "KEPT",
    "KERNELS",
    "Kernel",
    "PacedWeights",
    "PassRate",
    "beta",
    "make_kernel",
    "pass_rates",
    "permuted",
    "problem_weights",
    "read_pass_rates",
    "read_weights",
    "uniform",
    "write_pass_rates",
    "write_rates_after",
]
