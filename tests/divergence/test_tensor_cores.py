"""bf16 products with float32 results, as on a GPU. A CPU has no such product, so that here each factor is
widened for it: what a GPU rounds to bf16, the gradient of the logits, is rounded all the same."""

from __future__ import annotations

import pytest
import torch

from divergence.cases import ONE_EACH, TOKENS, VARIANTS, Spec, case_of, run_one
from divergence.conformance import assert_conforms, reference_of
from paced_megatron.divergence import matmul
from paced_megatron.divergence.matmul import TensorCores, aligned_rows


@pytest.mark.parametrize("forward_kl", [1.0, 0.0066, 0.0007])
@pytest.mark.parametrize(("divergence", "parameter"), VARIANTS)
def test_the_gradient_of_bf16_models_is_right_to_its_rounding_at_any_kl(
    divergence: str, parameter: float | None, forward_kl: float
) -> None:
    """0.4 % of its size, in chunks, at two temperatures, the head's in autograd's hands and in main_grad."""
    for temperature, chunk, main_grad in [(1.0, 7, False), (2.5, TOKENS, True)]:
        spec = Spec(
            divergence, parameter, "bfloat16", forward_kl=forward_kl, temperature=temperature,
            chunk=chunk, main_grad=main_grad, tensor_cores=True,
        )  # fmt: skip
        assert_conforms(spec, [run_one(spec, 0, 1, None)])


def test_the_bar_is_one_that_bf16_logits_do_not_pass() -> None:
    """Rounding the logits, as trainers do that leave the head in bf16, is what float32 results are for."""
    spec = Spec(dtype="bfloat16", forward_kl=0.0066, tensor_cores=True)
    case, (_, expected, _) = case_of(spec), reference_of(spec)
    student = (case.student_hidden @ case.student_head.t()).float()
    teacher = (case.teacher_hidden @ case.teacher_head.t()).float()
    logit_gradient = case.weights.float().unsqueeze(1) * (student.softmax(-1) - teacher.softmax(-1))
    error = ((logit_gradient @ case.student_head.float()).double() - expected).norm() / expected.norm()
    assert error > 0.05


def test_no_head_and_no_hidden_state_is_made_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes into the products is bf16 on both sides, what comes out float32."""
    seen = []
    plain_multiply, plain_add = matmul.multiply, matmul.add_product

    def multiply(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        seen.append((left.dtype, right.dtype, out.dtype))
        return plain_multiply(left, right, out=out)

    def add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
        seen.append((left.dtype, right.dtype, total.dtype))
        plain_add(total, left, right)

    monkeypatch.setattr(matmul, "multiply", multiply)
    monkeypatch.setattr(matmul, "add_product", add_product)
    run_one(Spec(dtype="bfloat16", chunk=8, tensor_cores=True), 0, 1, None)
    assert len(seen) == 3 * 4  # of each of three chunks two to logits and two back
    assert set(seen) == {(torch.bfloat16, torch.bfloat16, torch.float32)}


@pytest.mark.parametrize(("divergence", "parameter"), ONE_EACH)
def test_a_zero_gradient_stays_zero(divergence: str, parameter: float | None) -> None:
    spec = Spec(divergence, parameter, "bfloat16", kind="equal", tensor_cores=True)
    outcome = run_one(spec, 0, 1, None)
    assert outcome.hidden_grad.abs().max() < 1e-6 and outcome.result.divergence.abs().max() < 2e-6


def test_on_a_gpu_rows_of_logits_begin_where_tensor_cores_want_them() -> None:
    """16 bytes of float32 or bf16: a row of 203 numbers would begin at any 4."""
    like = torch.empty(1, device="meta")
    logits = aligned_rows(like, 2, 7, 203, dtype=torch.float32)
    assert logits.shape == (2, 7, 203) and logits.stride() == (7 * 256, 256, 1)
    gradient = TensorCores(1.0).gradient_buffer(logits[0])
    assert gradient is not None and gradient.stride() == (256, 1) and gradient.dtype == torch.bfloat16
    assert aligned_rows(torch.empty(1), 7, 203, dtype=torch.float32).stride() == (203, 1)
