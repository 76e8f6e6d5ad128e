"""Everything that can be checked before a model is loaded, and what the phases need of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paced_megatron.config import Config, StageConfig
from paced_megatron.errors import UserError
from paced_megatron.models.families import ModelShape, check_layout, model_shape
from paced_megatron.models.hub import local_folder
from paced_megatron.models.weight_files import check_weights
from paced_megatron.problems.context import context_template
from paced_megatron.problems.lists import read_problem_lists
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.prompts import check_prompts, prompt_token_ids
from paced_megatron.problems.teacher_prompts import TeacherPrompts, make_teacher_prompts
from paced_megatron.problems.tokenizer import load_tokenizer, same_tokenizer
from paced_megatron.rollout.checks import end_warnings
from paced_megatron.training.writers import check_installed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ProblemSet:
    """Problems in the order of their file, and their prompts.

    Attributes:
        by_id: the problems by their id.
        prompts: token ids of each problem's prompt, by its id.
    """

    by_id: Mapping[str, Problem]
    prompts: Mapping[str, Sequence[int]]

    def __len__(self) -> int:
        return len(self.by_id)

    def only(self, ids: Iterable[str]) -> ProblemSet:
        """The problems with these ids, in the order of `ids`."""
        ids = list(ids)
        return ProblemSet(
            {name: self.by_id[name] for name in ids}, {name: self.prompts[name] for name in ids}
        )


@dataclass(frozen=True)
class Inputs:
    """What a configuration names, read and checked.

    Attributes:
        train, test, forgetting: the problems to train on, those held out (None: no evaluation), and those of
            another skill (None: none).
        tokenizer: the student's; the teacher's is the same.
        student, teacher: their shapes; without `teacher.path` there is no teacher but the student itself.
        student_folder, teacher_folder: where their weights lie; for a model named as on the Hugging Face hub
            its folder in the local cache, which the configuration doesn't name.
        teacher_prompts: for each stage the training problems' prompts as its teacher sees them.
        dropped: ids of training problems that are held-out ones too, left out by `problems.overlap: drop`.
    """

    train: ProblemSet
    test: ProblemSet | None
    forgetting: ProblemSet | None
    tokenizer: PreTrainedTokenizerBase
    student: ModelShape
    teacher: ModelShape | None
    student_folder: Path
    teacher_folder: Path | None
    teacher_prompts: Sequence[TeacherPrompts]
    dropped: Sequence[str] = ()

    def teacher_of(self, stage: StageConfig) -> tuple[ModelShape, Path]:
        """Whose hidden states the stage's student is compared with: the teacher's shape and folder, or those
        of the student with which the run began (from which `ema` and `current` take only the shape)."""
        if stage.teacher != "model":
            return self.student, self.student_folder
        assert self.teacher is not None and self.teacher_folder is not None, "a rule asks for teacher.path"
        return self.teacher, self.teacher_folder


def input_warnings(inputs: Inputs) -> list[str]:
    """What is allowed and seldom meant: that the teacher ends a reply as the student's does not end."""
    student, teacher = inputs.student_folder, inputs.teacher_folder
    if teacher is None or teacher == student:
        return []
    return end_warnings(
        student, teacher, inputs.tokenizer, load_tokenizer(teacher), inputs.student.vocab_size
    )


