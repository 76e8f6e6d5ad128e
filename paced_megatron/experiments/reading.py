"""What an experiment's numbers say, in sentences that are made from them and claim no more.

A difference is called clear where its 95 % interval leaves out 0. Otherwise no difference was shown, which is
not that there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

from paced_megatron.experiments.experiment import BEFORE
from paced_megatron.experiments.results import Arm, Comparison, Difference

MAIN, GREEDY, FORGETTING = "test_sampled", "test_greedy", "forgetting_sampled"


def reading(comparison: Comparison) -> str:
    """What came out, a sentence or two a line. The experiment's first arm is what the others are compared
    with."""
    names = [arm.name for arm in comparison.arms if arm.name != BEFORE]
    if not any(MAIN in arm.measures for arm in comparison.arms):
        return "There were no held-out problems to measure the arms on."
    said = [
        _against_first(comparison, names),
        _among_others(comparison, names[1:]),
        *_answers(comparison),
        _greedy(comparison, names),
        _forgetting(comparison, names),
        _caution(comparison),
    ]
    return "\n".join(sentence for sentence in said if sentence)


def _against_first(comparison: Comparison, names: Sequence[str]) -> str:
    before, mean = (comparison.arm(name).measures[MAIN].mean for name in (BEFORE, names[0]))
    opening = (
        f"Sampled accuracy on the held-out problems is {100 * before:.1f} % before training and "
        f"{100 * mean:.1f} % with {names[0]}."
    )
    found = [comparison.difference(name, names[0], MAIN) for name in names[1:]]
    amounts = [_amount(each) for each in found if each is not None]
    if not amounts:
        return opening
    return f"{opening} Against {names[0]}, in points with 95 % intervals: {'; '.join(amounts)}."


def _among_others(comparison: Comparison, names: Sequence[str]) -> str:
    """Whether what sets the other arms apart from each other is of any consequence."""
    pairs = [comparison.difference(one, other, MAIN) for one, other in combinations(names, 2)]
    found = [difference for difference in pairs if difference is not None]
    if not found:
        return ""
    clear = [difference for difference in found if difference.is_clear]
    if not clear:
        largest = max(found, key=lambda difference: abs(difference.mean))
        between = f"between {largest.arm} and {largest.other}: {_points(largest.mean)}{_interval(largest)}"
        return f"Among {_listed(names)} no difference is clear; the largest is that {between}."
    amounts = "; ".join(
        f"{each.arm} against {each.other} {_points(each.mean)}{_interval(each)}" for each in clear
    )
    return f"Among {_listed(names)} these differences are clear: {amounts}."


# ------------------------------------------------------------------ questions that two arms can answer


def _is_paced(arm: Arm) -> bool:
    pacing = arm.pacing
    return bool(pacing) and not pacing["permute"] and (pacing["keep"], pacing["kernel"]) != ("all", "uniform")


def _asks_for_shape(one: Arm, other: Arm) -> bool:
    """Whether the other arm has the one's weights, dealt out anew."""
    return _is_paced(one) and bool(other.pacing) and other.pacing == {**one.pacing, "permute": True}


def _asks_for_hopeless(one: Arm, other: Arm) -> bool:
    """Whether the one weighs the frontier, and the other only leaves out what is never solved."""
    alone = (other.pacing.get("keep"), other.pacing.get("kernel"), other.pacing.get("permute"))
    weighs = one.pacing.get("keep") == "frontier" and one.pacing.get("kernel") != "uniform"
    return _is_paced(one) and weighs and alone == ("solvable", "uniform", False)


def _shape(comparison: Comparison, one: Arm, other: Arm, difference: Difference) -> str:
    what = f"{one.name}'s weights dealt out anew among its problems ({other.name})"
    amount = f"{one.name} {_points(difference.mean)}{_interval(difference)}"
    if not difference.is_clear:
        return (
            f"Is it the shape of the weights? With {what} nothing clear changes ({amount}): nothing "
            "here shows that it is."
        )
    verdict = "better" if difference.mean > 0 else "worse"
    return f"Is it the shape of the weights? {one.name} is clearly {verdict} than {what}: {amount}."


