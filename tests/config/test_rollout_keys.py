"""The keys about SGLang servers: which go together, and that no secret gets into a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from paced_megatron.claim import _MAY_DIFFER
from paced_megatron.config import Config
from paced_megatron.config.io import config_from_dict, diff_configs
from paced_megatron.errors import UserError


def config_of(rollout: dict[str, object]) -> Config:
    data = {
        "run_dir": "runs/a",
        "problems": {"train": "train.jsonl"},
        "student": {"path": "student"},
        "teacher": {"path": "teacher"},
        "rollout": rollout,
        "stages": [{"train_iters": 10}],
    }
    return config_from_dict(data, "run.yaml", Path("/recipe"))


SGLANG = {"engine": "sglang"}
URLS = {**SGLANG, "urls": ["http://gpu7:30000"]}
LAUNCH = {**SGLANG, "launch": {"python": "/opt/python"}}


@pytest.mark.parametrize(
    "rollout",
    [
        {},
        URLS,
        LAUNCH,
        {**URLS, "teacher_urls": ["https://gpu8:30000"], "colocate": True, "concurrency": 8},
        {**SGLANG, "launch": {"python": "/opt/python", "args": "--tp-size 2 --dtype 'bfloat16'"}},
        {**SGLANG, "launch": {"python": "/opt/python", "env": {"CUDA_VISIBLE_DEVICES": "0"}}},
    ],
)
def test_what_goes_together_is_taken(rollout: dict[str, object]) -> None:
    config_of(rollout)


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        (SGLANG, r"needs servers: set rollout\.urls, or rollout\.launch\.python"),
        ({**SGLANG, "launch": {"args": "--tp-size 2"}}, r"needs servers"),
        ({**URLS, "launch": {"python": "/opt/python"}}, "set only one of the two"),
        ({**LAUNCH, "teacher_urls": ["http://a:1"]}, "teacher_urls stands beside rollout"),
        ({"urls": ["http://a:1"]}, r"rollout\.urls is for rollout\.engine=sglang"),
        ({"launch": {"python": "/opt/python"}}, r"rollout\.launch is for rollout\.engine=sglang"),
        ({"colocate": True}, r"rollout\.colocate is for"),
        ({"concurrency": 4}, r"rollout\.concurrency is for"),
        ({**SGLANG, "urls": ["gpu7:30000"]}, r"rollout\.urls has 'gpu7:30000'; a server is http://HOST:PORT"),
        ({**SGLANG, "urls": ["http://a:1", "http://a:1/"]}, "has a server twice"),
        ({**SGLANG, "urls": ["http://me:hush@a:1"]}, "has a password in it; set .*SGLANG_API_KEY"),
        ({**SGLANG, "launch": {"python": "/p", "env": {"SGLANG_API_KEY": "hush"}}}, "env has a key in it"),
        ({**SGLANG, "launch": {"python": "/p", "args": "--api-key hush"}}, "seen by all: set SGLANG_API_KEY"),
        ({**SGLANG, "launch": {"python": "/p", "args": "--api-key=hush"}}, "seen by all: set SGLANG_API_KEY"),
        ({**SGLANG, "launch": {"python": "/p", "args": "--port 30000"}}, "has --port; a free port is taken"),
        ({**SGLANG, "launch": {"python": "/p", "args": "--host 0.0.0.0"}}, r"set rollout\.launch\.host"),
        ({**SGLANG, "launch": {"python": "/p", "args": "--a 'b"}}, "can't be read as a shell does"),
        ({**SGLANG, "launch": {"python": "/p", "env": {"A": 1}}}, r"launch\.env\.A must be text"),
    ],
)
def test_what_does_not_go_together_is_told_with_the_remedy_and_without_the_secret(
    rollout: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=f"run.yaml: .*{said}") as caught:
        config_of(rollout)
    assert "hush" not in str(caught.value)


def test_a_run_goes_on_with_other_servers_and_not_with_another_engine() -> None:
    other = {**URLS, "urls": ["http://gpu9:1"], "concurrency": 3, "request_timeout_s": 5}
    assert not diff_configs(config_of(URLS), config_of(other), ignore=_MAY_DIFFER)
    assert not diff_configs(config_of(URLS), config_of(LAUNCH), ignore=_MAY_DIFFER)
    (difference,) = diff_configs(config_of(URLS), config_of({}), ignore=_MAY_DIFFER)
    assert difference[0] == "rollout.engine"


def test_the_keys_by_which_a_gpu_computes_may_change_between_two_starts():
    assert {"training.transformer_impl", "training.loss_kernels"} <= set(_MAY_DIFFER)  # docs/resume.md
