from __future__ import annotations

import math

import pytest

from paced_megatron.config import PacingConfig
from paced_megatron.errors import UserError
from paced_megatron.pacing import (
    NORMALIZE,
    PassRate,
    beta,
    permuted,
    problem_weights,
    stage_weights,
    uniform,
    what_is_kept,
)


def rates(*counts: tuple[int, int]) -> list[PassRate]:
    """Problems p0, p1, ... with (correct, attempts)."""
    return [PassRate(f"p{i}", correct, attempts) for i, (correct, attempts) in enumerate(counts)]


EVERY_K = rates(*[(k, 8) for k in range(9)])


def test_the_weights_of_eight_attempts_are_those_worked_out_by_hand() -> None:
    # k(8-k) for k = 1..7 is 7, 12, 15, 16, 15, 12, 7: sum 84, mean 12.
    paced = problem_weights(EVERY_K, beta(1, 1))
    by_hand = {1: 7 / 12, 2: 1.0, 3: 15 / 12, 4: 16 / 12, 5: 15 / 12, 6: 1.0, 7: 7 / 12}
    assert paced.weights == pytest.approx({f"p{k}": weight for k, weight in by_hand.items()}, rel=1e-15)
    assert paced.constant == pytest.approx(64 / 12, rel=1e-15)  # 1 over the mean of k(8-k)/64
    assert (paced.dropped_k0, paced.dropped_kK) == (1, 1)
    assert paced.histogram == [1] * 9
    assert paced.ess == pytest.approx(84**2 / 1092, rel=1e-15)  # 1092 = the sum of (k(8-k))^2
    assert paced.ess_share == pytest.approx(84**2 / 1092 / 7, rel=1e-15)


@pytest.mark.parametrize(("alpha", "beta_"), [(1, 1), (2, 1), (0.5, 0.5), (0, 0), (3, 7)])
def test_the_weights_of_the_problems_kept_have_mean_one(alpha: float, beta_: float) -> None:
    pass_rates = rates((0, 8), (1, 8), (1, 8), (7, 8), (8, 8), (3, 4), (2, 4), (5, 8), (0, 8))
    paced = problem_weights(pass_rates, beta(alpha, beta_))
    assert list(paced.weights) == ["p1", "p2", "p3", "p5", "p6", "p7"]
    assert math.fsum(paced.weights.values()) / 6 == pytest.approx(1.0, rel=1e-14)


def test_6_a_constant_factor_on_the_kernel_changes_no_weight() -> None:
    kernel = beta(1, 1)
    plain = problem_weights(EVERY_K, kernel)
    for factor in (1 / 1024, 8 / 7, 1e6):
        scaled = problem_weights(EVERY_K, lambda p, factor=factor: factor * kernel(p))  # type: ignore[misc]
        assert scaled.weights == pytest.approx(plain.weights, rel=1e-14)
        assert scaled.constant == pytest.approx(plain.constant / factor, rel=1e-14)


def test_6_two_batches_of_different_mean_weight_keep_their_ratio() -> None:
    # k(8-k): a batch of 7s and a batch of 16s. Mean 1 per batch would make them equal.
    hard, frontier = ["p0", "p1"], ["p2", "p3"]
    paced = problem_weights(rates((1, 8), (7, 8), (4, 8), (4, 8)), beta(1, 1))
    ratio = sum(paced.weights[p] for p in frontier) / sum(paced.weights[p] for p in hard)
    assert ratio == pytest.approx(16 / 7, rel=1e-14)


def test_8_problems_off_the_frontier_are_counted_and_move_no_weight() -> None:
    kept = rates((1, 8), (4, 8), (6, 8))
    off = [PassRate(f"never{i}", 0, 8) for i in range(5)] + [PassRate(f"always{i}", 8, 8) for i in range(2)]
    paced = problem_weights(off[:3] + kept + off[3:], beta(1, 1))
    assert paced.weights == problem_weights(kept, beta(1, 1)).weights
    assert (paced.dropped_k0, paced.dropped_kK) == (5, 2)
    assert paced.histogram == [5, 1, 0, 0, 1, 0, 1, 0, 2]


