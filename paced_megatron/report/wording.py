"""The words for what is measured, the same on the page, in the pictures and in the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paced_megatron.experiments.table import MEASURE_NAMES, STRATUM_NAMES

# The differences between arms that the page shows, of those in report.json, and the heads of their columns.
DIFFERENCES = {
    "test_sampled": "all",
    "test_sampled_always": STRATUM_NAMES["always"],
    "test_sampled_frontier": STRATUM_NAMES["frontier"],
    "test_sampled_never": STRATUM_NAMES["never"],
    "test_greedy": "all, greedy",
    "forgetting_sampled": "other skill",
}
_SETS = {"train": "training problems", "test": "held-out problems"}


def kind_label(measure: Mapping[str, Any]) -> str:
    """Which problems, and how decoded."""
    return MEASURE_NAMES[f"{measure['problem_set']}_{measure['decoding']}"]


def group_label(measure: Mapping[str, Any]) -> str:
    """Which of the problems: all, a stratum by what the student could do before, or a level."""
    name = str(measure["name"])
    if measure["group"] == "level":
        return f"level {name}"
    return STRATUM_NAMES.get(name, name) if measure["group"] == "stratum" else "all"


def measure_label(measure: Mapping[str, Any]) -> str:
    """Both in one."""
    return f"{kind_label(measure)}: {group_label(measure)}"


def whole_sets(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of `accuracy` over all problems of a set."""
    return [measure for measure in content["accuracy"] if measure["group"] == "all"]


def interval_words(content: Mapping[str, Any]) -> str:
    """What the intervals are."""
    if content["intervals"] == "seeds":
        seeds = len(content["seeds"])
        return f"Intervals are 95 %, Student's t over {seeds} seeds."
    return (
        "Intervals are 95 %, a bootstrap over problems: how far another draw of problems may move the "
        "number. How far another seed would, one run can't say."
    )


def movements_caption(content: Mapping[str, Any]) -> str:
    """How to read the first picture, and how much of it is chance."""
    first = content["movements"][0]
    if first["matrix"] is None:
        return (
            "Training problems by how many of the student's attempts at each were correct, and the weight "
            "that followed. This run didn't attempt problems again after training, so there is no after."
        )
    counted = f", the counts of {first['seeds']} seeds added up" if first["seeds"] > 1 else ""
    text = (
        f"The {_SETS[first['problem_set']]} by how many of the student's attempts at each were correct, "
        f"above before training and below after{counted}. A ribbon is as broad as the number of problems "
        "that moved that way. "
    )
    if first["problem_set"] == "test":
        text += "The weight is the one the training problems had at that pass rate. "
    elif any(movement["curve"] is None for movement in content["movements"]):
        text += "Dots are mean weights; a curve is drawn where the weights are the kernel's. "
    chance = (
        "Some move by chance: if the pass rates before were exact, attempting the same problems again "
        f"without any training would move about {first['up_by_chance']:.0f} up and "
        f"{first['down_by_chance']:.0f} down."
    )
    return text + chance


def accuracy_caption(content: Mapping[str, Any]) -> str:
    """What the marks of the second picture are."""
    measures = content["accuracy"]
    text = "Upright line: before training, its interval shaded. Marks: after. "
    if any(measure["group"] == "stratum" for measure in measures):
        text += (
            "Always, sometimes, never: solved by the student before training, in attempts that serve nothing "
            "else. "
        )
    if any(measure["problem_set"] == "forgetting" for measure in measures):
        text += "The other skill is in no training problem: what it loses was forgotten. "
    return text + interval_words(content)


def loss_caption(content: Mapping[str, Any]) -> str:
    """What may be compared in the third picture, and what not."""
    several = len(content["seeds"]) > 1
    text = "Weighted loss of each optimizer step. "
    if several:
        text += "Thin: a seed. Thick: the mean over seeds. "
    if len(content["arms"]) > 1:
        text += (
            "Arms weigh different problems, so the height of one arm's loss says nothing against another's."
        )
    return text.strip()


def cost_caption(content: Mapping[str, Any]) -> str:
    """What the columns of the table count."""
    text = (
        "Training counts response tokens and the seconds of optimizer steps; rollouts, the teacher's "
        "responses and measuring count generated tokens, and the loading of the model"
    )
    if len(content["seeds"]) > 1:
        text += "; means over seeds"
    if len(content["arms"]) > 1:
        text += "; what the arms of a seed share was made once and stands in each line"
    return text + "."
