"""Checks of the environment's packages, with the thing there and gone."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from paced_megatron.doctor import Asked, Status
from paced_megatron.doctor.checks import extras, packages, torch_build


@pytest.fixture
def requires(monkeypatch):
    """Called with the lines of setup.py that there shall be; None: we are not installed."""

    def set_lines(*lines: str | None) -> None:
        def of(name):
            assert name == "paced-megatron"
            if lines == (None,):
                raise PackageNotFoundError(name)
            return list(lines)

        monkeypatch.setattr(packages, "requires", of)

    return set_lines


@pytest.mark.parametrize(
    ("of", "status"),
    [((3, 11, 0), "ok"), ((3, 13, 9), "ok"), ((3, 10, 13), "problem"), ((3, 14, 0), "problem")],
)
def test_a_python_that_the_package_is_not_for_is_a_problem(found, monkeypatch, of, status):
    monkeypatch.setattr(sys, "version_info", of)
    assert found("Python").status.value == status


def test_what_setup_py_requires_is_here(found):
    wanted = {one.name for one in packages.required()}
    assert {"torch", "megatron-core", "transformers", "httpx"} <= wanted and "pytest" not in wanted
    finding = found("packages")
    assert finding.status is Status.OK and f"all {len(wanted) - 2} others" in finding.says


def test_a_missing_package_and_one_of_another_version_are_named_with_what_is_needed(found, requires):
    requires(
        "einops>=0.8",
        "nobody-has-this>=2",
        "numpy<1",
        "rich>=1000; python_version < '3'",
        "wandb>=1000; extra == 'logging'",
        "torch>=1000",  # has a row of its own
    )
    finding = found("packages")
    assert finding.status is Status.PROBLEM and "constraints.txt" in finding.remedy
    assert finding.says == (
        f"nobody-has-this is missing (>=2 is needed); numpy {version('numpy')} is here, and <1 is needed"
    )


def test_run_from_source_nothing_is_compared(found, requires):
    requires(None)
    assert found("packages").status is Status.NOTE
    assert found("torch").status is Status.OK  # and that does not stop the others


def test_torch_tells_its_build_and_a_missing_or_old_one_is_a_problem(found, requires, monkeypatch):
    finding = found("torch")
    assert finding.status is Status.OK and torch.__version__ in finding.says
    requires("torch>=1000")
    assert found("torch").says == f"torch {version('torch')} is here, and >=1000 is needed"
    requires(None)
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    finding = found("torch")
    assert finding.status is Status.PROBLEM and "ModuleNotFoundError" in finding.says


def test_more_threads_than_cores_are_noted_with_a_number_that_fits(found, monkeypatch):
    monkeypatch.setattr(torch_build, "usable_cores", lambda: 1.5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    finding = found("torch")
    assert finding.status is Status.NOTE and finding.remedy == "OMP_NUM_THREADS=1"


def test_megatron_core_imports_and_a_wrong_or_broken_one_is_a_problem(found, requires, monkeypatch):
    finding = found("Megatron-Core")
    assert finding.status is Status.OK and version("megatron-core") in finding.says
    requires("megatron-core==0.1; python_version >= '3.11'")
    finding = found("Megatron-Core")
    assert finding.status is Status.PROBLEM and "==0.1 is needed" in finding.says
    requires("megatron-core")
    monkeypatch.setitem(sys.modules, "paced_megatron.models.gpt", None)
    assert found("Megatron-Core").status is Status.PROBLEM


def test_transformer_engine_is_optional_and_one_that_kills_its_process_is_only_noted(found, modules):
    finding = found("Transformer Engine")
    assert finding.status is Status.OK and "not here" in finding.says
    metadata = "Metadata-Version: 2.1\nName: transformer-engine\nVersion: 2.9.0\n"
    files = {
        "transformer_engine/__init__.py": "",
        "transformer_engine/pytorch.py": "",
        "transformer_engine-2.9.0.dist-info/METADATA": metadata,
    }
    modules(files)
    assert found("Transformer Engine").says == "Transformer Engine 2.9.0 imports"
    modules({"transformer_engine/pytorch.py": "import os\nos.abort()"})
    finding = found("Transformer Engine")
    assert finding.status is Status.NOTE and "code -6" in finding.says
    modules({"transformer_engine/pytorch.py": "raise ImportError('undefined symbol: x')"})
    assert "undefined symbol: x" in found("Transformer Engine").says


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ({}, Status.OK),
        ({"apex/__init__.py": "", "apex/multi_tensor_apply/__init__.py": ""}, Status.OK),
        # As the package on PyPI is laid out.
        ({"apex/__init__.py": "import pyramid", "apex/lib/__init__.py": ""}, Status.NOTE),
        ({"apex.py": ""}, Status.NOTE),
    ],
)
def test_an_apex_that_is_not_nvidias_is_noted_and_is_not_imported(found, modules, files, status):
    modules(files)
    finding = found("apex")
    assert finding.status is status
    assert ("pip uninstall apex" in finding.remedy) == (status is Status.NOTE)
    assert "apex" not in sys.modules


def test_what_is_hidden_from_megatron_core_is_found_all_the_same(found, modules, monkeypatch):
    modules({"apex/__init__.py": "", "transformer_engine/__init__.py": "raise OSError('undefined symbol')"})
    for package in ("apex", "transformer_engine"):  # as runtime/extensions.py hides it
        monkeypatch.setitem(sys.modules, package, None)
    assert "is not NVIDIA's apex" in found("apex").says
    assert "does not import" in found("Transformer Engine").says


def test_a_gloo_group_that_cannot_reduce_is_a_problem_and_is_left_again(found, monkeypatch):
    assert found("communication").status is Status.OK and not dist.is_initialized()

    def refused(*args, **kwargs):
        raise RuntimeError("no interface to bind to")

    monkeypatch.setattr(dist, "all_reduce", refused)
    finding = found("communication")
    assert finding.status is Status.PROBLEM and "no interface to bind to" in finding.says
    assert not dist.is_initialized()


def _versions(**there: str):
    def of(name):
        if name not in there:
            raise PackageNotFoundError(name)
        return there[name]

    return of


@pytest.mark.parametrize(("row", "package"), [("lm-eval", "lm-eval"), ("datasets", "datasets")])
def test_an_extra_that_is_missing_is_noted_with_its_command(found, monkeypatch, row, package):
    monkeypatch.setattr(extras, "version", _versions(**{package: "99.1"}))
    finding = found(row)
    assert finding.status is Status.OK and "99.1" in finding.says
    monkeypatch.setattr(extras, "version", _versions())
    finding = found(row)
    assert finding.status is Status.NOTE and "pip install -e '.[" in finding.remedy


def test_data_sets_lm_eval_and_trackers_are_problems_where_the_run_asks_for_them(found, asked, monkeypatch):
    monkeypatch.setattr(extras, "version", _versions(tensorboard="2"))
    finding = found("datasets", asked("problems.train=hf://openai/gsm8k"))
    assert finding.status is Status.PROBLEM and "hf://openai/gsm8k" in finding.says
    assert found("datasets", asked()).status is Status.NOTE
    finding = found("datasets", asked("problems.forgetting=hf://openai/gsm8k"))
    assert finding.status is Status.PROBLEM
    finding = found("lm-eval", asked("evaluation.forgetting_tasks=[mmlu]"))
    assert finding.status is Status.PROBLEM and "evaluation.forgetting_tasks" in finding.says
    assert found("trackers", asked("logging.tensorboard=true")).status is Status.OK
    finding = found("trackers", asked("logging.wandb_project=mine"))
    assert finding.status is Status.PROBLEM and finding.remedy == "pip install wandb"


def _cuda(monkeypatch, count: int, arch: str = "sm_90") -> None:
    """A torch that sees `count` GPUs of 80 GB."""
    card = SimpleNamespace(name="Card", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, value in {
        "is_available": True,
        "device_count": count,
        "get_device_properties": card,
        "get_device_capability": (9, 0),
        "get_arch_list": [arch],
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *args, value=value: value)


SMI = "echo 'NVIDIA Card, 580.1'"


def test_without_a_gpu_everything_runs_on_the_cpu(found, programs):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    finding = found("GPU")
    assert finding.status is Status.OK and "on the CPU" in finding.says


def test_a_gpu_that_torch_cannot_use_is_noted_with_what_is_in_the_way(found, program, monkeypatch):
    program("nvidia-smi", SMI)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    finding = found("GPU")
    assert finding.status is Status.NOTE and "NVIDIA Card (driver 580.1)" in finding.says
    assert "a build for the CPU" in finding.says
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    finding = found("GPU")
    assert "built for CUDA 13.0, can't use it" in finding.says and "driver is older" in finding.remedy


def test_a_gpu_that_torch_uses_is_named_and_one_that_it_has_no_code_for_is_noted(found, program, monkeypatch):
    program("nvidia-smi", SMI)
    _cuda(monkeypatch, 2)
    finding = found("GPU")
    assert finding.status is Status.OK
    assert finding.says.startswith("2 x Card, 80.0 GB; torch is built for CUDA 13.0, the driver is 580.1")
    _cuda(monkeypatch, 2, arch="sm_120")
    finding = found("GPU")
    assert finding.status is Status.NOTE and "no code for sm_90" in finding.says


def test_fewer_gpus_than_processes_are_a_problem_unless_other_nodes_have_the_rest(found, asked, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    run = asked()  # two processes
    _cuda(monkeypatch, 1)
    finding = found("processes", run)
    assert finding.status is Status.PROBLEM and "CUDA_VISIBLE_DEVICES" in finding.remedy
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert found("processes", run).status is Status.OK
    monkeypatch.delenv("SLURM_JOB_NUM_NODES")
    _cuda(monkeypatch, 2)
    assert found("processes", run).status is Status.OK
    assert found("processes", Asked()).status is Status.OK
    _cuda(monkeypatch, 1)
    on_the_cpu = replace(run, uses_gpus=False)  # as the quickstart
    assert found("processes", on_the_cpu).status is not Status.PROBLEM
    assert "main memory" in found("models", on_the_cpu).says


def test_what_does_not_fit_into_the_gpus_memory_is_a_problem(found, asked, monkeypatch):
    _cuda(monkeypatch, 2)
    assert found("models", asked()).status is Status.OK
    card = SimpleNamespace(name="Card", total_memory=2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    finding = found("models", asked())
    assert finding.status is Status.PROBLEM and "1 MB" in finding.says and "paced plan" in finding.remedy
