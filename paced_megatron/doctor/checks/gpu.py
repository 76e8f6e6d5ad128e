"""GPUs: what is in the machine, and what torch sees of it."""

from __future__ import annotations

from paced_megatron.doctor.check import Asked, Finding, note, ok
from paced_megatron.doctor.limits import gb
from paced_megatron.doctor.programs import ask, is_there

QUERY = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
QUERY_S = 20.0
ON_THE_CPU = "everything runs on the CPU, under gloo; real models need a GPU"


def check(asked: Asked) -> Finding:
    """No GPU is not a problem: the quickstart and the tests run on the CPU."""
    import torch

    in_machine, driver = _in_machine()
    if torch.cuda.is_available():
        return _seen(in_machine, driver)
    if not in_machine:
        return ok(f"none here: {ON_THE_CPU}")
    what = f"{in_machine} (driver {driver}) is in the machine"
    if torch.version.cuda is None:
        return note(
            f"{what}, but torch {torch.__version__} is a build for the CPU: {ON_THE_CPU}",
            "install torch for the CUDA release that the driver supports (docs/install.md)",
        )
    return note(
        f"{what}, but torch, built for CUDA {torch.version.cuda}, can't use it: {ON_THE_CPU}",
        "CUDA_VISIBLE_DEVICES may hide it; else the driver is older than this CUDA: take a torch that is "
        "built for an older one",
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


def _seen(in_machine: str, driver: str) -> Finding:
    import torch

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
    return ok(f"{says}: each process takes one")
