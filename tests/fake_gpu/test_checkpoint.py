"""A checkpoint of tensors that are on a GPU."""

from __future__ import annotations

import torch

from fake_gpu.steps import Case, examples, rank_on_gpu, take_step, trainer_on
from paced_megatron.training.checkpoints import latest_iteration, load_checkpoint, save_checkpoint
from tiny_models import make_tiny_qwen3


def test_a_checkpoint_is_written_from_the_gpu_and_read_back_to_it(tmp_path):
    folder = make_tiny_qwen3(tmp_path / "model", seed=1, num_hidden_layers=1)
    with rank_on_gpu(0, 1):
        trainer = trainer_on(0, folder, folder, Case(kind="ema"))
        take_step(trainer, examples(2))
        save_checkpoint(tmp_path / "checkpoints", 1, trainer)
        assert latest_iteration(tmp_path / "checkpoints") == 1
    with rank_on_gpu(0, 1):
        again = trainer_on(0, folder, folder, Case(kind="ema"))
        load_checkpoint(tmp_path / "checkpoints", 1, again)
        take_step(again, examples(2))
    saved = torch.load(next(tmp_path.glob("checkpoints/*/rng_000.pt")), weights_only=True)
    assert saved["cuda"] is not None
