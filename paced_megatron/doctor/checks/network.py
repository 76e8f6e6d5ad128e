"""The Hugging Face hub: needed for models and data sets that are named, not for folders."""

from __future__ import annotations

import httpx

from paced_megatron.config import Config
from paced_megatron.doctor.check import Asked, Finding, note, ok, problem
from paced_megatron.doctor.checks.models import models_to_fetch
from paced_megatron.problems.rows import HUB

ANSWER_S = 4.0


def check(asked: Asked) -> Finding:
    """Whether it can be reached, and whether this run has to."""
    from huggingface_hub.constants import ENDPOINT, is_offline_mode

    why = "HF_HUB_OFFLINE forbids it" if is_offline_mode() else _unreachable(ENDPOINT)
    if not why:
        return ok(f"{ENDPOINT} answers: models and data sets can be named")
    says = f"{ENDPOINT} is not asked or does not answer ({why})"
    wanted = [] if asked.config is None else models_to_fetch(asked.config)
    if wanted:
        return problem(
            f"{says}, and {asked.title} wants {', '.join(wanted)} from it",
            "fetch it where there is a network (hf download NAME) and give the folder's path",
        )
    if asked.config is not None and (named := _data_sets(asked.config)):
        return note(
            f"{says}: {', '.join(named)} can be read from the local cache alone",
            "fetch it where there is a network, or give a file",
        )
    return note(f"{says}: give models and problems as folders and files; nothing else needs a network")


def _unreachable(url: str) -> str:
    """Why; empty where it answers, with whatever status."""
    try:
        httpx.head(url, timeout=ANSWER_S)  # through the environment's proxy, as the hub's own client does
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return ""


def _data_sets(config: Config) -> list[str]:
    problems = (config.problems.train, config.problems.test, config.problems.forgetting)
    named = [one for one in problems if one is not None and one.startswith(HUB)]
    return [one for one in named if not one.removeprefix(HUB).startswith("/")]  # hf:///folder is a folder
