"""The divergence's benchmark for one GPU: its dry run on a CPU leaves a whole table, its variants compute
what their rows say, and what fails is a row. How fast anything was is no test's business.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.divergence_variants import Gradients, Job, Models, gradients
from benchmarks.gpu import divergence as benchmark
from benchmarks.gpu.clock import Clock, TookTooLong, at_most
from benchmarks.gpu.divergence_accuracy import BETA, Reference
from benchmarks.gpu.divergence_record import Record, measure_size, rows
from benchmarks.gpu.divergence_variants import CASES, Case, bf16_floor
from benchmarks.gpu.roofline import Size
from paced_megatron.divergence.reference import reference_divergence

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["date", "commit", "device", "driver", "torch", "triton", "liger", "trl", "timing"]
COLUMNS += ["N", "H_s", "H_t", "V", "variant", "divergence"]
COLUMNS += ["median_ms", "min_ms", "over_floor", "share_of_matmul_peak", "tflops"]
COLUMNS += ["peak_mb", "grad_rel_error", "grad_rel_error_close", "repetitions", "matmul_peak_tflops", "note"]
UNCOMPILED = list(dict.fromkeys(case.variant for case in CASES if not case.compiles))
SIZE = Size(tokens=11, student=6, teacher=9, vocabulary=37)


def run_it(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu.divergence", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=240, capture_output=True, text=True)


def models(noise: float = 0.5) -> Models:
    """Float32, seed 5 (`Models.of`), all dimensions different."""
    wider_by = SIZE.teacher - SIZE.student
    return Models.of(SIZE.vocabulary, SIZE.tokens, SIZE.student, "cpu", noise=noise, wider_by=wider_by)


def exact(of: Models, divergence: str) -> Gradients:
    inputs = [tensor.detach().double() for tensor in vars(of).values()]
    inputs[0].requires_grad_()
    inputs[1].requires_grad_()
    result = reference_divergence(*inputs, divergence=divergence, parameter=BETA, vocab_size=SIZE.vocabulary)
    hidden, head = torch.autograd.grad(result.loss, inputs[:2])
    return hidden, head


def measured(*cases: Case, clock: Clock | None = None) -> tuple[list[dict[str, str]], bool]:
    records, lost = measure_size(
        SIZE,
        cases,
        clock or Clock("cpu"),
        dtype=torch.float32,
        checked_tokens=5,
        repetitions=3,
        least=2,
        until=time.monotonic() + 60,
    )
    return rows(records, SIZE, {"device": "cpu"}, peak=1e9), lost


def failing(error: BaseException) -> Callable[[Models, str], Job]:
    def make(of: Models, divergence: str) -> Job:
        raise error

    return make


def exact_in_float32(of: Models, divergence: str) -> Job:
    inputs = [of.student_hidden, of.student_head, of.teacher_hidden, of.teacher_head, of.weights]
    return lambda: gradients(
        of, reference_divergence(*inputs, divergence=divergence, vocab_size=SIZE.vocabulary).loss
    )


FLOOR = Case("floor", "none", bf16_floor)
GOOD = Case("good", "forward_kl", exact_in_float32)


def test_a_dry_run_adds_a_row_per_case_and_size_each_with_its_error_or_a_reason(tmp_path: Path) -> None:
    """Seeds 1, 5 and 7 are its own. Compiled variants take too long here; torch.compile is compiled in the
    benchmark for the CPU."""
    out = tmp_path / "divergence.csv"
    out.write_text(",".join(COLUMNS) + "\n" + "earlier" + "," * (len(COLUMNS) - 1) + "\n")
    done = run_it("--dry-run", "--out", str(out), "--variants", *UNCOMPILED)
    assert done.returncode == 0, done.stderr
    assert (
        "of a dry run on a CPU, which say nothing" in done.stdout and "predicted, not measured" in done.stdout
    )

    with out.open(newline="") as file:
        earlier, *made = csv.DictReader(file)
    assert earlier["date"] == "earlier"
    cases = [(case.variant, case.divergence) for case in CASES if not case.compiles]
    assert [(row["variant"], row["divergence"]) for row in made] == 2 * cases
    assert {(row["H_s"], row["H_t"]) for row in made} == {("16", "16"), ("16", "24")}
    for row in made:
        assert list(row) == COLUMNS
        assert all(row[name] for name in ("date", "commit", "device", "torch", "liger", "trl"))
        assert row["matmul_peak_tflops"]
        assert row["driver"] == "none" and row["timing"] == "wall clock"
        check_row(row)


def check_row(row: dict[str, str]) -> None:
    if row["note"]:
        liger = row["variant"].startswith("liger") and (
            "liger_kernel is not installed" in row["note"] or "need a GPU" in row["note"]
        )
        trl = row["variant"] == "trl_chunked" and "trl is not installed" in row["note"]
        assert liger or trl, row
        assert row["repetitions"] == "0" and not row["median_ms"] and not row["grad_rel_error"]
        return
    assert row["repetitions"] == "2" and row["peak_mb"]
    assert all(float(row[name]) > 0 for name in ("median_ms", "min_ms", "over_floor", "tflops"))
    if row["variant"] == "floor":
        assert row["over_floor"] == "1.000" and not row["grad_rel_error"]
    elif row["variant"].startswith(("ours", "torch_float32", "trl")):
        # bf16 gradients, of logits that were not rounded
        assert float(row["grad_rel_error"]) < 0.005 and float(row["grad_rel_error_close"]) < 0.005
    else:  # bf16 logits
        assert 0.005 < float(row["grad_rel_error"]) < 0.05 < float(row["grad_rel_error_close"]) < 0.6


def test_without_a_gpu_only_a_dry_run_is_possible_and_a_file_of_another_form_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is said to be no GPU, so that it is so on a machine that has one too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "divergence.csv"
    out.write_text("seconds\n1.5\n")
    for more, said in (
        (["--sizes", "8192x1024"], "there is no GPU here: --dry-run"),
        (["--dry-run"], "other columns"),
        (["--dry-run", "--sizes", "8192x"], "--sizes: 8192x is not N x H_s"),
    ):
        monkeypatch.setattr(sys, "argv", ["divergence", "--out", str(out), *more])
        with pytest.raises(SystemExit) as refused:
            benchmark.main()
        assert refused.value.code == 2 and said in capsys.readouterr().err
    assert out.read_text() == "seconds\n1.5\n"


def has_gradients_here(case: Case) -> bool:
    """TRL's and Liger's in torch where they are installed, Liger's Triton kernels where they are interpreted
    too."""
    if case.variant.startswith("trl"):
        return importlib.util.find_spec("trl") is not None
    if not case.variant.startswith("liger"):
        return case.variant != "floor" and not case.compiles
    in_triton = not case.variant.startswith("liger_chunked")
    if case.compiles or (in_triton and os.environ.get("TRITON_INTERPRET") != "1"):
        return False
    return importlib.util.find_spec("liger_kernel") is not None


@pytest.mark.parametrize(
    "case", list(filter(has_gradients_here, CASES)), ids=lambda case: f"{case.variant}-{case.divergence}"
)
def test_a_variant_has_the_gradients_of_the_divergence_that_its_row_names(case: Case) -> None:
    """In float32, where none has a rounding to hide behind; with a teacher that is wider than the student."""
    of = models()
    made = case.make(of, case.divergence)()
    for gradient, right in zip(made, exact(of, case.divergence), strict=True):
        assert (gradient.double() - right).norm() < 1e-5 * right.norm()


def test_the_reference_is_the_float64_gradient_of_the_rows_drawn() -> None:
    of = models()
    reference = Reference.of(of, ["forward_kl", "reverse_kl", "jsd"], tokens=5)
    assert reference.rows.shape == (5,) and reference.rows.unique().shape == (5,)
    for divergence in ("forward_kl", "reverse_kl", "jsd"):
        hidden, _ = exact(of, divergence)
        assert reference.error(hidden, divergence) < 1e-12
        assert reference.error(hidden * 1.25, divergence) == pytest.approx(0.25)
        assert torch.isnan(torch.tensor(reference.error(hidden * torch.nan, divergence)))


def test_a_close_teacher_is_near_and_a_wider_one_as_near_as_one_of_equal_width() -> None:
    """Nats per token, 4.5 noise**2 by `Models.of`'s account; logits of 400 tokens and 500 ids, seed 5."""
    for noise, wider_by in ((0.5, 0), (0.5, 24), (0.038, 0), (0.038, 24)):
        of = Models.of(500, 400, 64, "cpu", noise=noise, wider_by=wider_by)
        inputs = [tensor.detach() for tensor in vars(of).values()]
        loss = reference_divergence(*inputs, divergence="forward_kl", vocab_size=500).loss
        assert 0.6 < loss / (4.5 * noise**2) < 1.4, (noise, wider_by)
        assert of.teacher_hidden.shape[1] == of.teacher_head.shape[1] == 64 + wider_by


