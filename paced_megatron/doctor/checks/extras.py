"""The packages of setup.py's extras: each is for something that not every run does."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from paced_megatron.doctor.check import Asked, Finding, note, ok, problem
from paced_megatron.doctor.checks.packages import mismatch, required
from paced_megatron.problems.rows import HUB


def check_lm_eval(asked: Asked) -> Finding:
    """Benchmarks for what a student forgot."""
    tasks = [] if asked.config is None else asked.config.evaluation.forgetting_tasks
    return _extra(
        "eval", "lm-eval", "benchmarks such as MMLU", "evaluation.forgetting_tasks" if tasks else ""
    )


def check_datasets(asked: Asked) -> Finding:
    """Problems from Parquet and from Hugging Face data sets."""
    problems = None if asked.config is None else asked.config.problems
    sources = [] if problems is None else [problems.train, problems.test, problems.forgetting]
    wanted = [one for one in sources if one and (one.startswith(HUB) or one.endswith(".parquet"))]
    return _extra("data", "datasets", "problems from Parquet or a Hugging Face data set", ", ".join(wanted))


def check_trackers(asked: Asked) -> Finding:
    """TensorBoard and Weights & Biases, each where the configuration asks for it."""
    logging = None if asked.config is None else asked.config.logging
    for package, key, is_asked in (
        ("tensorboard", "logging.tensorboard", logging is not None and logging.tensorboard),
        ("wandb", "logging.wandb_project", logging is not None and logging.wandb_project is not None),
    ):
        if is_asked and not _there(package):
            return problem(f"{package} is missing, and {key} asks for it", f"pip install {package}")
    here = [package for package in ("tensorboard", "wandb") if _there(package)]
    return ok(f"{' and '.join(here) or 'none'} here; metrics.jsonl has every number without them")


def _extra(extra: str, package: str, purpose: str, wanted: str = "") -> Finding:
    """`wanted`: what of the run needs it."""
    remedy = f"pip install -e '.[{extra}]' -c constraints.txt"
    if not _there(package):
        missing = f"{package} is missing: no {purpose}"
        return problem(f"{missing}, and the run has {wanted}", remedy) if wanted else note(missing, remedy)
    wrong = _mismatch(extra, package)
    return note(f"{wrong} for {purpose}", remedy) if wrong else ok(f"{package} {version(package)}: {purpose}")


def _mismatch(extra: str, package: str) -> str:
    try:
        return next((mismatch(one) for one in required(extra) if one.name == package), "")
    except PackageNotFoundError:  # we are not installed: nothing to compare with
        return ""


def _there(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
