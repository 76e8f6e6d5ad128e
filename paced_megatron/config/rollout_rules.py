"""Rules about the engine that makes rollouts, and its servers."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from paced_megatron.config import Config, LaunchConfig
from paced_megatron.config.layouts import Rule


def _servers_for_sglang(config: Config) -> str | None:
    rollout = config.rollout
    launch, default = rollout.launch, LaunchConfig()
    if rollout.engine == "sglang":
        if not rollout.urls and launch.python is None:
            return (
                "rollout.engine=sglang needs servers: set rollout.urls, or rollout.launch.python to start one"
            )
        if rollout.urls and launch != default:
            return "rollout.urls names servers that run, rollout.launch starts one: set only one of the two"
        if rollout.teacher_urls and not rollout.urls:
            return (
                "rollout.teacher_urls stands beside rollout.urls; a server that we start serves both in turn"
            )
        return None
    for key, is_set in (
        ("urls", bool(rollout.urls)),
        ("teacher_urls", bool(rollout.teacher_urls)),
        ("launch", launch != default),
        ("colocate", rollout.colocate),
        ("concurrency", rollout.concurrency is not None),
    ):
        if is_set:
            return f"rollout.{key} is for rollout.engine=sglang, and rollout.engine is {rollout.engine}"
    return None


def _urls_are_urls(config: Config) -> str | None:
    for key in ("urls", "teacher_urls"):
        urls = getattr(config.rollout, key)
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                return f"rollout.{key} has {url!r}; a server is http://HOST:PORT"
            if parts.username or parts.password:  # it would be copied into the run's folder
                return f"rollout.{key} has a password in it; set the environment variable SGLANG_API_KEY"
        if len({url.rstrip("/") for url in urls}) < len(urls):
            return f"rollout.{key} has a server twice"
    return None


def _launch_is_sound(config: Config) -> str | None:
    launch = config.rollout.launch
    if any("API_KEY" in name for name in launch.env):  # it would be copied into the run's folder
        return "rollout.launch.env has a key in it; set SGLANG_API_KEY in the environment of `paced`"
    try:
        args = shlex.split(launch.args)
    except ValueError as error:
        return f"rollout.launch.args can't be read as a shell does ({error})"
    for arg in args:
        name = arg.partition("=")[0]
        if name in LAUNCH_SETS:
            return f"rollout.launch.args has {name}; {LAUNCH_SETS[name]}"
    return None


# Arguments of SGLang's that are not for rollout.launch.args, and where they come from.
LAUNCH_SETS = {
    "--model-path": "the model is the student's, or the teacher's",
    "--model": "the model is the student's, or the teacher's",
    "--host": "set rollout.launch.host",
    "--port": "a free port is taken",
    "--api-key": "it would be seen by all: set SGLANG_API_KEY in the environment of `paced`",
    "--admin-api-key": "it would be seen by all: set SGLANG_API_KEY in the environment of `paced`",
    "--config": "write its arguments into rollout.launch.args",
}


ROLLOUT_RULES: list[Rule] = [
    (
        "rollout",
        "has `urls` or `launch.python`, and not both, where `engine` is `sglang`; with another engine it has "
        "none of the keys that are about servers",
        _servers_for_sglang,
    ),
    ("rollout.urls", "and `rollout.teacher_urls` have http://HOST:PORT, each once", _urls_are_urls),
    (
        "rollout.launch",
        "has no API key in `env` or `args`, and in `args` no model, host or port",
        _launch_is_sound,
    ),
]
