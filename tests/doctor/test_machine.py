"""Checks of the machine and of what is reached from it, with the thing there and gone."""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub.constants
import pytest

from loop.recipes import QUICKSTART
from paced_megatron.doctor import Asked, Status
from paced_megatron.doctor.checks import cores, disk, memory, models, processes, shared_memory
from paced_megatron.doctor.limits import memory_limit, usable_cores
from paced_megatron.runtime.launch import free_port
from rollout.sglang_stand_in import StandIn

GB = 2**30


def _tree(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Control groups as files, and this process's line or lines about them."""
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(text + "\n")
    (folder / "own").write_text(own)
    return folder / "cgroup", folder / "own"


def test_the_tightest_limit_of_all_groups_around_a_process_counts(tmp_path):
    files = {
        "job/memory.max": str(8 * GB),
        "job/step/memory.max": str(16 * GB),
        "memory.max": "max",
        "job/step/cpu.max": "150000 100000",
        "job/cpu.max": "max 100000",
        "other/memory.max": "1",  # not around it
    }
    tree = _tree(tmp_path, "0::/job/step\n", files)
    assert memory_limit(*tree) == 8 * GB
    assert usable_cores(*tree) == min(1.5, len(os.sched_getaffinity(0)))


def test_limits_of_control_groups_of_version_1_are_found(tmp_path):
    files = {
        "memory/job/memory.limit_in_bytes": str(4 * GB),
        "cpu,cpuacct/job/cpu.cfs_quota_us": "50000",
        "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
    }
    tree = _tree(tmp_path, "4:memory:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/x\n", files)
    assert memory_limit(*tree) == 4 * GB
    assert usable_cores(*tree) == 0.5
    (tree[0] / "memory/job/memory.limit_in_bytes").write_text("9223372036854771712")  # its way to say none
    assert memory_limit(*tree) is None


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert memory_limit(tmp_path / "none", tmp_path / "nothing") is None
    assert usable_cores(tmp_path / "none", tmp_path / "nothing") == len(os.sched_getaffinity(0))


def test_too_little_memory_for_the_imports_is_a_problem(found, asked, monkeypatch):
    assert found("memory", asked()).status is Status.OK
    monkeypatch.setattr(memory, "available_memory", lambda: 500 * 2**20)
    finding = found("memory", asked())
    assert finding.status is Status.PROBLEM and "2 processes" in finding.says
    assert found("memory", asked("parallel.tensor_model_parallel_size=1")).status is Status.OK


def test_models_that_do_not_fit_into_main_memory_are_a_problem(found, asked, monkeypatch):
    assert found("models", asked()).status is Status.OK
    monkeypatch.setattr(models, "available_memory", lambda: 700 * 2**20)
    finding = found("models", asked())
    assert finding.status is Status.PROBLEM and "paced plan" in finding.remedy


def test_models_that_the_hub_has_are_noted_with_the_command_that_fetches_them(found, hub_run):
    finding = found("models", hub_run)
    assert finding.status is Status.NOTE
    assert "hf download nobody/has-this-student and hf download nobody/has-this-teacher" in finding.remedy


def test_more_threads_or_processes_than_cores_are_noted(found, asked, monkeypatch):
    for room in (cores, processes):
        monkeypatch.setattr(room, "usable_cores", lambda: 2.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert found("cores", asked()).status is found("processes", asked()).status is Status.OK
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    finding = found("cores", asked())
    assert finding.status is Status.NOTE and finding.remedy == "OMP_NUM_THREADS=1"
    finding = found("processes", asked("parallel.data_parallel_size=2"))
    assert finding.status is Status.NOTE and "4 processes, on 2 cores" in finding.says


def test_a_small_or_missing_shm_is_noted(tmp_path):
    assert shared_memory.check(Asked(), tmp_path, enough=1).status is Status.OK
    finding = shared_memory.check(Asked(), tmp_path, enough=2**60)
    assert finding.status is Status.NOTE and "--shm-size" in finding.remedy
    assert shared_memory.check(Asked(), tmp_path / "nowhere").status is Status.NOTE


def test_a_disk_without_room_for_the_run_is_a_problem(asked):
    run = asked()
    assert disk.check_run_folder(run).status is Status.OK
    finding = disk.check_run_folder(run, room=2**20)
    assert finding.status is Status.PROBLEM and str(run.config.run_dir) in finding.says


def test_what_a_run_takes_grows_with_its_stages_and_the_checkpoints_it_keeps(asked):
    parameters = 115_232 + 64 * 64  # README: without the head, which the embedding is tied to or not
    needed = [
        disk._needed(run.config, disk._planned(run.config)) - disk.OTHER_FILES
        for run in (asked(), asked("training.keep_checkpoints=12"))
    ]
    # A checkpoint more is the weights and two moments, in float32.
    assert (needed[1] - needed[0]) / 10 == pytest.approx(parameters * 12, rel=0.05)


def test_the_teachers_cache_is_told_by_the_response(asked):
    assert "teacher.cache" not in disk.check_run_folder(asked()).says
    assert "MB for each response" in disk.check_run_folder(asked("teacher.cache=true")).says


def test_a_file_where_the_run_would_go_is_a_problem(asked, tmp_path):
    (tmp_path / "runs").write_text("")
    (tmp_path / "runs").chmod(0o755)
    finding = disk.check_run_folder(asked())
    assert finding.status is Status.PROBLEM and "can't be written" in finding.says


def test_a_full_temporary_folder_is_a_problem():
    assert disk.check_temporary(Asked(), room=2**40).status is Status.OK
    finding = disk.check_temporary(Asked(), room=2**20)
    assert finding.status is Status.PROBLEM and "TMPDIR" in finding.remedy


def test_a_full_cache_is_a_problem_only_for_a_run_that_fetches_models(hub_run):
    assert disk.check_hub_cache(hub_run, room=2**40).status is Status.OK
    assert disk.check_hub_cache(Asked(), room=2**20).status is Status.NOTE
    finding = disk.check_hub_cache(hub_run, room=2**20)
    assert finding.status is Status.PROBLEM and "HF_HOME" in finding.remedy


def test_offline_is_a_problem_only_for_a_run_that_fetches_models(found, asked, hub_run):
    finding = found("network", asked())
    assert finding.status is Status.NOTE and "HF_HUB_OFFLINE" in finding.says
    finding = found("network", hub_run)
    assert finding.status is Status.PROBLEM and "nobody/has-this-student" in finding.says
    finding = found("network", asked("problems.train=hf://openai/gsm8k"))
    assert (
        finding.status is Status.NOTE and "hf://openai/gsm8k can be read from the local cache" in finding.says
    )


def test_a_hub_that_answers_is_told_from_one_that_does_not(found, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with StandIn(QUICKSTART / "student") as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        assert found("network").status is Status.OK
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert found("network").status is Status.NOTE


def test_an_interpreter_with_sglang_tells_its_version(found, asked, program, monkeypatch):
    monkeypatch.delenv("PACED_SGLANG_PYTHON", raising=False)
    finding = found("SGLang")
    assert finding.status is Status.OK and "none named" in finding.says
    python = program("python", "echo 0.5.23$OF_THE_RUN")
    monkeypatch.setenv("PACED_SGLANG_PYTHON", str(python))
    assert f"SGLang 0.5.23 imports in {python}" in found("SGLang").says
    overrides = ("rollout.engine=sglang", f"rollout.launch.python={python}")
    run = asked(*overrides)
    assert "rollout.launch.python" in found("SGLang", run).says
    run = asked(*overrides, "rollout.launch.env.OF_THE_RUN=.post1")
    assert "SGLang 0.5.23.post1 imports" in found("SGLang", run).says


def test_an_interpreter_without_sglang_is_a_problem_for_a_run_that_starts_servers(
    found, asked, program, monkeypatch
):
    python = program("python", "echo \"ModuleNotFoundError: No module named 'sglang'\" >&2; exit 1")
    monkeypatch.setenv("PACED_SGLANG_PYTHON", str(python))
    finding = found("SGLang")
    assert finding.status is Status.NOTE and "No module named 'sglang'" in finding.says
    for named in (python, python.parent / "nowhere"):
        run = asked("rollout.engine=sglang", f"rollout.launch.python={named}")
        finding = found("SGLang", run)
        assert finding.status is Status.PROBLEM and f"rollout.launch.python={named}" in finding.says


def test_a_server_that_answers_is_described_and_a_silent_one_is_a_problem(found, asked):
    assert found("SGLang server").status is Status.OK
    with StandIn(QUICKSTART / "student") as server:
        finding = found("SGLang server", Asked(url=server.url))
        assert finding.status is Status.OK and f"{server.url} serves {QUICKSTART / 'student'}" in finding.says
        assert "paced check-rollout" in finding.says
        server.key = "secret"
        finding = found("SGLang server", Asked(url=server.url))
        assert finding.status is Status.PROBLEM and "SGLANG_API_KEY" in finding.says
        url = server.url
    run = asked("rollout.engine=sglang", f"rollout.urls=[{url}]")
    finding = found("SGLang server", run)
    assert finding.status is Status.PROBLEM and f"{url} does not answer" in finding.says


SINFO = """[ "$1" = --version ] && echo slurm-wlm 22.05.8 && exit
echo 'main|2|gpu:fake:8'
echo 'main|1|(null)'
echo 'big|4|gpu:h100:4(S:0-1),gpu:l4:1'"""  # the first line and its form: from a real one


def test_slurms_partitions_nodes_and_gpus_are_told_and_whether_this_is_a_job(found, program, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    program("sinfo", SINFO)
    finding = found("Slurm")
    assert finding.status is Status.OK
    assert finding.says == (
        "slurm-wlm 22.05.8: partition main, nodes: 2 x 8 GPUs, 1 without GPUs; partition big, nodes: 4 x 5 "
        "GPUs; this is no job of it"
    )
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert found("Slurm").says.endswith("this is job 17, on 2 nodes")


def test_no_slurm_is_fine_and_one_that_does_not_answer_is_noted(found, program, programs):
    assert found("Slurm").status is Status.OK and "not here" in found("Slurm").says
    program("sinfo", 'echo "sinfo: error: Unable to contact slurm controller" >&2; exit 1')
    finding = found("Slurm")
    assert finding.status is Status.NOTE and "Unable to contact slurm controller" in finding.says
