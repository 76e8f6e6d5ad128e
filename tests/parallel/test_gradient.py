"""The step's gradient, parameter by parameter, against transformers and the reference divergence in
float64. Numbers in names are those of METHOD.md, section 6."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from paced_megatron.config import ParallelConfig, TrainingConfig
from paced_megatron.training.examples import Example
from parallel.reference_step import reference_step, scale_logits
from parallel.step_ranks import Case, step_gradients
from tiny_models import make_tiny_qwen3

pytestmark = pytest.mark.parallel

BATCH_SIZE = 8  # more than there are texts: the denominator is the configured number, not the present one


def _texts() -> list[tuple[list[int], list[int], float]]:
    """Prompts and responses of different lengths, one of them a single token, with weights of which one is
    0."""
    generator = torch.Generator().manual_seed(11)
    lengths_and_weights = [(5, 7, 1.3), (9, 3, 0.4), (2, 1, 2.1), (7, 11, 0.0), (4, 6, 0.7)]
    return [
        (
            torch.randint(0, 260, (prompt,), generator=generator).tolist(),
            torch.randint(0, 260, (response,), generator=generator).tolist(),
            weight,
        )
        for prompt, response, weight in lengths_and_weights
    ]


def _examples(texts) -> list[Example]:
    return [
        Example(f"p{i}", tuple(prompt), tuple(prompt), tuple(response), weight)
        for i, (prompt, response, weight) in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Called with a target KL, gives a student and a teacher folder whose mean divergence on the texts is
    that KL.

    The teacher has another width, depth and number of heads. Both models' logits are scaled by one
    factor until the KL is met.
    """

    @cache
    def at_kl(target: float | None, tied: bool = False) -> tuple[Path, Path]:
        root = tmp_path_factory.mktemp("models")
        student = make_tiny_qwen3(
            root / "student", seed=1, num_attention_heads=6, head_dim=10, tie_word_embeddings=tied
        )
        teacher = make_tiny_qwen3(
            root / "teacher",
            seed=2,
            hidden_size=36,
            intermediate_size=56,
            num_hidden_layers=2,
            num_attention_heads=4,
            head_dim=14,
        )
        for _ in range(6 if target else 0):
            kl = reference_step(student, teacher, _texts(), divergence="forward_kl", denominator=1)[2]
            for folder in (student, teacher):  # KL grows with the square of the logits' size
                scale_logits(folder, (target / kl) ** 0.5)
        return student, teacher

    return at_kl


