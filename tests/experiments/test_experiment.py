"""The experiment file: every key checked, by file and line, and read back as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from loop.recipes import QUICKSTART
from paced_megatron.errors import UserError
from paced_megatron.experiments.experiment import (
    Selection,
    check_folder,
    load_experiment,
    read_experiment,
    with_recorded,
)
from paced_megatron.run_folder import ExperimentFolder

BASE = {
    "problems": {"train": "train.jsonl", "test": "test.jsonl"},
    "student": {"path": "student"},
    "teacher": {"path": "teacher"},
    "rollout": {"respond_to": "all"},
    "stages": [{"train_iters": 6}],
}
FILE = """\
run_dir: {run_dir}
base: base.yaml
arms:
  all: {{pacing.keep: all, pacing.kernel: uniform}}
  paced: {{}}
  longer:
    stages.0.train_iters: 9
    training.lr: 2e-6
seeds: [3, 1]
fast: {{arms: [paced], seeds: [1]}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "experiment.yaml").write_text(FILE.format(run_dir=tmp_path / "run"))
    return tmp_path / "experiment.yaml"


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_experiment(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_run_has_the_base_with_its_arms_overrides_its_seed_and_its_folder(path: Path) -> None:
    experiment = load_experiment(path)
    config = experiment.config("longer", 3)
    assert (config.stages[0].train_iters, config.training.lr, config.seed) == (9, 2e-6, 3)
    assert config.run_dir == path.parent / "run/arms/longer/seed-3"
    assert config.problems.train == str(path.parent / "train.jsonl")
    assert experiment.config("paced", 1).stages[0].train_iters == 6
    assert experiment.config("all", 1).pacing.keep == "all"
    assert experiment.runs() == [(arm, seed) for seed in (3, 1) for arm in ("all", "paced", "longer")]


def test_an_override_changes_the_base_and_an_arm_still_wins(path: Path) -> None:
    experiment = load_experiment(path, ["training.lr=5e-6", f"run_dir={path.parent / 'other'}", "seeds=[7]"])
    assert experiment.config("paced", 7).training.lr == 5e-6
    assert experiment.config("longer", 7).training.lr == 2e-6
    assert experiment.config("paced", 7).run_dir == path.parent / "other/arms/paced/seed-7"


def test_what_is_dumped_is_read_back_the_same_from_anywhere(path: Path) -> None:
    experiment = load_experiment(path, ["training.lr=5e-6"])
    folder = ExperimentFolder(path.parent / "moved")
    folder.path.mkdir()
    folder.experiment.write_text(experiment.dump())
    again = read_experiment(folder)
    assert again.run_dir == folder.path
    assert (again.arms, again.seeds, again.configs) == (experiment.arms, experiment.seeds, experiment.configs)
    assert yaml.safe_load(experiment.dump())["arms"]["longer"] == {
        "stages.0.train_iters": 9,
        "training.lr": "2e-6",
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("pacing.keep: all", "pacing.kept: all", 4, ["unknown key pacing.kept", "pacing.keep", "arm all"]),
        (
            "pacing.keep: all",
            "pacing.keep: most",
            4,
            ["pacing.keep must be frontier or", "'most'", "arm all"],
        ),
        ("stages.0.train_iters", "stages.1.train_iters", 7, ["stages has the entries 0 to 0", "arm longer"]),
        ("training.lr: 2e-6", "run_dir: x", 8, ["run_dir is set by the experiment's own run_dir"]),
        ("training.lr: 2e-6", "seed: 4", 8, ["seed is set by the experiment's seeds"]),
        ("training.lr: 2e-6", "rollout.attempts: 4", 8, ["may not differ in rollout.attempts", "made once"]),
        (
            "training.lr: 2e-6",
            "parallel.tensor_model_parallel_size: 2",
            8,
            ["may not differ in parallel.tensor_model_parallel_size", "one job"],
        ),
        ("  paced: {}", "  before: {}", 5, ["'before'", "arm's name"]),
        ("  paced: {}", "  a/b: {}", 5, ["'a/b'", "arm's name"]),
        ("  paced: {}", "  paced: [1]", 5, ["arms.paced must be a section of keys"]),
        ("[3, 1]", "[3, 3]", 9, ["seeds must be different"]),
        ("[3, 1]", "[]", 9, ["seeds must be different", "at least one"]),
        ("seeds: [3, 1]", "seed: [3, 1]", 9, ["unknown key seed", "did you mean seeds"]),
        ("seeds: [3, 1]", "seeds: [3, 9223372036854775808]", 9, ["from 0 to 9223372036854775807"]),
        ("base: base.yaml", "stages: []", 2, ["unknown key stages", "this is a run's file", "`paced run`"]),
        ("base: base.yaml", "seed: 1\nstages: []", 2, ["unknown key seed", "this is a run's file"]),
        ("base: base.yaml", "base: nowhere.yaml", 2, ["base:", "nowhere.yaml: no such file"]),
    ],
)
def test_a_mistake_is_named_by_file_and_line(
    path: Path, old: str, new: str, line: int, words: list[str]
) -> None:
    said = refused(edit(path, old, new))
    assert said.startswith(f"{path}:{line}: "), said
    assert all(word in said for word in words), said


