"""The Triton kernels against torch's operations and the float64 reference: interpreted where there is no GPU
(tests/conftest.py says so to Triton), compiled where there is one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from divergence.cases import ONE_EACH
from paced_megatron.divergence import DIVERGENCES, weighted_divergence
from paced_megatron.divergence.reference import REFERENCES
from paced_megatron.divergence.statistics import combine
from paced_megatron.divergence.table import DIVERGENCES as TABLE
from paced_megatron.divergence.torch_part import TorchPart, VocabularyPart
from paced_megatron.divergence.vocabulary import VocabularyShard

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WITH_KERNELS = [(name, parameter) for name, parameter in ONE_EACH if DIVERGENCES[name].kernels]
TEMPERATURE = 1.7


def part_of(
    kind: str, divergence: str, parameter: float | None, columns: int, temperature: float = TEMPERATURE
) -> VocabularyPart:
    shard = VocabularyShard.of(None, max(columns, 1), max(columns, 1))
    if kind == "torch":
        return TorchPart(TABLE[divergence], parameter, shard, temperature)
    from paced_megatron.divergence.kernels.part import TritonPart

    return TritonPart(divergence, parameter, shard, temperature)


def logits_of(rows: int, columns: int, *, longer: int = 0, strength: float = 1.0, seed: int = 3) -> Tensor:
    """[2, rows, columns] in rows that are longer: the teacher's are the student's and a disturbance. The
    longer part is full of what no softmax survives."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, rows, columns + longer, generator=random)
    logits[0] *= 3.0
    logits[1] = logits[0] + strength * logits[1]
    logits[..., columns:] = 1e3
    return logits.to(DEVICE)[..., :columns]


def run(
    part: VocabularyPart, logits: Tensor, weights: Tensor, labels: Tensor | None, out: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(sums, value, gradient) of one process; out None: into the student's logits, of a copy whose rows are
    as long."""
    base = logits._base if logits._base is not None else logits
    logits = base.clone()[..., : logits.shape[-1]]
    measured = part.measure(logits[0], logits[1], labels)
    result = measured.evaluate(combine(measured.sums.unsqueeze(0)))
    out = logits[0] if out is None else out
    result.write_gradient(weights, out)
    return measured.sums, result.value, out


def in_float64(
    divergence: str,
    parameter: float | None,
    logits: Tensor,
    weights: Tensor,
    temperature: float = TEMPERATURE,
) -> tuple[Tensor, Tensor]:
    """(value, gradient with respect to the student's logits / temperature) by autograd."""
    scaled = (logits[0].double() / temperature).requires_grad_()
    log_s, log_t = scaled.log_softmax(-1), (logits[1].double() / temperature).log_softmax(-1)
    value = REFERENCES[divergence](log_s, log_t, 0.5 if parameter is None else parameter)
    (weights.double() * value).sum().backward()
    assert scaled.grad is not None
    return value.detach(), scaled.grad


def error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.double() - theirs).norm() / theirs.norm()).item()


# One block and less, just more than one, several and a rest that is no multiple of anything.
@pytest.mark.parametrize("columns", [1, 203, 1024, 1025, 2999])
@pytest.mark.parametrize(("divergence", "parameter"), WITH_KERNELS)
def test_sums_values_and_gradient_are_those_of_torch(
    divergence: str, parameter: float | None, columns: int
) -> None:
    """In rows of a longer buffer, with a negative weight, a zero one, and labels outside the vocabulary."""
    torch.manual_seed(4)
    logits = logits_of(3, columns, longer=5)
    weights = torch.tensor([0.7, -1.3, 0.0], device=DEVICE)
    labels = torch.tensor([columns - 1, 0, columns], device=DEVICE)
    ours = run(part_of("triton", divergence, parameter, columns), logits, weights, labels)
    theirs = run(part_of("torch", divergence, parameter, columns), logits, weights, labels)
    torch.testing.assert_close(ours[0], theirs[0], rtol=3e-6, atol=2e-5, equal_nan=True)
    assert ours[0][2, [4, 9]].isnan().all() and ours[0][:2].isfinite().all()
    torch.testing.assert_close(ours[1], theirs[1], rtol=3e-6, atol=3e-6)
    value, gradient = in_float64(divergence, parameter, logits, weights)
    torch.testing.assert_close(ours[1].double(), value, rtol=3e-6, atol=3e-6)
    if columns > 1:
        assert error(ours[2], gradient) < 2e-5
    assert (ours[2][2] == 0).all()


@pytest.mark.parametrize(("divergence", "parameter"), WITH_KERNELS)
def test_near_the_teacher_the_gradient_is_as_exact_as_torchs_at_qwens_vocabulary(
    divergence: str, parameter: float | None
) -> None:
    """At 0.0007 nats per token, where probabilities cancel to a hundredth; against float64 of the logits."""
    columns = 151_936
    logits, weights = logits_of(1, columns, strength=0.038), torch.ones(1, device=DEVICE)
    forward_kl, _ = in_float64("forward_kl", None, logits, weights, 1.0)
    assert 0.0006 < forward_kl.item() < 0.0008
    _, gradient = in_float64(divergence, parameter, logits, weights, 1.0)
    ours, theirs = (
        error(run(part_of(kind, divergence, parameter, columns, 1.0), logits, weights, None)[2], gradient)
        for kind in ("triton", "torch")
    )
    assert ours < max(3 * theirs, 2e-5), f"{ours:.1e}, torch has {theirs:.1e}"


