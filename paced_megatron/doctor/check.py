"""What a check is told and what it returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from paced_megatron.config import Config
from paced_megatron.errors import UserError


class Status(str, Enum):
    """How much a finding matters for what is to be run."""

    OK = "ok"
    NOTE = "note"  # something can't be done here that this run doesn't need, or will be slow
    PROBLEM = "problem"  # this run will not work, or not as it says


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        says: one sentence: what is there, and what will and won't work for it.
        remedy: what to do about it; empty where there is nothing to do.
    """

    status: Status
    says: str
    remedy: str = ""


@dataclass(frozen=True)
class Asked:
    """What is to be run here.

    Attributes:
        config: the run; None: only the environment (a package without its clone has no quickstart).
        title: how it is called in a sentence: `paced quickstart`, or the configuration's file.
        url: an SGLang server to be asked, beside those of the configuration.
        uses_gpus: whether it takes the GPUs that are here; the quickstart doesn't.
    """

    config: Config | None = None
    title: str = "paced quickstart"
    url: str | None = None
    uses_gpus: bool = True


Check = Callable[[Asked], Finding]


def ok(says: str) -> Finding:
    return Finding(Status.OK, says)


def note(says: str, remedy: str = "") -> Finding:
    return Finding(Status.NOTE, says, remedy)


def problem(says: str, remedy: str) -> Finding:
    return Finding(Status.PROBLEM, says, remedy)


def run_check(check: Check, asked: Asked) -> Finding:
    """The check's finding; one that raises is a problem with the exception's first line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Megatron says of each CUDA extension that is not there
            return check(asked)
    except UserError as error:  # names its remedy itself
        return problem(str(error), "")
    except (Exception, SystemExit) as error:  # an import that is broken may raise anything
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "without a word")
        return problem(
            f"could not be looked at: {type(error).__name__}: {line}",
            "mend that first; docs/install.md says what belongs into the environment",
        )
