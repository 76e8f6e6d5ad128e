"""Everything that setup.py requires, against what is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from paced_megatron.doctor.check import Asked, Finding, note, ok, problem

OURS = "paced-megatron"
# These have rows of their own.
ELSEWHERE = ("torch", "megatron-core")


def check(asked: Asked) -> Finding:
    """What every run needs, apart from torch and Megatron-Core."""
    try:
        wanted = required()
    except PackageNotFoundError:
        return note(
            "this package is not installed: it runs from its source, and what it needs was not compared",
            "pip install -e . -c constraints.txt",
        )
    wanted = [one for one in wanted if one.name not in ELSEWHERE]
    wrong = [told for one in wanted if (told := mismatch(one))]
    if wrong:
        return problem("; ".join(wrong), "pip install -e . -c constraints.txt")
    return ok(f"all {len(wanted)} others that setup.py requires are here, in versions that it takes")


def required(extra: str = "") -> list[Requirement]:
    """Lines of setup.py that hold for this Python: those that always do, and with an extra its own too.

    Raises:
        PackageNotFoundError: the package is not installed.
    """
    lines = [Requirement(line) for line in requires(OURS) or []]
    return [line for line in lines if line.marker is None or line.marker.evaluate({"extra": extra})]


def mismatch(wanted: Requirement) -> str:
    """As in "torch 2.4.0 is here, and >=2.9 is needed"; empty where it fits."""
    try:
        there = version(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is missing ({wanted.specifier} is needed)"
    if wanted.specifier.contains(there, prereleases=True):
        return ""
    return f"{wanted.name} {there} is here, and {wanted.specifier} is needed"


def mismatch_of(package: str) -> str:
    """The same for one that is always required; empty too where the package is not installed."""
    try:
        return next((mismatch(one) for one in required() if one.name == package), "")
    except PackageNotFoundError:
        return ""
