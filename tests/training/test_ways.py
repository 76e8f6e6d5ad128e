"""Which way layers and loss take: refused before a run begins, and said when a stage does. A GPU is made up
where the loss looks for one: here is none."""

from __future__ import annotations

import pytest
import torch

from loop.recipes import write_recipe
from paced_megatron.cli import main
from paced_megatron.config.io import load_config
from paced_megatron.divergence.choice import Machine
from paced_megatron.training.ways import ways_of

GPU = torch.device("cuda", 0)
SHORT = {
    "stages": [{"divergence": "forward_kl", "train_iters": 1}],
    "evaluation": {"every": 0, "attempts": 1},
}


@pytest.mark.parametrize(
    "overrides, said",
    [
        (
            ["training.loss_kernels=triton"],
            "paced: training.loss_kernels=triton: triton cannot be: the tensors are on cpu, and kernels need "
            "a GPU; take auto or torch",
        ),
        (
            ["training.transformer_impl=transformer_engine", "training.params_dtype=bfloat16"],
            "paced: training.transformer_impl=transformer_engine needs a GPU, and none is used here; set "
            "training.transformer_impl=auto",
        ),
    ],
)
def test_what_cannot_be_had_here_is_refused_in_one_line_before_the_first_attempt(
    tmp_path, capsys, monkeypatch, overrides, said
):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    recipe = write_recipe(tmp_path, **SHORT)
    assert main(["run", str(recipe), *overrides]) == 2  # `paced rollout` may be on another machine
    assert capsys.readouterr().err.splitlines() == [said]
    assert not list(tmp_path.rglob("attempts.jsonl"))


def test_each_stage_says_the_ways_that_it_takes(tmp_path, capsys):
    recipe = write_recipe(tmp_path, **SHORT)
    assert main(["run", str(recipe)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("stage 1: layers: Megatron-Core's own (no GPU is used)") == 1
    assert lines.count("stage 1: loss: torch operations, products in float32") == 1


def test_a_moving_average_is_not_said_to_go_through_products_of_bfloat16(tmp_path, monkeypatch):
    monkeypatch.setattr(Machine, "of", staticmethod(lambda device: Machine(device.type)))
    monkeypatch.setattr("paced_megatron.divergence.choice._torch_version", lambda: (2, 11))
    monkeypatch.setattr("paced_megatron.training.student.model_device", lambda: GPU)
    said = {}
    for teacher in ("initial", "ema"):
        stage = {"divergence": "reverse_kl", "train_iters": 1, "text": "rollouts", "teacher": teacher}
        recipe = write_recipe(tmp_path / teacher, **(SHORT | {"stages": [stage]}))
        config = load_config(recipe, ["training.params_dtype=bfloat16"])
        _, said[teacher] = ways_of(config, 1, GPU).lines
    assert said == {  # it is kept in float32, and the loss computes both sides alike
        "initial": "loss: Triton kernels, bf16 products with float32 logits",
        "ema": "loss: Triton kernels, products in float32",
    }