def test_a_kernel_that_is_not_zero_at_the_edges_puts_nothing_on_the_frontier() -> None:
    paced = problem_weights(EVERY_K, uniform)
    assert paced.weights == {f"p{k}": 1.0 for k in range(1, 8)}
    assert paced.ess == pytest.approx(7)
    assert paced.ess_share == pytest.approx(1)


def test_always_solved_with_fewer_attempts_is_off_the_frontier_too() -> None:
    paced = problem_weights(rates((2, 2), (2, 8)), beta(1, 1))
    assert list(paced.weights) == ["p1"]
    assert (paced.dropped_kK, paced.histogram[2]) == (1, 2)


def binomial(k: int, attempts: int, p: float) -> float:
    return math.comb(attempts, k) * p**k * (1 - p) ** (attempts - k)


@pytest.mark.parametrize("attempts", [2, 4, 8])
@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9])
def test_the_plug_in_weight_is_short_by_the_same_factor_at_every_pass_rate(attempts: int, p: float) -> None:
    # E[phat (1 - phat)] = (1 - 1/K) p (1-p), summed over all k. The weights before the constant:
    paced = problem_weights(rates(*[(k, attempts) for k in range(attempts + 1)]), beta(1, 1))
    raw = [paced.weights.get(f"p{k}", 0.0) / paced.constant for k in range(attempts + 1)]
    expected = math.fsum(binomial(k, attempts, p) * w for k, w in enumerate(raw))
    assert expected == pytest.approx((1 - 1 / attempts) * p * (1 - p), rel=1e-12)
    # ... so that K/(K-1) times it is unbiased (a = b = 1 in the falling factorials).
    assert attempts / (attempts - 1) * expected == pytest.approx(p * (1 - p), rel=1e-12)


@pytest.mark.parametrize("attempts", [2, 4, 8, 16])
def test_5_the_effective_sample_size_for_uniform_pass_rates_is_the_closed_form(attempts: int) -> None:
    # For p uniform each k in 0..K is equally likely; N counts all problems, also those dropped.
    paced = problem_weights(rates(*[(k, attempts) for k in range(attempts + 1)]), beta(1, 1))
    closed_form = 5 / 6 * attempts * (attempts - 1) / (attempts**2 + 1)
    assert paced.ess / (attempts + 1) == pytest.approx(closed_form, rel=1e-12)


def test_no_problem_on_the_frontier_says_how_many_the_histogram_and_what_to_change() -> None:
    with pytest.raises(UserError) as caught:
        problem_weights(rates(*[(0, 8)] * 30, *[(8, 8)] * 2), beta(1, 1))
    message = str(caught.value)
    assert "none of the 32 problems" in message and "k=0: 30, k=8: 2)" in message and "K=8" in message
    for remedy in (
        "easier",
        "stronger student",
        "max_new_tokens",
        "harder",
        "weaker student",
        "rollout.attempts",
    ):
        assert remedy in message
    assert "\n" not in message


def test_the_remedy_fits_the_side_on_which_the_problems_lie() -> None:
    with pytest.raises(UserError) as hopeless:
        problem_weights(rates((0, 8)), beta(1, 1))
    with pytest.raises(UserError) as mastered:
        problem_weights(rates((8, 8)), beta(1, 1))
    assert "easier" in str(hopeless.value) and "harder" not in str(hopeless.value)
    assert "harder" in str(mastered.value) and "easier" not in str(mastered.value)


def test_one_attempt_a_problem_is_refused_because_nothing_can_be_on_the_frontier() -> None:
    with pytest.raises(UserError, match=r"rollout\.attempts to 2 at least, 8 is advised"):
        problem_weights(rates((0, 1), (1, 1)), beta(1, 1))


def test_no_attempts_at_all_names_the_command_that_makes_them() -> None:
    with pytest.raises(UserError, match="paced rollout"):
        problem_weights([], beta(1, 1))