@pytest.mark.parametrize(
    "error, note",
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (
            ModuleNotFoundError("No module named 'liger_kernel'", name="liger_kernel"),
            "liger_kernel is not installed",
        ),
        (RuntimeError("two\nlines"), "failed: RuntimeError: two lines"),
        (TookTooLong("not done after 90 s"), "not done after 90 s"),
    ],
)
def test_what_fails_is_a_row_that_says_why_and_the_others_are_measured(
    error: BaseException, note: str
) -> None:
    """An error raised on purpose stands for a GPU that is full, and for a library that is missing."""
    made, lost = measured(FLOOR, Case("bad", "jsd", failing(error)), GOOD)
    floor, bad, good = made
    assert not lost and bad["note"] == note and not bad["median_ms"] and bad["repetitions"] == "0"
    assert floor["over_floor"] == "1.000" and float(good["over_floor"]) > 0 and good["repetitions"] == "3"
    assert float(good["grad_rel_error"]) < 1e-5 and not good["note"]


def test_a_variant_that_fails_once_it_is_timed_has_no_times() -> None:
    """The fifth job is the second repetition's: two are made to be checked, one for its memory."""
    calls = []

    def make(of: Models, divergence: str) -> Job:
        calls.append(1)
        if len(calls) == 5:
            raise torch.cuda.OutOfMemoryError("later")
        return exact_in_float32(of, divergence)

    made, _ = measured(FLOOR, Case("later", "forward_kl", make), GOOD)
    assert made[1]["note"] == "out of memory" and not made[1]["median_ms"] and made[1]["grad_rel_error"]
    assert made[2]["repetitions"] == "3"


