"""Rules about who teaches a stage, and what this teacher sees."""

from __future__ import annotations

from collections.abc import Callable

from paced_megatron.config import Config, StageConfig
from paced_megatron.config.layouts import Rule
from paced_megatron.problems.context import OF_ATTEMPTS, context_template, misspelt_slot, slots_in

MOVING = ("ema", "current")  # teachers that change with the student


def _of_stages(complain: Callable[[Config, StageConfig, str], str | None]) -> Callable[[Config], str | None]:
    """The first complaint about a stage, which is called with its dotted key."""

    def rule(config: Config) -> str | None:
        complaints = (
            complain(config, stage, f"stages.{number}") for number, stage in enumerate(config.stages)
        )
        return next((complaint for complaint in complaints if complaint is not None), None)

    return rule


def _there_is_a_teacher(config: Config, stage: StageConfig, key: str) -> str | None:
    if config.teacher.path is not None:
        return None
    if stage.teacher == "model":
        return (
            f"{key}.teacher is model, and there is none: set teacher.path, or, for self-distillation, "
            f"{key}.teacher to initial, ema or current"
        )
    if stage.text == "responses":
        return (
            f"{key}.text is responses, which teacher.path would give, and that is not set; set it, or "
            f"{key}.text to rollouts"
        )
    return None


def _decay_has_a_mean(config: Config, stage: StageConfig, key: str) -> str | None:
    if stage.ema_decay is None or stage.teacher == "ema":
        return None
    return (
        f"{key}.ema_decay={stage.ema_decay:g} is for teacher: ema, and {key}.teacher is {stage.teacher}; "
        "leave it out, or set teacher: ema"
    )


def _moving_teachers_are_laid_out_as_the_student(config: Config, stage: StageConfig, key: str) -> str | None:
    if stage.teacher not in MOVING:
        return None
    for name in ("tensor_model_parallel_size", "pipeline_model_parallel_size"):
        own, students = getattr(config.teacher, name), getattr(config.parallel, name)
        if own not in (None, students):
            return (
                f"teacher.{name}={own}, but {key}.teacher={stage.teacher} has the student's layout "
                f"(parallel.{name}={students}); leave it out"
            )
    return None


def _moving_teachers_have_no_ranks(config: Config, stage: StageConfig, key: str) -> str | None:
    if not config.teacher.own_ranks or stage.teacher not in MOVING:
        return None
    return (
        f"teacher.own_ranks=true, but {key}.teacher={stage.teacher} is made of the student's weights, where "
        "they are; set teacher.own_ranks to false"
    )


def _only_what_stays_is_cached(config: Config, stage: StageConfig, key: str) -> str | None:
    if not config.teacher.cache or stage.teacher not in MOVING or stage.text != "responses":
        return None
    return (
        f"teacher.cache=true, but {key}.teacher={stage.teacher} changes with every step, so that nothing can "
        "be read again; set it to false"
    )


def _context_has_slots(config: Config, stage: StageConfig, key: str) -> str | None:
    template = context_template(stage)
    misspelt = misspelt_slot(template)
    if misspelt is not None:
        return (
            f"{key}.teacher_context has {{{misspelt[0]}}}, which is no slot; did you mean {{{misspelt[1]}}}?"
        )
    if template and "problem" not in slots_in(template):
        return (
            f"{key}.teacher_context has no {{problem}}, so that the teacher would not know what is asked; "
            "put it in, or take none, answer or solution"
        )
    return None


def _attempts_are_there(config: Config, stage: StageConfig, key: str) -> str | None:
    wanted = sorted(slots_in(context_template(stage)) & OF_ATTEMPTS)
    if not wanted or stage.text == "rollouts":
        return None
    return (
        f"{key}.teacher_context has {{{wanted[0]}}}, which only the student's own rollouts can fill; set "
        f"{key}.text to rollouts, or take it out"
    )


TEACHER_RULES: list[Rule] = [
    (
        "stages",
        "needs `teacher.path` where a stage has `teacher: model` or `text: responses`",
        _of_stages(_there_is_a_teacher),
    ),
    ("stages", "has `ema_decay` only with `teacher: ema`", _of_stages(_decay_has_a_mean)),
    (
        "stages",
        "with `teacher: ema` or `current` leaves the teacher in the student's layout",
        _of_stages(_moving_teachers_are_laid_out_as_the_student),
    ),
    (
        "teacher.own_ranks",
        "is false where `ema` or `current` teaches",
        _of_stages(_moving_teachers_have_no_ranks),
    ),
    (
        "teacher.cache",
        "is false where `ema` or `current` teaches on stored text",
        _of_stages(_only_what_stays_is_cached),
    ),
    (
        "stages",
        "has `{problem}` in a `teacher_context` that is a text, and no misspelt slot",
        _of_stages(_context_has_slots),
    ),
    (
        "stages",
        "has `{attempt}` and `{feedback}` in `teacher_context` only with `text: rollouts`",
        _of_stages(_attempts_are_there),
    ),
]
