"""What every test may ask for: the real data, the pool of processes, no network and few threads."""

from __future__ import annotations

import os
import signal
import threading

# Before torch and transformers are imported, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest

# Triton reads this when it is imported, which Megatron-Core does: without a GPU its kernels are interpreted.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell that starts pytest with & has it ignore Ctrl-C, nohup a hangup, and all its children with it.
if threading.current_thread() is threading.main_thread():
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)

if (Path(__file__).parent / "pool.py").exists():
    pytest_plugins = [
        "pool"
    ]  # tests/pool.py: the fixture `pool`, worker processes that stay up between tests


# Files that take half a minute or more by themselves, the longest first. `make unit` deals whole files out to
# two processes: one of these that came last would leave the other process idle.
LONG_FILES = (
    "mutants/test_mutants.py",
    "loop/test_compare.py",
    "divergence/test_fused.py",
    "loop/test_kills.py",
    "loop/test_on_policy.py",
    "loop/test_two_stage.py",
    "loop/test_signals.py",
    "loop/test_full_disk.py",
    "loop/test_budgets.py",
    "loop/test_loop.py",
    "fake_gpu/test_waits.py",
    "tools/test_convert.py",
    "parallel/test_layouts.py",
    "models/test_engine_spec.py",
    "parallel/test_teacher_layouts.py",
    "parallel/test_gradient.py",
    "plan/test_live_bytes.py",
    "parallel/test_token_weights.py",
    "loop/test_failing_steps.py",
    "loop/test_forgetting.py",
    "loop/test_out_of_memory.py",
    "loop/test_one_rank_alone.py",
    "runtime/test_gpu_tests_on_the_cpu.py",
    "parallel/test_self_distillation.py",
    "problems/test_verifier_pool.py",
    "loop/test_self_distillation_run.py",
    "parallel/test_teacher_apart.py",
    "loop/test_teacher_apart.py",
    "problems/test_verify_benchmarks.py",
    "loop/test_evaluate_models.py",
    "loop/test_pacing.py",
    "loop/test_resume.py",
    "parallel/test_resume.py",
    "parallel/test_checkpoints.py",
    "training/test_checkpoints.py",
    "examples/test_recipes.py",
    "rollout/test_sglang.py",
    "divergence/test_eight_ranks.py",
    "divergence/test_hopper.py",
    "models/test_layouts.py",
    "divergence/test_memory.py",
    "runtime/test_pool.py",
    "loop/test_bad_input.py",
    "evaluation/test_forgetting.py",
    "runtime/test_launch.py",
    "runtime/test_launch_stops.py",
    "benchmarks/test_converter_benchmark.py",
    "benchmarks/test_divergence_benchmark.py",
    "benchmarks/test_gpu_step_benchmark.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long files first, in each of pytest-xdist's processes; elsewhere the order stays."""
    if not hasattr(config, "workerinput"):
        return
    folder = Path(__file__).parent
    place = {folder / name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path, len(LONG_FILES)))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data (MATH-500, AIME-24, the Qwen3 tokenizer, published config.json files).

    It is $PACED_TEST_DATA, or else ../shared/data beside the repository. Without it a test is skipped, and
    fails instead where REQUIRE_DATA=1.
    """
    named = os.environ.get("PACED_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if folder.is_dir():
        return folder
    reason = f"no real data: {folder} is not a folder; set PACED_TEST_DATA"
    if os.environ.get("REQUIRE_DATA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of bytes and a few special tokens, and a ChatML template: any text fits."""
    # Here, so that the tests of a room without models need not wait for transformers.
    from tiny_models import write_byte_tokenizer

    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))
