"""GPUs: what is in the machine, and what torch sees of it."""

from __future__ import annotations

from paced_megatron.doctor.check import Asked, Finding, note, ok
from paced_megatron.doctor.checks.models import models_to_fetch
from paced_megatron.doctor.limits import gb
from paced_megatron.doctor.programs import ask, is_there
from paced_megatron.errors import UserError

QUERY = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
QUERY_S = 20.0
ON_THE_CPU = "everything runs on the CPU, under gloo; real models need a GPU"


def check(asked: Asked) -> Finding:
    """No GPU is not a problem: the quickstart and the tests run on the CPU."""
    import torch

    from paced_megatron.runtime.gpus import why_none

    in_machine, driver = _in_machine()
    if torch.cuda.is_available():
        return _seen(asked, driver)
    if not in_machine:
        if count := _large_student(asked):
            return note(
                f"none is used ({why_none()}): a student of {count / 1e9:.2f} billion parameters is trained "
                "on the CPU, slowly",
                "run it where a GPU is (docs/install.md); `paced plan CONFIG --gpu NAME` says which would do",
            )
        return ok(f"none here: {ON_THE_CPU}")
    what = f"{in_machine} (driver {driver}) is in the machine"
    if torch.version.cuda is None:
        return note(
            f"{what}, but torch {torch.__version__} is a build for the CPU: {ON_THE_CPU}",
            "install torch for the CUDA release that the driver supports (docs/install.md)",
        )
    return note(
        f"{what}, but torch, built for CUDA {torch.version.cuda}, can't use it ({why_none()}): {ON_THE_CPU}",
        "where CUDA_VISIBLE_DEVICES hides it, unset that; where the driver is older than this CUDA, take a "
        "torch that is built for an older one",
    )


def _in_machine() -> tuple[str, str]:
    """The first GPU's name and the driver's version, as nvidia-smi tells them; empty without."""
    if not is_there(QUERY[0]):
        return "", ""
    answer = ask(QUERY, QUERY_S)
    if answer.code != 0 or not answer.lines:
        return "", ""
    name, _, driver = answer.lines[0].rpartition(",")
    return name.strip(), driver.strip()


def _large_student(asked: Asked) -> int:
    """Parameters of a student that nobody trains on a CPU on purpose; 0 for a small one, or one that is not
    here."""
    if asked.config is None:
        return 0
    from paced_megatron.models.families import model_shape
    from paced_megatron.models.hub import config_folder
    from paced_megatron.plan.parameters import LARGE_FOR_A_CPU, parameters_on_rank

    if models_to_fetch(asked.config):  # `models` has a line about these
        return 0
    try:
        shape = model_shape(config_folder(asked.config.student.path))
    except UserError:  # it too
        return 0
    count = parameters_on_rank(shape, 1, 1, 0).total
    return count if count >= LARGE_FOR_A_CPU else 0


def _seen(asked: Asked, driver: str) -> Finding:
    import torch

    from paced_megatron.runtime.gpus import too_old_for

    count = torch.cuda.device_count()
    of = [torch.cuda.get_device_properties(number) for number in range(count)]
    names = ", ".join(dict.fromkeys(f"{one.name}, {gb(one.total_memory)}" for one in of))
    says = f"{count} x {names}; torch is built for CUDA {torch.version.cuda}"
    says += f", the driver is {driver}" if driver else ""
    major, minor = torch.cuda.get_device_capability(0)
    built_for = [name for name in torch.cuda.get_arch_list() if name.startswith("sm_")]
    if built_for and not any(name.startswith(f"sm_{major}") for name in built_for):
        return note(
            f"{says}, but this torch has no code for sm_{major}{minor} (it has {', '.join(built_for)})",
            "take another build of torch (docs/install.md)",
        )
    params_dtype = "bfloat16" if asked.config is None else asked.config.training.params_dtype
    if old := too_old_for(params_dtype, (major, minor)):
        what, _, remedy = old.rpartition("; ")
        return note(f"{says}; {what}", remedy)
    return ok(f"{says}: each process takes one")