def relative_error(gradient: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> float:
    """The largest error of any parameter's gradient, relative to that parameter's gradient."""
    assert gradient.keys() == truth.keys()
    return max(float((gradient[name].double() - truth[name]).norm() / truth[name].norm()) for name in truth)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
@pytest.mark.parametrize("kl", [1.0, 0.0066])
def test_gradient_at_tp1_and_tp2_is_that_of_transformers_in_float64(pool, folders, divergence, kl):
    student, teacher = folders(kl)
    texts = _texts()
    loss, truth, mean_divergence = reference_step(
        student, teacher, texts, divergence=divergence, denominator=BATCH_SIZE
    )
    if divergence == "forward_kl":
        assert mean_divergence == pytest.approx(kl, rel=0.02)
    _, stock, _ = reference_step(
        student, teacher, texts, divergence=divergence, denominator=BATCH_SIZE, exact=False
    )
    gradients = {}
    for tp in (1, 2):
        case = Case(ParallelConfig(tensor_model_parallel_size=tp), divergence=divergence)
        work = (student, teacher, _examples(texts), case)
        (first, *others) = (found[0] for found in pool.run(step_gradients, tp, [work]))
        sums, gradients[tp] = first.sums, first.gradient
        assert sums.loss == pytest.approx(loss, rel=1e-9)
        assert sums.tokens == sum(len(response) for _, response, _ in texts)
        assert sums.divergence / sums.tokens == pytest.approx(mean_divergence, rel=1e-9)
        assert all(other.sums == sums and other.gradient is None for other in others)
        assert relative_error(gradients[tp], truth) <= 1e-9
    assert relative_error(gradients[2], gradients[1]) <= 1e-9
    assert relative_error(gradients[1], stock) <= 1e-4


def _gradient(
    pool, folders: tuple[Path, Path], texts, world_size: int = 1, *, tp: int = 1, training=None, **case
):
    parallel = ParallelConfig(tensor_model_parallel_size=tp)
    training = TrainingConfig(**{"micro_batch_size": 2, "global_batch_size": BATCH_SIZE} | (training or {}))
    work = (*folders, _examples(texts), Case(parallel, training, **case))
    first = pool.run(step_gradients, world_size, [work])[0][0]
    return first.sums, first.gradient


def test_a_student_that_is_its_teacher_has_no_loss_and_no_gradient(pool, folders):
    student, teacher = folders(None)
    scale = max(
        value.norm().item()
        for value in _gradient(pool, (student, teacher), _texts(), dtype=torch.float32)[1].values()
    )
    for tp in (1, 2):
        for divergence in ("forward_kl", "reverse_kl"):
            sums, gradient = _gradient(
                pool,
                (student, student),
                _texts(),
                tp,
                tp=tp,
                divergence=divergence,
                dtype=torch.float32,
            )
            assert abs(sums.loss) <= 1e-6
            assert max(value.norm().item() for value in gradient.values()) <= 1e-5 * scale


def test_7_another_micro_batch_split_or_data_parallel_size_gives_the_same_gradient(pool, folders):
    models = folders(None)
    loss, truth = _gradient(pool, models, _texts(), training={"micro_batch_size": 5})
    for settings in (
        {"training": {"micro_batch_size": 1}},
        {"training": {"micro_batch_size": 3}},
        {"world_size": 2},
        {"world_size": 4},
    ):
        sums, gradient = _gradient(pool, models, _texts(), **settings)
        assert sums.loss == pytest.approx(loss.loss, rel=1e-12)
        assert sums.tokens == loss.tokens
        assert relative_error(gradient, truth) <= 1e-10


def test_a_rank_without_a_text_takes_part_and_changes_nothing(pool, folders):
    models, texts = folders(None), _texts()[:2]
    _, truth = _gradient(pool, models, texts)
    _, gradient = _gradient(pool, models, texts, world_size=4)
    assert relative_error(gradient, truth) <= 1e-10


def test_8_a_text_of_weight_zero_can_be_left_out(pool, folders):
    models, texts = folders(None), _texts()
    _, truth = _gradient(pool, models, texts)
    _, gradient = _gradient(pool, models, [text for text in texts if text[2] != 0])
    assert relative_error(gradient, truth) <= 1e-10


def test_the_mean_over_tokens_divides_by_the_tokens_of_all_texts_also_those_of_weight_zero(pool, folders):
    models, texts = folders(None), _texts()
    tokens = sum(len(response) for _, response, _ in texts)
    loss, truth, _ = reference_step(
        *models, texts, divergence="forward_kl", denominator=tokens, per_token_mean=False
    )
    sums, gradient = _gradient(pool, models, texts, training={"normalization": "tokens"})
    assert sums.loss == pytest.approx(loss, rel=1e-9)
    assert relative_error(gradient, truth) <= 1e-9


def test_the_mean_over_tokens_counts_those_of_problems_left_out_at_every_split_and_data_parallel_size(
    pool, folders
):
    models, texts = folders(None), _texts()
    tokens = sum(len(response) for _, response, _ in texts)
    loss, truth, _ = reference_step(
        *models, texts, divergence="forward_kl", denominator=tokens, per_token_mean=False
    )
    kept = [text for text in texts if text[2] != 0]
    assert len(kept) < len(texts)
    for micro_batch_size, world_size in ((1, 1), (3, 1), (2, 2)):
        training = {"normalization": "tokens", "micro_batch_size": micro_batch_size}
        sums, gradient = _gradient(pool, models, kept, world_size, training=training, tokens=float(tokens))
        assert sums.loss == pytest.approx(loss, rel=1e-9)
        assert relative_error(gradient, truth) <= 1e-9


def test_the_temperature_and_a_tied_head_reach_the_gradient_at_tp2(pool, folders):
    models, texts = folders(None, tied=True), _texts()
    _, truth, _ = reference_step(
        *models, texts, divergence="reverse_kl", denominator=BATCH_SIZE, temperature=1.7
    )
    _, gradient = _gradient(
        pool,
        models,
        texts,
        world_size=2,
        tp=2,
        divergence="reverse_kl",
        training={"temperature": 1.7},
    )
    assert relative_error(gradient, truth) <= 1e-9


def test_a_divergence_with_a_parameter_gives_its_gradient_through_the_whole_step_at_tp2(pool, folders):
    models, texts = folders(None), _texts()
    loss, truth, _ = reference_step(*models, texts, divergence="jsd", parameter=0.1, denominator=BATCH_SIZE)
    sums, gradient = _gradient(pool, models, texts, world_size=2, tp=2, divergence="jsd", parameter=0.1)
    assert sums.loss == pytest.approx(loss, rel=1e-9)
    assert relative_error(gradient, truth) <= 1e-9