@pytest.mark.parametrize("exponent", [5000.0, 520.0])  # sums of 0 and 1e-313: neither has a finite inverse
def test_a_kernel_that_gives_the_frontier_no_weight_is_refused(exponent: float) -> None:
    with pytest.raises(UserError, match=r"1 problems on the frontier no weight .*pacing\.alpha"):
        problem_weights(rates((4, 8)), beta(exponent, exponent))


def test_a_problem_with_two_pass_rates_is_refused() -> None:
    with pytest.raises(ValueError, match="two pass rates"):
        problem_weights([PassRate("a", 1, 8), PassRate("a", 2, 8)], beta(1, 1))


@pytest.mark.parametrize(
    ("keep", "kept", "dropped"),
    [
        ("frontier", range(1, 8), (1, 1)),
        ("solvable", range(1, 9), (1, 0)),
        ("unmastered", range(8), (0, 1)),
        ("all", range(9), (0, 0)),
    ],
)
def test_what_is_kept_is_a_row_of_the_table_and_weighs_one_on_average(
    keep: str, kept: range, dropped: tuple[int, int]
) -> None:
    paced = problem_weights(EVERY_K, lambda p: 1 + p, keep=keep)
    assert list(paced.weights) == [f"p{k}" for k in kept]
    assert math.fsum(paced.weights.values()) / len(kept) == pytest.approx(1.0, rel=1e-14)
    assert (paced.dropped_k0, paced.dropped_kK) == dropped
    assert paced.histogram == [1] * 9
    assert set(problem_weights(EVERY_K, uniform, keep=keep).weights.values()) == {1.0}


def test_permuted_weights_are_the_same_weights_on_the_same_problems_dealt_out_anew() -> None:
    paced = problem_weights(rates(*[(k % 7 + 1, 8) for k in range(50)], (0, 8)), beta(1, 1))
    shuffled = permuted(paced, seed=3)
    assert list(shuffled.weights) == list(paced.weights)
    assert sorted(shuffled.weights.values()) == sorted(paced.weights.values())
    assert math.fsum(shuffled.weights.values()) / 50 == pytest.approx(1.0, rel=1e-14)
    moved = sum(shuffled.weights[name] != weight for name, weight in paced.weights.items())
    assert moved > 25
    assert permuted(paced, seed=3) == shuffled
    assert permuted(paced, seed=4).weights != shuffled.weights
    assert (shuffled.dropped_k0, shuffled.ess) == (1, pytest.approx(paced.ess))


def test_a_set_of_which_nothing_is_kept_names_the_key_and_the_remedy() -> None:
    with pytest.raises(
        UserError, match=r"pacing\.keep=solvable keeps none of the 1 problems .*k=0: 1.*easier"
    ):
        problem_weights(rates((0, 8)), uniform, keep="solvable")
    with pytest.raises(UserError, match=r"pacing\.keep=unmastered keeps none of the 2 problems .*harder"):
        problem_weights(rates((8, 8), (8, 8)), uniform, keep="unmastered")
    assert problem_weights(rates((0, 8)), uniform, keep="all").weights == {"p0": 1.0}


@pytest.mark.parametrize("attempts", [2, 4, 8, 16])
def test_5_the_efficiency_of_eight_attempts_for_uniform_pass_rates_is_the_closed_form(attempts: int) -> None:
    # Each k is equally likely, and p given k is Beta(k+1, K-k+1): E[w* | k] = (k+1)(K-k+1)/((K+2)(K+3)).
    # E[w*^2] = B(3, 3) = 1/30. Efficiency: E[w* w]^2 / (E[w^2] E[w*^2]).
    paced = problem_weights(rates(*[(k, attempts) for k in range(attempts + 1)]), beta(1, 1))
    weights = [paced.weights.get(f"p{k}", 0.0) for k in range(attempts + 1)]
    true = [(k + 1) * (attempts - k + 1) / ((attempts + 2) * (attempts + 3)) for k in range(attempts + 1)]
    both = math.fsum(w * t for w, t in zip(weights, true, strict=True)) / (attempts + 1)
    square = math.fsum(w * w for w in weights) / (attempts + 1)
    closed_form = attempts * (attempts - 1) / (attempts**2 + 1)
    assert both**2 / square * 30 == pytest.approx(closed_form, rel=1e-12)
    assert (math.fsum(true) / (attempts + 1)) ** 2 * 30 == pytest.approx(5 / 6, rel=1e-12)  # unweighted
    assert (paced.dropped_k0 + paced.dropped_kK) / (attempts + 1) == pytest.approx(2 / (attempts + 1))