class Lost(Clock):
    """A CPU is never lost: this one answers no more from the first failure on, as a GPU after an illegal
    access."""

    def answers(self) -> bool:
        return False


def test_a_lost_device_ends_the_size_and_the_rows_say_so() -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    made, lost = measured(FLOOR, Case("bad", "forward_kl", failing(error)), GOOD, clock=Lost("cpu"))
    assert lost and "illegal memory access" in made[1]["note"]
    assert made[2]["note"] == "not measured: the device was lost" and not made[2]["median_ms"]
    made, lost = measured(FLOOR, Case("bad", "forward_kl", failing(error)), GOOD)
    assert not lost and made[2]["median_ms"]


def test_a_first_call_that_takes_too_long_is_interrupted() -> None:
    start = time.monotonic()
    with pytest.raises(TookTooLong, match="not done after 0 s"), at_most(0.05):
        time.sleep(20)
    assert time.monotonic() - start < 10
    with at_most(0.05):
        pass
    time.sleep(0.1)  # an alarm that was left on would end the test


def test_times_give_shares_and_rates_by_the_floating_point_operations_of_four_products() -> None:
    record = Record(GOOD, milliseconds=[4.0, 2.0, 3.0])
    floor = Record(FLOOR, milliseconds=[2.0, 2.0, 1.0])
    row = rows([floor, record], SIZE, {}, peak=1e6)[1]
    flops = 2 * 11 * 37 * (3 * 6 + 9)
    assert (row["median_ms"], row["min_ms"], row["over_floor"]) == ("3", "2", "2.000")
    assert float(row["tflops"]) == pytest.approx(flops / 3e-3 / 1e12, rel=1e-3)
    assert float(row["share_of_matmul_peak"]) == pytest.approx(flops / 3e-3 / 1e6, abs=1e-3)