def read_inputs(config: Config) -> Inputs:
    """Read and check what the configuration names: problems, tokenizers, model folders, layout, lengths.

    Reads no weights, only their headers. Everything a run could stumble over later that can be known now is
    known after it.

    Raises:
        UserError: the first thing that is wrong, by name, and what to do.
    """
    check_installed(config.logging)
    student_folder = local_folder(config.student.path)
    teacher_folder = None if config.teacher.path is None else local_folder(config.teacher.path)
    student = model_shape(student_folder)
    teacher = None if teacher_folder is None else model_shape(teacher_folder)
    models = [(student, student_folder)]
    if teacher is not None and teacher_folder is not None:
        models.append((teacher, teacher_folder))
    for stage in config.stages:
        taught_by = models[-1] if stage.teacher == "model" else models[0]
        check_layouts(config, student, taught_by[0], student_folder, taught_by[1])
    for shape, folder in models:
        check_weights(folder, shape)
    same_tokenizer(student_folder, models[-1][1])
    prompts = config.problems.prompts
    tokenizer = load_tokenizer(student_folder, prompts)
    check_prompts(tokenizer, prompts)
    for shape, folder in models:
        if shape.vocab_size < len(tokenizer):
            raise UserError(
                f"{folder}: the head has {shape.vocab_size} rows for the tokenizer's {len(tokenizer)} "
                "entries; weights and tokenizer are not of the same model"
            )
    lists = read_problem_lists(config.problems)
    train = _problem_set(lists.train, config, tokenizer)
    test, forgetting = (
        _problem_set(problems, config, tokenizer) if problems else None
        for problems in (lists.test, lists.forgetting)
    )
    inputs = Inputs(
        train,
        test,
        forgetting,
        tokenizer,
        student,
        teacher,
        student_folder,
        teacher_folder,
        teacher_prompts=[
            make_teacher_prompts(
                f"stages.{number}.teacher_context",
                context_template(stage),
                tokenizer,
                prompts,
                train.by_id,
                train.prompts,
            )
            for number, stage in enumerate(config.stages)
        ],
        dropped=lists.dropped,
    )
    _check_lengths(config, inputs)
    return inputs


def check_layouts(
    config: Config, student: ModelShape, teacher: ModelShape, student_folder: Path, teacher_folder: Path
) -> None:
    """Raise UserError when the configured layout can't cut one of the models; of them only the shapes are
    needed."""
    parallel, own = config.parallel, config.teacher
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    check_layout(student, student_folder, tp, pp, parallel.virtual_pipeline_model_parallel_size)
    has_own = own.tensor_model_parallel_size or own.pipeline_model_parallel_size
    check_layout(
        teacher,
        teacher_folder,
        own.tensor_model_parallel_size or tp,
        own.pipeline_model_parallel_size or pp,
        section="teacher" if has_own else "parallel",
    )


def _problem_set(
    problems: Sequence[Problem], config: Config, tokenizer: PreTrainedTokenizerBase
) -> ProblemSet:
    return ProblemSet(
        by_id={problem.id: problem for problem in problems},
        prompts={
            problem.id: prompt_token_ids(tokenizer, problem, config.problems.prompts) for problem in problems
        },
    )


def _check_lengths(config: Config, inputs: Inputs) -> None:
    """No prompt with its answer may be longer than what either model was made for."""
    context = min(
        shape.max_position_embeddings for shape in (inputs.student, inputs.teacher) if shape is not None
    )
    evaluation_tokens = config.evaluation.max_new_tokens or config.rollout.max_new_tokens
    for problems, key, new_tokens in (
        (inputs.train, "rollout.max_new_tokens", config.rollout.max_new_tokens),
        (inputs.test, "evaluation.max_new_tokens", evaluation_tokens),
        (inputs.forgetting, "evaluation.max_new_tokens", evaluation_tokens),
    ):
        if problems is None:
            continue
        lengths = {problem_id: len(ids) for problem_id, ids in problems.prompts.items()}
        packed = config.training.pack_length if problems is inputs.train else None
        _check_longest(lengths, "prompt", key, new_tokens, context, packed)
    new_tokens = config.rollout.max_new_tokens
    for of_stage in inputs.teacher_prompts:
        if of_stage.template:
            lengths = {name: of_stage.longest(name, new_tokens) for name in inputs.train.prompts}
            what = f"teacher's prompt ({of_stage.where})"
            packed = config.training.pack_length
            _check_longest(lengths, what, "rollout.max_new_tokens", new_tokens, context, packed)


def _check_longest(
    lengths: Mapping[str, int], what: str, key: str, new_tokens: int, context: int, packed: int | None
) -> None:
    """Raise UserError where the longest prompt leaves no room for `new_tokens`."""
    longest = max(lengths, key=lambda problem_id: lengths[problem_id])
    length = lengths[longest]
    has = f"problem {longest} has a {what} of {length} tokens; with {key}={new_tokens} that is more than"
    if length + new_tokens > context:
        raise UserError(
            f"{has} the models' context (max_position_embeddings={context}): lower {key} or leave out the "
            "problem"
        )
    if packed is not None and length + new_tokens > packed:
        raise UserError(f"{has} a packed row (training.pack_length={packed}): raise it or lower {key}")
