"""What PACED is: how the outcomes of a problem's attempts become the weight it is trained with.

Here belong pass rates (`pass_rate.py`), kernels of them (`kernels.py`), estimators of a kernel's value from
few attempts (`estimators.py`; the Beta prior that one of them fits is in `prior.py`), the weights of a stage
with their one constant (`weights.py`), the file they are kept in (`records.py`), counts over several visits
(`counts.py`), which problems should be attempted more often (`allocation.py`), and the order in which they
are trained (`order.py`). Nothing here makes or scores attempts (`rollout/`, `problems/`), and nothing
computes a loss. The room imports neither torch nor Megatron nor SGLang, so that it can be used by itself in
somebody else's trainer. Open `weights.py` first.
"""

from __future__ import annotations

from paced_megatron.pacing.allocation import (
    Plan,
    attempt_rounds,
    next_round,
    offers,
    value_of_attempts,
)
from paced_megatron.pacing.counts import DiscountedCounts
from paced_megatron.pacing.estimators import ESTIMATORS, Estimate, chosen_estimator, unbiased_complaint
from paced_megatron.pacing.kernels import KERNELS, Kernel, beta, make_kernel, uniform
from paced_megatron.pacing.order import drawn_by_weight, easy_to_hard
from paced_megatron.pacing.pass_rate import PassRate, pass_rates
from paced_megatron.pacing.prior import Prior, fit_prior
from paced_megatron.pacing.records import (
    read_pass_rates,
    read_weights,
    write_pass_rates,
    write_rates_after,
)
from paced_megatron.pacing.weights import (
    KEPT,
    NORMALIZE,
    PacedWeights,
    permuted,
    problem_weights,
    stage_weights,
    what_is_kept,
)

__all__ = [
    "ESTIMATORS",
    "KEPT",
    "KERNELS",
    "NORMALIZE",
    "DiscountedCounts",
    "Estimate",
    "Kernel",
    "PacedWeights",
    "PassRate",
    "Plan",
    "Prior",
    "attempt_rounds",
    "beta",
    "chosen_estimator",
    "drawn_by_weight",
    "easy_to_hard",
    "fit_prior",
    "make_kernel",
    "next_round",
    "offers",
    "pass_rates",
    "permuted",
    "problem_weights",
    "read_pass_rates",
    "read_weights",
    "stage_weights",
    "unbiased_complaint",
    "uniform",
    "value_of_attempts",
    "what_is_kept",
    "write_pass_rates",
    "write_rates_after",
]
