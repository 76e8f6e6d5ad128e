"""What an experiment's numbers say, in sentences that are made from them and claim no more.

A difference is called clear where its 95 % interval leaves out 0, and otherwise said not to be told apart: no
difference was shown, which is not that there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

from paced_megatron.experiments.experiment import BEFORE
from paced_megatron.experiments.results import Comparison, Difference

MAIN, GREEDY, FORGETTING = "test_sampled", "test_greedy", "forgetting_sampled"


def reading(comparison: Comparison) -> str:
    """What came out, in plain sentences. The experiment's first arm is what the others are compared with."""
    names = [arm.name for arm in comparison.arms if arm.name != BEFORE]
    if not any(MAIN in arm.measures for arm in comparison.arms):
        return "There were no held-out problems to measure the arms on."
    said = [_against(comparison, names[0], names[1:], MAIN, "Held-out accuracy, sampled")]
    said.append(_among(comparison, names[1:]))
    said.append(_greedy(comparison, names))
    said.append(_forgetting(comparison, names))
    said.append(_caution(comparison))
    return " ".join(sentence for sentence in said if sentence)


def _against(comparison: Comparison, first: str, others: Sequence[str], measure: str, what: str) -> str:
    """Before, the first arm, and every other arm against it."""
    before, mean = comparison.arm(BEFORE).measures[measure].mean, comparison.arm(first).measures[measure].mean
    opening = f"{what}: {100 * before:.1f} % before training, {100 * mean:.1f} % with {first}"
    found = [comparison.difference(name, first, measure) for name in others]
    return f"{opening}{''.join(f'; {_amount(each)}' for each in found if each is not None)}."


def _amount(difference: Difference) -> str:
    """As in "paced +14.9 points against unweighted (95 % interval +13.1 to +16.7)"."""
    clear = "" if difference.is_clear else ", not told apart from it"
    return (
        f"{difference.arm} {_points(difference.mean)} points against {difference.other}"
        f"{_interval(difference)}{clear}"
    )


def _interval(difference: Difference) -> str:
    if difference.low is None or difference.high is None:
        return ""
    return f" (95 % interval {_points(difference.low)} to {_points(difference.high)})"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _among(comparison: Comparison, names: Sequence[str]) -> str:
    """The other arms among themselves: is what sets them apart from each other of any consequence?"""
    pairs = [
        difference
        for index, one in enumerate(names)
        for other in names[index + 1 :]
        if (difference := comparison.difference(one, other, MAIN)) is not None
    ]
    if not pairs:
        return ""
    clear = [difference for difference in pairs if difference.is_clear]
    alike = [difference for difference in pairs if not difference.is_clear]
    said = ""
    if alike:
        listed = "; ".join(
            f"{each.arm} and {each.other} ({_points(each.mean)}{_interval(each)})" for each in alike
        )
        said = f"Not told apart from one another beyond the spread: {listed}."
    if clear:
        said += f"{' ' if said else ''}Apart from one another: {'; '.join(map(_amount, clear))}."
    return said


def _greedy(comparison: Comparison, names: Sequence[str]) -> str:
    """Whether greedy decoding puts the arms in the same places against the first one."""
    found, disagree = False, []
    for name in names[1:]:
        sampled = comparison.difference(name, names[0], MAIN)
        greedy = comparison.difference(name, names[0], GREEDY)
        if sampled is None or greedy is None:
            continue
        found = True
        same = greedy.is_clear == sampled.is_clear and (greedy.mean > 0) == (sampled.mean > 0)
        if not same:
            disagree.append(_amount(greedy))
    if not found:
        return ""
    if not disagree:
        return "Greedy decoding says the same."
    return f"Greedy decoding says otherwise: {'; '.join(disagree)}."


def _forgetting(comparison: Comparison, names: Sequence[str]) -> str:
    found = [
        difference
        for name in names
        if (difference := comparison.difference(name, BEFORE, FORGETTING)) is not None
    ]
    if not found:
        return ""
    before = comparison.arm(BEFORE).measures[FORGETTING].mean
    changes = "; ".join(
        f"{each.arm} {_points(each.mean)}{_interval(each)}{'' if each.is_clear else ', not clear'}"
        for each in found
    )
    return f"The other skill, sampled, against {100 * before:.1f} % before training: {changes}."


def _caution(comparison: Comparison) -> str:
    """What the intervals are over, and what is not there."""
    over = {difference.over for difference in comparison.differences if difference.low is not None}
    missing = f" {len(comparison.missing)} runs of the experiment are missing." if comparison.missing else ""
    if over == {"problems"}:
        return (
            "One seed: the intervals are over the held-out problems and know nothing of the spread over "
            "seeds." + missing
        )
    seeds = len({seed for arm in comparison.arms for seed in arm.seeds})
    return f"Intervals are over {seeds} seeds, on one task and one pair of models.{missing}"
