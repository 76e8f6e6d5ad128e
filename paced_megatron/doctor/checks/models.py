"""The run's models, and whether its layout of them fits: what `paced plan` says, in a sentence."""

from __future__ import annotations

from paced_megatron.config import Config
from paced_megatron.doctor.check import Asked, Finding, note, ok, problem
from paced_megatron.doctor.checks.memory import OF_A_PROCESS
from paced_megatron.doctor.limits import available_memory, gb, processes_here
from paced_megatron.plan import PROMPT_TOKENS


def check(asked: Asked) -> Finding:
    """Raises UserError where a model is not supported, or its layout can't cut it."""
    config = asked.config
    if config is None:
        return ok("no run was named, so no models were looked at")
    absent = models_to_fetch(config)
    if absent:
        return note(
            f"{' and '.join(absent)}: on the Hugging Face hub, and not (whole) in the local cache; the run "
            "fetches what is missing when it starts",
            " and ".join(f"hf download {name}" for name in absent) + ", before a job waits for it",
        )
    limit, of = _limit(asked)
    peak = planned_peak(config, "cuda" if of == "GPU" else "cpu")
    says = f"{asked.title} takes up to {gb(peak)} on a process, and there are {gb(limit)} for it ({of})"
    if peak > limit:
        return problem(says, "`paced plan CONFIG` shows what takes it, and a layout that fits")
    return ok(says)


def models_to_fetch(config: Config) -> list[str]:
    """Names on the hub that are not whole in the local cache."""
    from paced_megatron.models.hub import cached_folder, is_hub_id

    paths = [config.student.path] + ([config.teacher.path] if config.teacher.path else [])
    return [
        str(path)
        for path in dict.fromkeys(paths)
        if not path.is_dir()
        and not path.is_absolute()
        and is_hub_id(str(path))
        and cached_folder(str(path)) is None
    ]


def planned_peak(config: Config, device: str) -> float:
    """Bytes that the fullest process holds at once, by `paced plan`."""
    from paced_megatron.plan.from_config import Texts, planned_work
    from paced_megatron.plan.memory import memory_by_stage

    work = planned_work(config, Texts(PROMPT_TOKENS, config.rollout.max_new_tokens), device)
    return max(stage.peak for stage in memory_by_stage(work))


def _limit(asked: Asked) -> tuple[float, str]:
    """Bytes that each process may take, and of what."""
    import torch

    assert asked.config is not None
    if asked.uses_gpus and torch.cuda.is_available():
        count = torch.cuda.device_count()
        return min(float(torch.cuda.get_device_properties(n).total_memory) for n in range(count)), "GPU"
    left = available_memory() / processes_here(asked.config.world_size) - OF_A_PROCESS
    return max(left, 0.0), "main memory, after the imports"