@pytest.mark.parametrize(("divergence", "parameter"), WITH_KERNELS)
def test_equal_models_have_a_divergence_and_a_gradient_of_zero(
    divergence: str, parameter: float | None
) -> None:
    logits = logits_of(3, 1500, strength=0.0)
    _, value, gradient = run(
        part_of("triton", divergence, parameter, 1500), logits, torch.ones(3, device=DEVICE), None
    )
    assert value.abs().max() < 1e-6 and gradient.abs().max() < 1e-7


@pytest.mark.parametrize(("divergence", "parameter"), WITH_KERNELS)
def test_logits_of_ten_thousand_either_way_stay_finite(divergence: str, parameter: float | None) -> None:
    """The highest come late in one row and early in the other; to the models other ends are high in the
    third."""
    columns = 2300
    logits = logits_of(3, columns)
    logits[:, 0] += torch.linspace(-1e4, 1e4, columns, device=DEVICE).round()
    logits[:, 1] += torch.linspace(1e4, -1e4, columns, device=DEVICE).round()
    logits[0, 2] += torch.linspace(-1e4, 1e4, columns, device=DEVICE).round()
    logits[1, 2] += torch.linspace(1e4, -1e4, columns, device=DEVICE).round()
    weights = torch.tensor([1.0, -2.0, 0.5], device=DEVICE)
    sums, value, gradient = run(part_of("triton", divergence, parameter, columns), logits, weights, None)
    expected, expected_gradient = in_float64(divergence, parameter, logits, weights)
    assert sums.isfinite().all()
    torch.testing.assert_close(value.double(), expected, rtol=3e-6, atol=1e-3)
    torchs = run(part_of("torch", divergence, parameter, columns), logits, weights, None)[2]
    # Of a gap of 1e4 float32 leaves 1e-3, which is what the reverse KL's gradient is made of: torch's too.
    assert error(gradient, expected_gradient) < max(1e-3, 1.5 * error(torchs, expected_gradient))


def test_a_gradient_in_bf16_is_the_float32_one_rounded_once() -> None:
    logits, weights = logits_of(3, 1300, longer=4), torch.tensor([0.7, -1.3, 0.1], device=DEVICE)
    exact = run(part_of("triton", "forward_kl", None, 1300), logits, weights, None)[2]
    buffer = torch.full((3, 1304), 7.0, dtype=torch.bfloat16, device=DEVICE)
    run(part_of("triton", "forward_kl", None, 1300), logits, weights, None, buffer[:, :1300])
    # Triton's interpreter cuts numbers off where a GPU rounds them: one bf16 step instead of half a one.
    step = 2.0**-8 if DEVICE == "cuda" else 2.0**-7
    torch.testing.assert_close(buffer[:, :1300].float(), exact, rtol=1.01 * step, atol=0.0)
    assert (buffer[:, 1300:] == 7.0).all(), "it wrote beyond the row"


@pytest.mark.parametrize(("divergence", "parameter"), WITH_KERNELS)
@pytest.mark.parametrize(("rows", "columns"), [(2, 0), (0, 50)])
def test_a_shard_of_padding_and_a_chunk_of_nothing_need_no_kernel(
    divergence: str, parameter: float | None, rows: int, columns: int
) -> None:
    part = part_of("triton", divergence, parameter, columns)
    logits, weights = torch.zeros(2, rows, columns, device=DEVICE), torch.ones(rows, device=DEVICE)
    sums, _, gradient = run(part, logits, weights, torch.zeros(rows, dtype=torch.int64, device=DEVICE))
    assert sums.shape == (rows, 10) and gradient.shape == (rows, columns)
    assert (sums[:, [0, 5]] == -1e30).all() and (sums[:, [1, 2, 3, 6, 7, 8]] == 0).all()


def test_the_whole_loss_is_torchs() -> None:
    """Through the public door, in chunks, with everything on: temperature, labels, indices, a padded head."""
    random = torch.Generator().manual_seed(6)
    shapes = [(7, 12), (1100, 12), (7, 20), (1100, 20), (5,)]
    inputs = [torch.randn(*shape, generator=random).to(DEVICE) for shape in shapes]
    labels = torch.randint(1090, (5,), generator=random).to(DEVICE)
    for divergence, parameter in WITH_KERNELS:
        got = {}
        for kernels in ("torch", "triton"):
            hidden, head = (x.clone().requires_grad_() for x in inputs[:2])
            result = weighted_divergence(
                hidden, head, *inputs[2:], divergence=divergence, parameter=parameter, temperature=2.5,
                vocab_size=1090, labels=labels, token_indices=torch.tensor([6, 0, 2, 5, 1]),
                compute_grad=True, workspace_mb=0.03, kernels=kernels,
            )  # fmt: skip
            result.loss.backward()
            got[kernels] = [hidden.grad, head.grad, *(x.detach() for x in vars(result).values())]
        for ours, theirs in zip(got["triton"], got["torch"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6)
