"""SGLang servers that run: do they answer, and as what?"""

from __future__ import annotations

import os

from paced_megatron.doctor.check import Asked, Finding, ok, problem

ANSWER_S = 5.0


def check(asked: Asked) -> Finding:
    """Each URL that was named. Whether its numbers are right is `paced check-rollout`'s question."""
    rollout = None if asked.config is None else asked.config.rollout
    urls = [asked.url] if asked.url else []
    urls += [] if rollout is None else [*rollout.urls, *rollout.teacher_urls]
    if not urls:
        return ok("none named; --url URL asks one")
    told = [_told(url) for url in dict.fromkeys(urls)]
    silent = [says for says, answers in told if not answers]
    if silent:
        return problem("; ".join(silent), "start it, or correct the URL (docs/rollouts.md)")
    says = "; ".join(says for says, _ in told)
    return ok(f"{says}; `paced check-rollout FOLDER --url URL` compares its numbers with Megatron's")


def _told(url: str) -> tuple[str, bool]:
    """A sentence about the server, and whether it is one. Raises UserError where it refuses us."""
    from paced_megatron.rollout.sglang.client import ServerClient, ServerError
    from paced_megatron.rollout.sglang.facts import read_facts
    from paced_megatron.rollout.sglang.launcher import KEY_VARIABLE

    client = ServerClient(url, os.environ.get(KEY_VARIABLE) or None, timeout_s=ANSWER_S)
    try:
        client.get("/health", tries=1)  # read_facts would try again and again
        facts = read_facts(client)
    except ServerError as error:
        return f"{url} does not answer as SGLang does: {error}", False
    finally:
        client.close()
    draws = "draws by seed" if facts.deterministic else "ignores the sampling seed"
    return (
        f"{url} serves {facts.model_path} ({facts.model_type}), up to {facts.room} tokens a text, "
        f"{facts.max_running_requests} at a time, and {draws}",
        True,
    )
