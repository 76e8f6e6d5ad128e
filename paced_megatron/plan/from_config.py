"""From a run's configuration to what is planned. Of the models only config.json is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paced_megatron.config import Config, StageConfig
from paced_megatron.config.teacher_rules import MOVING
from paced_megatron.inputs import check_layouts
from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.models.hub import config_folder
from paced_megatron.plan.memory import memory_by_stage
from paced_megatron.plan.rollouts import Rollouts
from paced_megatron.plan.work import Layout, Work


@dataclass(frozen=True)
class Texts:
    """How long the texts are taken to be: the longest decide what memory a step takes."""

    prompt_tokens: int
    response_tokens: int


def planned_work(config: Config, texts: Texts, device: str) -> Work:
    """The most demanding step of the run.

    Raises:
        UserError: a model that is not supported, or a layout that can't cut it.
    """
    works = planned_works(config, texts, device)
    return max(works, key=lambda work: max(stage.peak for stage in memory_by_stage(work)))


def planned_works(config: Config, texts: Texts, device: str) -> list[Work]:
    """A step of each of the run's stages. Raises as `planned_work`."""
    return [_work_of(config, texts, device, stage) for stage in config.stages]


def _work_of(config: Config, texts: Texts, device: str, stage: StageConfig) -> Work:
    """A step of one stage."""
    student, student_path = _shape(config.student.path), config.student.path
    other = config.teacher.path if stage.teacher == "model" else None
    teacher, teacher_path = (student, student_path) if other is None else (_shape(other), other)
    check_layouts(config, student, teacher, student_path, teacher_path)
    layout = planned_layout(config)
    return Work(
        student=student,
        teacher=teacher,
        layout=layout,
        params_dtype=config.training.params_dtype,
        micro_batch_size=config.training.micro_batch_size,
        global_batch_size=config.training.global_batch_size,
        prompt_tokens=texts.prompt_tokens,
        response_tokens=texts.response_tokens,
        pack_length=config.training.pack_length,
        texts_per_problem=(
            config.rollout.attempts if stage.text == "rollouts" and stage.train_on == "all" else 1
        ),
        teacher_kind=stage.teacher,
        # A teacher that is an average follows the student after each step: it sleeps during rollouts only.
        teacher_offload=config.teacher.offload and stage.teacher not in MOVING,
        offload=config.teacher.offload,
        teacher_cache=config.teacher.cache and stage.text == "responses",
        loss_workspace_mb=config.training.loss_workspace_mb,
        loss_kernels=config.training.loss_kernels,
        divergence=stage.divergence,
        device=device,
        fused=device == "cuda",
        token_statistics=config.training.token_weights != "none",
        rollouts=_rollouts(config, texts, device, stage) if config.rollout.engine == "embedded" else None,
    )


def _rollouts(config: Config, texts: Texts, device: str, stage: StageConfig) -> Rollouts:
    """The embedded engine, before, in and after a stage."""
    evaluation, teacher = config.evaluation, config.teacher.path
    attempt = texts.prompt_tokens + config.rollout.max_new_tokens
    evaluated = texts.prompt_tokens + (evaluation.max_new_tokens or config.rollout.max_new_tokens)
    is_evaluated = config.problems.test is not None
    in_evaluation = [evaluated] * is_evaluated + [attempt] * evaluation.pass_rates_after
    on_the_way = [evaluated] * (is_evaluated and evaluation.every > 0) + [attempt] * (
        stage.text == "rollouts"
    )
    return Rollouts(
        batch_size=config.rollout.batch_size,
        text_tokens=attempt,
        element=4 if device == "cpu" else 2,
        responds=_shape(teacher) if teacher is not None and stage.text == "responses" else None,
        evaluated_tokens=max(in_evaluation, default=None),
        between_steps=max(on_the_way, default=None),
    )


def _shape(path: Path) -> ModelShape:
    return model_shape(config_folder(path))


def planned_layout(config: Config) -> Layout:
    """The configuration's layout."""
    parallel, teacher = config.parallel, config.teacher
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    return Layout(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        data_parallel_size=parallel.data_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_model_parallel_size,
        sequence_parallel=parallel.sequence_parallel,
        use_distributed_optimizer=parallel.use_distributed_optimizer,
        recompute_granularity=config.training.recompute_granularity,
        recompute_num_layers=config.training.recompute_num_layers,
        teacher_tensor_model_parallel_size=teacher.tensor_model_parallel_size or tp,
        teacher_pipeline_model_parallel_size=teacher.pipeline_model_parallel_size or pp,
        teacher_own_copies=teacher.data_parallel_size if teacher.own_ranks else 0,
    )
