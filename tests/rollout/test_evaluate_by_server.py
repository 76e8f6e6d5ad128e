"""`paced evaluate FOLDER... --url` against a stand-in: which server is taken, and what it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paced_megatron.cli import main
from paced_megatron.evaluation.measurement import read_measurements
from rollout.sglang_stand_in import StandIn
from tiny_models import make_tiny_qwen3


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text(
        "".join(json.dumps({"problem": f"{n}+{n}?", "answer": 2 * n}) + "\n" for n in range(1, 4))
    )
    return path


def asked(problems: Path, server: StandIn, *more: str | Path) -> list[str]:
    return [
        str(argument)
        for argument in ("--benchmark", problems, "--max-new-tokens", "6", "--url", server.url, *more)
    ]


def test_a_server_is_given_each_model_s_weights_and_asked_for_the_preset_s_sampling(
    tiny: Path, problems: Path, tmp_path: Path, server: StandIn, sglang_quickly: None
) -> None:
    other = make_tiny_qwen3(tmp_path / "other", seed=8)
    models = [str(tiny), str(other)]
    assert main(["evaluate", *models, *asked(problems, server, "--out", tmp_path / "out")]) == 0
    loaded = [body["model_path"] for body in server.asked("/update_weights_from_disk")]
    assert loaded == [str(tiny.resolve()), str(other.resolve())]
    params = [one for body in server.asked("/generate") for one in body["sampling_params"]]
    assert len(params) == 2 * 3 * 8
    assert {(one["temperature"], one["top_p"], one["top_k"], one["max_new_tokens"]) for one in params} == {
        (0.7, 0.8, 20, 6)
    }
    for folder in (tmp_path / "out").iterdir():
        if folder.is_dir() and folder.name != "logs":
            (one,) = read_measurements(folder)
            assert one.engine == "sglang" and sum(one.outcomes.values()) == 24
    assert server.attempts() == 48
    assert main(["evaluate", *models, *asked(problems, server, "--out", tmp_path / "out")]) == 0
    assert server.attempts() == 48, "what is there was asked for again"


def test_a_server_with_another_model_is_refused_before_anything_is_offered_to_it(
    tiny: Path,
    problems: Path,
    tmp_path: Path,
    server: StandIn,
    sglang_quickly: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    larger = make_tiny_qwen3(tmp_path / "larger", num_hidden_layers=4)
    out = tmp_path / "out"
    capsys.readouterr()  # transformers' bars of writing it
    assert main(["evaluate", str(tiny), str(larger), *asked(problems, server, "--out", out)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"--url {server.url}" in line and "num_layers" in line and str(larger) in line
    assert server.asked("/update_weights_from_disk") == [] and server.asked("/generate") == []
    assert not out.exists()