GAUSSIAN = [math.exp(-((k / 8 - 0.5) ** 2) / (2 * 0.2**2)) for k in range(9)]

# Every baseline that is a kernel, on one problem for each k of 8: weights by hand, before the constant.
BY_HAND = {
    "paced": ({}, {k: k * (8 - k) for k in range(1, 8)}),
    "beta 2 1": ({"alpha": 2.0}, {k: k * k * (8 - k) for k in range(1, 8)}),
    "sqrt": ({"kernel": "sqrt"}, {k: math.sqrt(k * (8 - k)) for k in range(1, 8)}),
    "gaussian": ({"kernel": "gaussian"}, {k: GAUSSIAN[k] for k in range(1, 8)}),
    "frontier": ({"kernel": "uniform"}, dict.fromkeys(range(1, 8), 1)),
    "unweighted": ({"kernel": "uniform", "keep": "all"}, dict.fromkeys(range(9), 1)),
    "hard filter": ({"kernel": "band"}, dict.fromkeys(range(2, 7), 1)),  # 2/8 = .25 and 6/8 = .75
    "its ends": ({"kernel": "band", "band_low": 0.125, "band_high": 0.5}, dict.fromkeys(range(1, 5), 1)),
    "all but p > .9": (
        {"kernel": "band", "keep": "all", "band_low": 0.0, "band_high": 0.9},
        dict.fromkeys(range(8), 1),
    ),
    # p(1-p) at k = 0..8 times 64 is 0 7 12 15 16 15 12 7 0; a floor of 10/64.
    "floor": (
        {"keep": "all", "floor": 10 / 64},
        {0: 10, 1: 10, 2: 12, 3: 15, 4: 16, 5: 15, 6: 12, 7: 10, 8: 10},
    ),
    "unbiased": ({"estimator": "unbiased"}, {k: k * (8 - k) for k in range(1, 8)}),
    "unbiased 2 1": (
        {"estimator": "unbiased", "alpha": 2.0},
        {k: k * (k - 1) * (8 - k) for k in range(2, 8)},
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_baseline_has_the_weights_worked_out_by_hand(name: str) -> None:
    keys, raw = BY_HAND[name]
    paced = stage_weights(EVERY_K, PacingConfig(**keys))  # type: ignore[arg-type]
    mean = math.fsum(raw.values()) / len(raw)
    assert paced.weights == pytest.approx({f"p{k}": value / mean for k, value in raw.items()}, rel=1e-12)
    assert math.fsum(paced.weights.values()) / len(raw) == pytest.approx(1, rel=1e-12)
    assert (paced.dropped_k0, paced.dropped_kK) == (int(0 not in raw), int(8 not in raw))


def test_the_fitted_kernel_has_its_peak_at_the_frontiers_mean_pass_rate() -> None:
    # On the frontier 1/8, 2/8, 3/8: mean 1/4, so alpha = 1/2, beta = 3/2.
    pass_rates = rates((0, 8), (1, 8), (2, 8), (3, 8), (8, 8))
    fitted = stage_weights(pass_rates, PacingConfig(kernel="beta_fitted"))
    assert fitted.weights == pytest.approx(problem_weights(pass_rates, beta(0.5, 1.5)).weights, rel=1e-12)
    assert max(fitted.weights, key=fitted.weights.__getitem__) == "p2"


def test_weights_over_all_problems_have_mean_one_with_those_left_out_as_zero() -> None:
    over_all = stage_weights(EVERY_K, PacingConfig(normalize="all"))
    kept = stage_weights(EVERY_K, PacingConfig())
    assert math.fsum(over_all.weights.values()) / 9 == pytest.approx(1, rel=1e-14)
    assert over_all.weights == pytest.approx({n: 9 / 7 * w for n, w in kept.weights.items()}, rel=1e-14)
    assert set(NORMALIZE) == {"kept", "all"}


@pytest.mark.parametrize("keys", [{}, {"estimator": "posterior"}, {"floor": 0.2}, {"kernel": "band"}])
def test_a_problem_that_is_measured_again_gets_the_weight_of_the_opening_measurement(
    keys: dict[str, object],
) -> None:
    paced = stage_weights(EVERY_K, PacingConfig(**keys))  # type: ignore[arg-type]
    for rate in EVERY_K:
        assert paced.weight(rate.correct, 8) == pytest.approx(paced.weights.get(rate.problem_id, 0.0))
    assert paced.weight(0, 4) == paced.weight(4, 4) == 0.0
    assert paced.weight(2, 4) > 0


def test_with_the_posterior_problems_off_the_frontier_can_be_kept_and_weigh_least() -> None:
    pacing = PacingConfig(estimator="posterior", keep="all")
    paced = stage_weights(EVERY_K, pacing)
    assert len(paced.weights) == 9
    assert 0 < paced.weights["p0"] < paced.weights["p1"] < paced.weights["p4"]
    assert list(stage_weights(EVERY_K, PacingConfig(estimator="posterior")).weights) == [
        f"p{k}" for k in range(1, 8)
    ]


def test_problems_with_different_numbers_of_attempts_are_weighed_by_the_posterior_unless_told_otherwise() -> (
    None
):
    pass_rates = rates((1, 4), (2, 8), (4, 16), (0, 4), (8, 16))
    auto = stage_weights(pass_rates, PacingConfig())
    assert auto.weights == stage_weights(pass_rates, PacingConfig(estimator="posterior")).weights
    assert len({auto.weights[f"p{i}"] for i in range(3)}) == 3  # k/K = 1/4 in all three
    plugin = stage_weights(pass_rates, PacingConfig(estimator="plugin"))
    assert plugin.weights["p0"] == pytest.approx(plugin.weights["p2"])


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [
        ({"kernel": "band", "band_low": 0.3, "band_high": 0.4}, "pacing.band_low"),
        ({"kernel": "gaussian", "gaussian_std": 1e-3, "gaussian_mean": 0.0}, "pacing.gaussian_std"),
    ],
)
def test_a_kernel_that_gives_nothing_names_its_own_keys(keys: dict[str, object], remedy: str) -> None:
    with pytest.raises(UserError, match=f"no weight .*{remedy}"):
        stage_weights(rates((4, 8), (5, 8)), PacingConfig(**keys))  # type: ignore[arg-type]


def test_configurations_that_keep_other_problems_say_so_in_other_words() -> None:
    kept = {
        name: (
            what_is_kept(PacingConfig(**keys), 8),
            tuple(stage_weights(EVERY_K, PacingConfig(**keys)).weights),
        )  # type: ignore[arg-type]
        for name, (keys, _) in BY_HAND.items()
    }
    for words, problems in kept.values():
        assert all(other == problems for said, other in kept.values() if said == words), words
    assert kept["paced"][0] == kept["gaussian"][0] == kept["frontier"][0] == "pacing.keep: frontier"
    assert "band from 0.2 to 0.8" in kept["hard filter"][0]
    for keys in ({"floor": 0.1}, {"estimator": "posterior"}):  # so that no weight is 0
        assert what_is_kept(PacingConfig(kernel="band", **keys), 8) == "pacing.keep: frontier"  # type: ignore[arg-type]


def test_with_few_attempts_auto_keeps_what_a_band_would_drop() -> None:
    band = PacingConfig(kernel="band")
    assert what_is_kept(band, 4) == "pacing.keep: frontier" != what_is_kept(band, 8)
