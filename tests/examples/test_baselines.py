"""examples/baselines: every arm is checked as `paced compare` checks it, and no baseline is forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

from paced_megatron.config import PacingConfig
from paced_megatron.experiments.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[2]


def test_the_baselines_are_a_whole_experiment_with_every_kernel_estimator_and_order() -> None:
    experiment = load_experiment(ROOT / "examples/baselines/experiment.yaml")
    configs = list(experiment.configs.values())
    hints = get_type_hints(PacingConfig)
    for key in ("kernel", "estimator", "apply", "order"):
        assert {getattr(config.pacing, key) for config in configs} == set(get_args(hints[key])), key
    assert {config.stages[0].divergence for config in configs} >= {"forward_kl", "reverse_kl", "akl"}
    assert any(config.pacing.permute for config in configs)
    assert any(config.pacing.floor for config in configs)
    assert len({(str(config.pacing), config.stages[0].divergence) for config in configs}) == len(configs)


def test_its_readme_names_every_arm() -> None:
    experiment = load_experiment(ROOT / "examples/baselines/experiment.yaml")
    text = (ROOT / "examples/baselines/README.md").read_text(encoding="utf-8")
    assert [arm for arm in experiment.arms if f"`{arm}`" not in text] == []