def _hopeless(comparison: Comparison, one: Arm, other: Arm, difference: Difference) -> str:
    question = "Is it the hopeless problems?"
    what = f"leaving out only those that are never solved ({other.name})"
    amount = f"{one.name} {_points(difference.mean)}{_interval(difference)}"
    if difference.is_clear:
        side = "ahead of" if difference.mean > 0 else "behind"
        return f"{question} {one.name} is clearly {side} {what}: {amount}."
    everything = next((arm for arm in comparison.arms if _trains_on_all(arm)), None)
    gain = everything and comparison.difference(other.name, everything.name, MAIN)
    so = (
        f", so its whole gain over {gain.other} may be theirs"
        if gain and gain.is_clear and gain.mean > 0
        else ""
    )
    return f"{question} {one.name} and {what} can't be told apart ({amount}){so}."


def _trains_on_all(arm: Arm) -> bool:
    return (arm.pacing.get("keep"), arm.pacing.get("kernel")) == ("all", "uniform")


# (do these two arms ask it?, the answer)
QUESTIONS: tuple[
    tuple[Callable[[Arm, Arm], bool], Callable[[Comparison, Arm, Arm, Difference], str]], ...
] = (
    (_asks_for_shape, _shape),
    (_asks_for_hopeless, _hopeless),
)


def _answers(comparison: Comparison) -> list[str]:
    answers = []
    for asks, answer in QUESTIONS:
        for one in comparison.arms:
            for other in comparison.arms:
                difference = comparison.difference(one.name, other.name, MAIN)
                if difference is not None and asks(one, other):
                    answers.append(answer(comparison, one, other, difference))
    return answers


# ------------------------------------------------------------------------------------------- other measures


def _greedy(comparison: Comparison, names: Sequence[str]) -> str:
    """Whether greedy decoding puts the arms on the same side of the first one."""
    pairs = [
        (comparison.difference(name, names[0], MAIN), comparison.difference(name, names[0], GREEDY))
        for name in names[1:]
    ]
    both = [(sampled, greedy) for sampled, greedy in pairs if sampled and greedy]
    if not both:
        return ""
    turned = any(
        greedy.is_clear and sampled.is_clear and (greedy.mean > 0) != (sampled.mean > 0)
        for sampled, greedy in both
    )
    alike = all(greedy.is_clear == sampled.is_clear for sampled, greedy in both)
    opening = (
        f"Greedy decoding {'does not agree' if turned else 'agrees' if alike else 'tells other arms apart'}"
    )
    return f"{opening}, against {names[0]}: {'; '.join(_amount(greedy) for _, greedy in both)}."


def _forgetting(comparison: Comparison, names: Sequence[str]) -> str:
    found = [comparison.difference(name, BEFORE, FORGETTING) for name in names]
    amounts = [_amount(each) for each in found if each is not None]
    if not amounts:
        return ""
    before = comparison.arm(BEFORE).measures[FORGETTING].mean
    return f"The other skill, sampled, against {100 * before:.1f} % before training: {'; '.join(amounts)}."


def _caution(comparison: Comparison) -> str:
    """What the intervals are over, and what is not there."""
    over = {difference.over for difference in comparison.differences}
    missing = f" {len(comparison.missing)} runs of the experiment are missing." if comparison.missing else ""
    if over == {"problems"}:
        return (
            "One seed: the intervals are over the held-out problems and know nothing of the spread over "
            f"seeds.{missing}"
        )
    seeds = len({seed for arm in comparison.arms for seed in arm.seeds})
    return f"Intervals are over {seeds} seeds, on one set of problems and one pair of models.{missing}"


# -------------------------------------------------------------------------------------------------- wording


def _amount(difference: Difference) -> str:
    """As in "paced +14.9 (+13.1 to +16.7)", and "not clear" behind it where 0 is inside."""
    clear = "" if difference.is_clear else ", not clear"
    return f"{difference.arm} {_points(difference.mean)}{_interval(difference)}{clear}"


def _interval(difference: Difference) -> str:
    if difference.low is None or difference.high is None:
        return ""
    return f" ({_points(difference.low)} to {_points(difference.high)})"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
