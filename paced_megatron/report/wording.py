"""The words for what is measured, the same on the page, in the pictures and in the tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
# A number of each step, as in `steps.CURVES` -> what it is.
CURVE_NAMES = {
    "grad_norm": "gradient norm, before clipping",
    "lr": "learning rate",
    "tokens_kept": "share of response tokens trained on",
    "pass_rate": "pass rate of the step's rollouts",
}
# A phase of timings.jsonl, or a part of a step -> what it is.
PHASE_NAMES = {
    "attempts": "student's attempts",
    "responses": "teacher's responses",
    "rollouts": "rollouts while training",
    "strata": "sorting the held-out",
    "evaluation": "evaluation",
    "attempts_after": "attempts after training",
    "forgetting": "lm-eval's tasks",
    "training": "optimizer steps",
    "sync": "weights to the engine",
}
OUTCOME_NAMES = {
    "correct": "correct",
    "incorrect": "incorrect",
    "unparsable": "unparsable",
    "truncated": "truncated",
    "timed_out": "timed out",
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


def work_label(record: Mapping[str, Any]) -> str:
    """A piece of work that made attempts; of a measurement which one."""
    return kind_label(record) if record["phase"] == "evaluation" else PHASE_NAMES[record["phase"]]


def work_place(record: Mapping[str, Any], stages: int) -> str:
    """When it was and whose, as far as the report has several."""
    step = [f"step {record['step']}"] if record["step"] is not None else []
    return ", ".join([*([f"stage {record['stage']}"] if stages > 1 else []), *step, *_arm(record)])


def _arm(record: Mapping[str, Any]) -> list[str]:
    return [] if record["arm"] is None else [record["arm"]]


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
    by = "how many of the student's attempts at each were correct"
    if any(moment["attempts"] is None for moment in first["moments"]):
        by = (
            "the student's pass rate on each, rounded to a tenth, those that were never solved (0) and "
            "always (1) apart"
        )
    if first["matrix"] is None:
        return (
            f"Training problems by {by}, and the weight that followed. This run didn't attempt problems "
            "again after training, so there is no after."
        )
    counted = f", the counts of {first['seeds']} seeds added up" if first["seeds"] > 1 else ""
    names = [moment["name"] for moment in first["moments"]]
    order = (
        "above before training and below after"
        if names == ["before", "after"]
        else f"from above {', '.join(names)}"
    )
    text = (
        f"The {_SETS[first['problem_set']]} by {by}, {order}{counted}. A ribbon is as broad as the number of "
        "problems that moved that way. "
    )
    if len(names) > 2:
        text += f"Up and down: from {names[0]} to {names[-1]}. "
    if first["problem_set"] == "test":
        text += "The weight is the one the training problems had at that pass rate. "
    elif any(moment["curve"] is None for each in content["movements"] for moment in each["moments"][:-1]):
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
    if content["loss"][0]["by_budget"]:
        text += "Drawn over the budget in tokens or seconds, of which runs make other numbers of steps. "
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


def steps_caption(content: Mapping[str, Any]) -> str:
    """What else each optimizer step says of itself."""
    text = "Before clipping at `training.clip_grad`. "
    names = [curve["name"] for curve in content["steps"]]
    if "tokens_kept" in names:
        text += "Tokens count as trained on where problem and token weight are above 0. "
    if "pass_rate" in names:
        text += "The pass rate is that of all attempts made before a step, by the student of that moment. "
    return text.replace("`", "").strip()


def time_caption(content: Mapping[str, Any]) -> str:
    """What is timed, and what not."""
    text = "Loading models is counted; checkpoints, export and what lies between two phases are not."
    if len(content["seeds"]) > 1:
        text += " Means over seeds."
    if len(content["arms"]) > 1:
        text += " What the arms of a seed share was made once and stands in each column."
    return text


def outcomes_caption(content: Mapping[str, Any]) -> str:
    """What the kinds are."""
    text = (
        "Unparsable: it ended, but no answer was found. Truncated: it reached max_new_tokens, and counts as "
        "not solved whatever it says. Timed out: the verifier did. The teacher's responses are trained on "
        "whether they are correct or not, but for truncated ones."
    )
    if len(content["seeds"]) > 1:
        text += " Sums over seeds; examples are the first seed's."
    return text


def weights_caption(content: Mapping[str, Any]) -> str:
    """What the columns of the table of weights are."""
    return (
        _mean_of_weights({record["normalize"] for record in content["weights"]})
        + " Together they are as noisy as so many of equal weight as the last column says ((sum w)² / sum "
        "w²)." + (" Means over seeds." if len(content["seeds"]) > 1 else "")
    )


def _mean_of_weights(normalize: Collection[str]) -> str:
    """What the weights have the mean 1 over, by the arms' `pacing.normalize`."""
    over_all = "over all training problems, those that are left out counting 0"
    if set(normalize) == {"kept"}:
        return "The kept problems' weights have the mean 1."
    if set(normalize) == {"all"}:
        return f"The weights have the mean 1 {over_all}."
    return f"The kept problems' weights have the mean 1; where pacing.normalize is all, {over_all}."


def forgetting_caption(content: Mapping[str, Any]) -> str:
    """What the numbers of the other tasks are, and their intervals."""
    text = "In the metric's own unit, by lm-eval. Forgotten: above 0 where the student became worse. "
    if content["intervals"] == "seeds":
        return text + interval_words(content)
    return (
        text
        + "Intervals are 95 %, over the task's documents, of what was forgotten in pairs where it can be."
    )
