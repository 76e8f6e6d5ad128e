"""The shared pool of worker processes (tests/pool.py) itself."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pool import Pool, PoolError, new_pool

pytestmark = pytest.mark.parallel
TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def fragile_pool() -> Iterator[Pool]:
    """A pool of this file's own, whose workers may be killed at no cost to others; with a short grace."""
    with new_pool() as pool:
        pool.grace = 3.0
        yield pool


@dataclass(frozen=True)
class Greeting:
    text: str


def greet(rank: int, world_size: int, greeting: Greeting) -> Greeting:
    return Greeting(f"{greeting.text} from {rank} of {world_size}")


def sums(rank: int, world_size: int, scale: float) -> torch.Tensor:
    x = torch.full((3,), scale * (rank + 1), dtype=torch.float64)
    dist.all_reduce(x)
    return x


def sums_in_pairs(rank: int, world_size: int) -> float:
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    x = torch.tensor([float(rank)])
    dist.all_reduce(x, group=pairs[rank // 2])
    return x.item()


def ids_and_random(rank: int, world_size: int) -> tuple[int, float]:
    return os.getpid(), torch.rand(1).item()


def rank_1_raises(rank: int, world_size: int) -> str:
    print(f"rank {rank} was here")
    if rank == 1:
        digits = [3, 1, 4]
        assert sum(digits) == 9
    return "fine"


def each_raises_its_own(rank: int, world_size: int) -> None:
    raise ValueError(f"number {rank} does not like it")


def rank_0_raises_while_others_wait(rank: int, world_size: int) -> None:
    if rank == 0:
        raise ValueError("zero went away")
    dist.barrier()


def rank_1_sleeps(rank: int, world_size: int, seconds: float) -> None:
    if rank == 1:
        time.sleep(seconds)


def rank_1_exits(rank: int, world_size: int) -> None:
    if rank == 1:
        os._exit(7)


def leaves_a_mess(rank: int, world_size: int) -> tuple[int, int]:
    from megatron.core import (
        num_microbatches_calculator,
        parallel_state,
        rerun_state_machine,
        tensor_parallel,
    )

    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    parallel_state.get_global_memory_buffer()
    num_microbatches_calculator.init_num_microbatches_calculator(rank, None, 4, 2, 1)
    rerun_state_machine.initialize_rerun_state_machine()
    tensor_parallel.get_cuda_rng_tracker().states_["mine"] = torch.zeros(1)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    os.environ["PACED_MESS"] = "1"
    os.chdir("/")
    return os.getpid(), parallel_state.get_tensor_model_parallel_world_size()


def finds_it_tidy(rank: int, world_size: int) -> tuple[int, list[str]]:
    from megatron.core import (
        num_microbatches_calculator,
        parallel_state,
        rerun_state_machine,
        tensor_parallel,
    )

    mess = {
        "groups": parallel_state.model_parallel_is_initialized(),
        "buffer": parallel_state._GLOBAL_MEMORY_BUFFER is not None,
        "micro-batches": num_microbatches_calculator._GLOBAL_NUM_MICROBATCHES_CALCULATOR is not None,
        "rerun": rerun_state_machine._GLOBAL_RERUN_STATE_MACHINE is not None,
        "random states": bool(tensor_parallel.get_cuda_rng_tracker().states_),
        "dtype": torch.get_default_dtype() != torch.float32,
        "grad mode": not torch.is_grad_enabled(),
        "environment": "PACED_MESS" in os.environ,
        "folder": os.getcwd() == "/",
    }
    return os.getpid(), [name for name, found in mess.items() if found]


def another_layout(rank: int, world_size: int) -> int:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(tensor_model_parallel_size=1)
    return parallel_state.get_data_parallel_world_size()


def test_results_come_in_the_order_of_ranks_for_every_world_size(pool: Pool) -> None:
    for world_size in (1, 2, 3, 4):
        expected = [Greeting(f"hello from {rank} of {world_size}") for rank in range(world_size)]
        assert pool.run(greet, world_size, Greeting("hello")) == expected


def test_an_all_reduce_sums_over_all_ranks_of_the_job(pool: Pool) -> None:
    for world_size, total in ((2, 1.5), (3, 3.0), (1, 0.5)):
        for result in pool.run(sums, world_size, 0.5):
            torch.testing.assert_close(result, torch.full((3,), total, dtype=torch.float64), rtol=0, atol=0)


def test_subgroups_work(pool: Pool) -> None:
    assert pool.run(sums_in_pairs, 4) == [1.0, 1.0, 5.0, 5.0]


def test_workers_stay_and_every_job_begins_with_the_same_random_numbers(pool: Pool) -> None:
    first, second = pool.run(ids_and_random, 2), pool.run(ids_and_random, 2)
    assert first == second
    assert first[0][0] != first[1][0]


def test_nothing_of_a_job_is_left_for_the_next(pool: Pool) -> None:
    left = pool.run(leaves_a_mess, 2)
    found = pool.run(finds_it_tidy, 2)
    assert [size for _, size in left] == [2, 2]
    assert [pid for pid, _ in left] == [pid for pid, _ in found], "other processes: this shows nothing"
    assert [mess for _, mess in found] == [[], []]
    assert pool.run(another_layout, 2) == [2, 2]


def test_a_rank_that_raises_is_reported_by_itself_and_the_pool_lives_on(pool: Pool) -> None:
    pids = [pid for pid, _ in pool.run(ids_and_random, 3)]
    with pytest.raises(PoolError) as caught:
        pool.run(rank_1_raises, 3)
    assert caught.value.states == ["finished", "failed", "finished"]
    text = str(caught.value)
    assert "test_pool.py::rank_1_raises on 3 ranks: rank 1 failed" in text
    assert "assert sum(digits) == 9" in text and "digits = [3, 1, 4]" in text
    assert text.count("Traceback") == 1 and "rank 0 was here" in text
    assert [pid for pid, _ in pool.run(ids_and_random, 3)] == pids


def test_ranks_that_raise_report_separately(pool: Pool) -> None:
    with pytest.raises(PoolError) as caught:
        pool.run(each_raises_its_own, 3)
    sections = str(caught.value).split("--- rank ")[1:]
    for rank, section in enumerate(sections):
        assert section.startswith(f"{rank} failed")
        assert f"ValueError: number {rank} does not like it" in section
    assert len(sections) == 3


def test_ranks_left_waiting_by_one_that_raised_are_ended_after_the_grace(fragile_pool: Pool) -> None:
    fragile_pool.run(ids_and_random, 2)
    start = time.monotonic()
    with pytest.raises(PoolError, match="zero went away") as caught:
        fragile_pool.run(rank_0_raises_while_others_wait, 2, timeout=60.0)
    assert time.monotonic() - start < 50
    assert caught.value.states == ["failed", "hung"]
    rank_1 = str(caught.value).split("--- rank 1")[1]
    assert "in rank_0_raises_while_others_wait" in rank_1, "it does not say where rank 1 hung"


def test_a_hang_is_ended_at_the_limit_and_the_pool_works_again(fragile_pool: Pool) -> None:
    old = [pid for pid, _ in fragile_pool.run(ids_and_random, 2)]
    start = time.monotonic()
    with pytest.raises(PoolError, match="not done after 3 s") as caught:
        fragile_pool.run(rank_1_sleeps, 2, 120.0, timeout=3.0)
    assert time.monotonic() - start < 50
    assert caught.value.states == ["finished", "hung"]
    new = [pid for pid, _ in fragile_pool.run(ids_and_random, 2)]
    assert not set(old) & set(new)
    for pid in old:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_rank_whose_process_ends_is_reported_with_its_exit_code(fragile_pool: Pool) -> None:
    with pytest.raises(PoolError, match="--- rank 1 died, exit code 7") as caught:
        fragile_pool.run(rank_1_exits, 2)
    assert caught.value.states == ["finished", "died"]


def test_a_function_that_no_worker_could_find_is_refused(fragile_pool: Pool) -> None:
    with pytest.raises(TypeError, match="no module-level function"):
        fragile_pool.run(lambda rank, world_size: None, 2)


def test_the_import_of_a_test_s_file_is_not_counted_in_the_job_s_time(
    fragile_pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["import os, time", "'IN_TEST' in os.environ or time.sleep(4)", "def f(rank, n): return rank"]
    (tmp_path / "slow_to_import.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    with monkeypatch.context() as here:
        here.setenv("IN_TEST", "1")
        slow_to_import = importlib.import_module("slow_to_import")
    assert fragile_pool.run(slow_to_import.f, 1, timeout=3.0) == [0]


def test_workers_die_with_the_test_process_even_inside_a_job(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text("import time\ndef sleeps(rank, n, seconds): time.sleep(seconds)\n")
    script = (
        "import sleeper\n"
        "from pool import new_pool\n"
        "with new_pool() as pool:\n"
        "    pool.run(sleeper.sleeps, 1, 0.0)\n"
        "    print(pool.workers[0].process.pid, flush=True)\n"
        "    pool.run(sleeper.sleeps, 1, 120.0, timeout=120.0)\n"
    )
    path = os.pathsep.join([str(TESTS), str(tmp_path)])
    env = os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)}  # a killed pool can't remove its folder
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=env)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie, which nobody may have collected yet, does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
