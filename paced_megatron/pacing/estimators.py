"""Estimators: a kernel's value at the true pass rate, estimated from k correct of n attempts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from paced_megatron.errors import UserError
from paced_megatron.pacing.kernels import Beta, Kernel
from paced_megatron.pacing.pass_rate import PassRate
from paced_megatron.pacing.prior import fit_prior, posterior_mean

Estimate = Callable[[float, float], float]  # (correct, attempts) -> the kernel's value

ENOUGH_ATTEMPTS = 8  # below, chance alone gives many problems that are worth training on k = 0 or k = K


def plugin(kernel: Kernel, rates: Sequence[PassRate]) -> Estimate:
    """kernel(k / n).

    For p(1-p) its mean is (1 - 1/K) p(1-p): one factor for all problems, which the stage constant takes out.
    """
    return lambda correct, attempts: kernel(correct / attempts)


def unbiased(kernel: Kernel, rates: Sequence[PassRate]) -> Estimate:
    """(k)_a (n-k)_b / (n)_{a+b} with falling factorials: its mean is p^a (1-p)^b exactly (docs/method.md, 1).

    It is unbiased only where nobody looked at the outcomes to decide on n.

    Raises UserError where there is no such estimator: another kernel, exponents that are not whole, or more
    of them than attempts.
    """
    fewest = min(rate.attempts for rate in rates)
    complaint = unbiased_complaint(kernel, fewest)
    if complaint is not None:
        raise UserError(complaint)
    assert isinstance(kernel, Beta)
    a, b = int(kernel.alpha), int(kernel.beta)
    return lambda correct, attempts: (
        _falling(correct, a) * _falling(attempts - correct, b) / _falling(attempts, a + b)
    )


def unbiased_complaint(kernel: Kernel, attempts: int) -> str | None:
    """Why there is no unbiased estimate of the kernel from that many attempts; None: there is one."""
    choose = "choose pacing.estimator posterior or plugin"
    if not isinstance(kernel, Beta):
        return f"pacing.estimator=unbiased is there for pacing.kernel=beta alone: {choose}"
    if not (kernel.alpha.is_integer() and kernel.beta.is_integer()):
        return (
            f"pacing.estimator=unbiased wants whole exponents, not {kernel.alpha:g} and {kernel.beta:g}, for "
            f"which nothing is unbiased: {choose}"
        )
    if kernel.alpha + kernel.beta > attempts:
        return (
            f"pacing.estimator=unbiased wants alpha + beta = {kernel.alpha + kernel.beta:g} attempts a "
            f"problem at least, not {attempts}: raise rollout.attempts, or {choose}"
        )
    return None


def _falling(x: float, m: int) -> float:
    """x (x-1) ... (x-m+1)."""
    return math.prod(x - j for j in range(m))


def posterior(kernel: Kernel, rates: Sequence[PassRate]) -> Estimate:
    """E[kernel(p) | k, n] under a Beta prior fitted to `rates`: never 0 at the edges, and right also where
    what was seen decided on n (docs/method.md, 1)."""
    prior = fit_prior(rates)
    known: dict[tuple[float, float], float] = {}

    def estimate(correct: float, attempts: float) -> float:
        if (correct, attempts) not in known:
            known[correct, attempts] = posterior_mean(kernel, *prior.posterior(correct, attempts))
        return known[correct, attempts]

    return estimate


# A row makes, from the kernel and the stage's opening measurement, f(correct, attempts).
ESTIMATORS: dict[str, Callable[[Kernel, Sequence[PassRate]], Estimate]] = {
    "plugin": plugin,
    "unbiased": unbiased,
    "posterior": posterior,
}


def chosen_estimator(name: str, attempts: Sequence[int]) -> str:
    """`name`, or for `auto` the row of ESTIMATORS that fits these numbers of attempts: the posterior mean
    where they differ or are below 8, else the plug-in."""
    if name != "auto":
        return name
    return "plugin" if min(attempts) == max(attempts) >= ENOUGH_ATTEMPTS else "posterior"