def test_a_mistake_in_the_base_is_named_in_the_base(path: Path) -> None:
    edit(path.parent / "base.yaml", "train_iters: 6", "train_iter: 6")
    assert "base.yaml:" in refused(path) and "train_iters" in refused(path)


def test_a_weight_of_nothing_is_refused_with_the_arm(path: Path) -> None:
    said = refused(edit(path, "pacing.keep: all, pacing.kernel: uniform", "pacing.keep: all"))
    assert "problems that are never solved" in said and "(arm all)" in said


def test_arms_that_keep_different_problems_want_one_text(path: Path) -> None:
    assert "rollout.respond_to: all" in refused(path, "rollout.respond_to=kept")


def test_an_arm_that_filters_by_a_band_keeps_other_problems_too(path: Path) -> None:
    edit(path, "all: {pacing.keep: all, pacing.kernel: uniform}", "hard: {pacing.kernel: band}")
    said = refused(path, "rollout.respond_to=kept")
    assert "pacing.keep: frontier and kernel: band from 0.2 to 0.8" in said and "rollout.respond_to" in said
    edit(path, "hard: {pacing.kernel: band}", "soft: {pacing.kernel: gaussian}")
    assert load_experiment(path, ["rollout.respond_to=kept"]).arms["soft"]


def test_a_seed_as_an_override_is_refused(path: Path) -> None:
    assert "--seeds" in refused(path, "seed=4")


def test_an_arm_or_seed_that_is_not_there_is_refused_and_those_there_are_named(path: Path) -> None:
    experiment = load_experiment(path)
    with pytest.raises(UserError, match="there is no arm pased; the experiment has all, paced, longer"):
        experiment.only(Selection(arms=["pased"]))
    with pytest.raises(UserError, match="there is no seed 2; the experiment has 3, 1"):
        experiment.only(Selection(seeds=[2]))
    assert experiment.only(experiment.fast).runs() == [("paced", 1)]


def test_a_folder_of_another_experiment_is_refused_and_one_with_fewer_arms_is_gone_on_with(
    path: Path,
) -> None:
    experiment = load_experiment(path)
    check_folder(experiment)  # nothing is there yet
    experiment.run_dir.mkdir()
    part = experiment.only(Selection(arms=["paced"], seeds=[1]))
    experiment.folder.experiment.write_text(part.dump())
    check_folder(experiment)
    assert with_recorded(experiment).runs() == [
        (arm, seed) for seed in (1, 3) for arm in ("paced", "all", "longer")
    ]
    with pytest.raises(UserError, match=r"another experiment: training\.lr was 1e-06, is 3e-06 \(base\)"):
        check_folder(load_experiment(path, ["training.lr=3e-6"]))
    edit(path, "paced: {}", "paced: {pacing.alpha: 2}")
    with pytest.raises(UserError, match=r"pacing\.alpha was 1\.0, is 2\.0 \(arm paced\)"):
        check_folder(load_experiment(path))


def test_a_folder_with_something_else_in_it_is_refused(path: Path) -> None:
    experiment = load_experiment(path)
    experiment.run_dir.mkdir()
    (experiment.run_dir / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"not an experiment's folder \(it holds thesis\.tex"):
        check_folder(experiment)


def test_the_quickstarts_experiment_has_four_arms_three_seeds_and_one_budget() -> None:
    experiment = load_experiment(QUICKSTART / "experiment.yaml")
    assert len(experiment.runs()) == 12
    assert {config.stages[0].train_iters for config in experiment.configs.values()} == {40}
    assert experiment.base.parallel.tensor_model_parallel_size == 2
    assert len(experiment.only(experiment.fast).runs()) == 2
