"""The links of a chain."""

from __future__ import annotations

from pathlib import Path

from loop.recipes import write_recipe
from paced_megatron import cli
from paced_megatron.cluster.chain import links
from paced_megatron.config.io import load_config

STAGES = [
    {"divergence": "forward_kl", "train_iters": 2},
    {"divergence": "reverse_kl", "text": "rollouts", "train_iters": 2},
]


def test_the_links_are_the_phases_of_the_loop_in_its_order(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, stages=STAGES)
    found = list(links(load_config(recipe)))
    first = ("rollout", "weigh", "respond", "evaluate-before", "train", "export", "evaluate")
    second = ("rollout", "weigh", "train", "export", "evaluate")
    assert found == [(verb, 1) for verb in first] + [(verb, 2) for verb in second]
    for verb, stage in found:  # what train.sbatch calls
        options = cli._parser().parse_args([verb, str(recipe), "training.lr=1e-4", "--stage", str(stage)])
        assert (options.verb, options.stage) == (verb, stage)


def test_a_phase_that_would_do_nothing_is_no_link(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, stages=STAGES)
    untested = load_config(recipe, ["problems.test=null", "evaluation.every=0"])
    assert not [verb for verb, _ in links(untested) if verb.startswith("evaluate")]
    measured = load_config(
        recipe, ["problems.test=null", "evaluation.every=0", "evaluation.pass_rates_after=true"]
    )
    assert [link for link in links(measured) if link[0] == "evaluate"] == [("evaluate", 2)]
    asked = ["problems.test=null", "evaluation.every=0", "evaluation.forgetting_tasks=[arc_easy]"]
    found = [link for link in links(load_config(recipe, asked)) if link[0].startswith("evaluate")]
    assert found == [("evaluate-before", 1), ("evaluate", 2)]
