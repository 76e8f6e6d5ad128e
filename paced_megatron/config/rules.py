"""Rules that join several keys of a configuration; `check.build` applies them last."""

from __future__ import annotations

from collections.abc import Sequence

from paced_megatron.config import Config, TrainingConfig
from paced_megatron.config.budget import BUDGETS, BudgetConfig, named
from paced_megatron.config.layer_rules import LAYER_RULES
from paced_megatron.config.layouts import LAYOUT_RULES, Rule
from paced_megatron.config.pacing_rules import PACING_RULES
from paced_megatron.config.rollout_rules import ROLLOUT_RULES
from paced_megatron.config.teacher_rules import TEACHER_RULES
from paced_megatron.config.text_rules import TEXT_RULES


def _some_stages(config: Config) -> str | None:
    if config.stages:
        return None
    return "stages is empty; it needs at least one entry, e.g. `- {divergence: forward_kl, train_iters: 100}`"


def _batch_divides(config: Config) -> str | None:
    size, micro = config.training.global_batch_size, config.training.micro_batch_size
    copies = config.parallel.data_parallel_size
    unit = micro * copies
    if size % unit == 0:
        return None
    near = " or ".join(str(n) for n in (size // unit * unit, size // unit * unit + unit) if n > 0)
    return (
        f"training.global_batch_size={size} is not a multiple of training.micro_batch_size x "
        f"parallel.data_parallel_size = {micro} x {copies} = {unit}; {near} would do"
    )


def _decay_goes_down(config: Config) -> str | None:
    low, high = config.training.min_lr, config.training.lr
    return None if low <= high else f"training.min_lr={low:g} is above training.lr={high:g}; lower it"


def _training_has_one_budget(config: Config) -> str | None:
    return _too_many("training", config.training)


def _stages_have_one_budget(config: Config) -> str | None:
    for number, stage in enumerate(config.stages):
        if complaint := _too_many(f"stages.{number}", stage):
            return complaint
        if not named(stage) and not named(config.training):
            return (
                f"stages.{number} has no budget; set {_listed(BUDGETS, 'or')} there, or in training for all "
                "stages"
            )
    return None


def _too_many(section: str, keys: BudgetConfig) -> str | None:
    names = named(keys)
    if len(names) < 2:
        return None
    return f"{section} names more than one budget, {_listed(names, 'and')}; leave one (null: not set)"


def _listed(names: Sequence[str], word: str) -> str:
    return f"{', '.join(names[:-1])} {word} {names[-1]}"


def _warmup_ends(config: Config) -> str | None:
    training = config.training
    if training.lr_warmup_iters == 0:
        return None
    if training.lr_warmup_fraction > 0:
        return (
            f"training.lr_warmup_iters={training.lr_warmup_iters} stands beside training.lr_warmup_fraction="
            f"{training.lr_warmup_fraction:g}; leave one"
        )
    budgets = [config.budget(number) for number in range(1, len(config.stages) + 1)]
    for budget in budgets:
        if budget.steps is None:
            return (
                f"training.lr_warmup_iters={training.lr_warmup_iters} counts steps, and {budget.key} "
                f"{budget.unit}; set training.lr_warmup_fraction, a share of the budget"
            )
    steps = min(budget.amount for budget in budgets)
    if training.lr_warmup_iters < steps:
        return None
    return (
        f"training.lr_warmup_iters={training.lr_warmup_iters} must be below every stage's train_iters; one "
        f"has {steps}"
    )


def _template_asks(config: Config) -> str | None:
    if "{problem}" in config.problems.prompts.template:
        return None
    return "problems.prompts.template has no {problem}, so that every prompt would be the same; put it in"


def _evaluation_has_problems(config: Config) -> str | None:
    if config.evaluation.every == 0 or config.problems.test is not None:
        return None
    return f"evaluation.every={config.evaluation.every} needs held-out problems; set problems.test"


def _forgetting_has_test(config: Config) -> str | None:
    if config.problems.test is not None:
        return None
    for key, asked in (
        ("problems.forgetting", config.problems.forgetting is not None),
        ("evaluation.greedy", config.evaluation.greedy),
        ("evaluation.strata_attempts", config.evaluation.strata_attempts > 0),
    ):
        if asked:
            return f"{key} needs held-out problems beside it; set problems.test"
    return None


def _forgetting_has_tasks(config: Config) -> str | None:
    evaluation = config.evaluation
    for key in ("forgetting_fewshot", "forgetting_limit", "forgetting_include_path"):
        if getattr(evaluation, key) is not None and not evaluation.forgetting_tasks:
            return f"evaluation.{key} is for evaluation.forgetting_tasks, and that is empty; name a task"
    for task in evaluation.forgetting_tasks:
        if evaluation.forgetting_tasks.count(task) > 1:
            return f"evaluation.forgetting_tasks has {task} twice; name it once"
    return None


def _parameters_fit(config: Config) -> str | None:
    from paced_megatron.divergence import check_parameter  # late: `--help` needn't wait for torch

    for number, stage in enumerate(config.stages):
        try:
            check_parameter(stage.divergence, stage.divergence_parameter)
        except ValueError as error:
            said = str(error).removeprefix("parameter: ")
            return f"stages.{number}.divergence_parameter: {said}"
    return None


def _kernels_can_be(config: Config) -> str | None:
    from paced_megatron.divergence import check_kernels  # late, as above

    for number, stage in enumerate(config.stages):
        try:
            check_kernels(config.training.loss_kernels, stage.divergence)
        except ValueError as error:
            said = str(error).removeprefix("kernels: ")
            return (
                f"training.loss_kernels={config.training.loss_kernels}: {said} (stages.{number}.divergence)"
            )
    if config.training.loss_kernels == "triton" and config.training.params_dtype == "float64":
        return "training.loss_kernels=triton: the kernels are float32's, and training.params_dtype is float64"
    return None


def _kept_share_is_used(config: Config) -> str | None:
    training = config.training
    if training.token_weights == "tip" or training.token_weights_kept == TrainingConfig.token_weights_kept:
        return None
    return (
        f"training.token_weights_kept is for training.token_weights=tip, and that is {training.token_weights}"
    )


def _fields_are_used(config: Config) -> str | None:
    problems = config.problems
    held_out = [
        format
        for source, format in (
            (problems.test, problems.test_format),
            (problems.forgetting, problems.forgetting_format),
        )
        if source
    ]
    if not problems.fields or "plain" in (problems.format, *held_out):
        return None
    return "problems.fields names columns of plain files, and no file is plain; the formats name their own"


# The key (for the line), the rule in words (for the reference page), and a function that gives the complaint
# or None; the first complaint is shown.
RULES: list[Rule] = [
    ("stages", "has at least one entry", _some_stages),
    (
        "stages",
        "has a `divergence_parameter` where the divergence needs one, and none where it takes none",
        _parameters_fit,
    ),
    (
        "training.loss_kernels",
        "is `triton` only where all divergences have kernels (not akl), and not in float64",
        _kernels_can_be,
    ),
    (
        "training.global_batch_size",
        "is a multiple of `training.micro_batch_size` x `parallel.data_parallel_size`",
        _batch_divides,
    ),
    ("training.min_lr", "is at most `training.lr`", _decay_goes_down),
    ("training.token_weights_kept", "is for `token_weights: tip`", _kept_share_is_used),
    (
        "training",
        "names at most one of `train_iters`, `train_tokens` and `train_seconds`",
        _training_has_one_budget,
    ),
    (
        "stages",
        "has at each entry at most one of `train_iters`, `train_tokens` and `train_seconds`, and one where "
        "`training` has none",
        _stages_have_one_budget,
    ),
    (
        "training.lr_warmup_iters",
        "is below every stage's `train_iters`; where a stage has another budget `lr_warmup_fraction` stands "
        "in its place",
        _warmup_ends,
    ),
    *PACING_RULES,
    *ROLLOUT_RULES,
    ("problems.fields", "is for files in `plain` format", _fields_are_used),
    ("problems.prompts.template", "contains `{problem}`", _template_asks),
    ("evaluation.every", "above 0 needs `problems.test`", _evaluation_has_problems),
    (
        "problems",
        "has `test` where there is `forgetting`, `evaluation.greedy` or `evaluation.strata_attempts`",
        _forgetting_has_test,
    ),
    (
        "evaluation.forgetting_tasks",
        "has each task once, and at least one where there is a `forgetting_fewshot`, `forgetting_limit` or "
        "`forgetting_include_path`",
        _forgetting_has_tasks,
    ),
    *TEXT_RULES,
    *TEACHER_RULES,
    *LAYOUT_RULES,
    *LAYER_RULES,
]
