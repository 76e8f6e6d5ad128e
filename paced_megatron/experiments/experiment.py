"""The experiment file: one configuration, and what each arm changes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import yaml

from paced_megatron.config import LARGEST_SEED, Config, Key
from paced_megatron.config.check import build, build_section
from paced_megatron.config.io import config_to_dict, diff_configs, read_tree
from paced_megatron.config.tree import Node, apply_override, replace_key
from paced_megatron.errors import UserError
from paced_megatron.pacing import what_is_kept
from paced_megatron.run_folder import ExperimentFolder

BEFORE = "before"  # the student before training: a row of the table, so no arm may be called that

# What the arms of an experiment may differ in. All else comes before the arms part: a seed's attempts, the
# teacher's text and the first evaluation are made once for all of them, in one job.
MAY_DIFFER = ("pacing", "training", "stages")
_SET_HERE = {"run_dir": "the experiment's own run_dir", "seed": "the experiment's seeds"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Selection:
    """Some of the arms and seeds; None: all."""

    arms: Annotated[list[str] | None, Key("names of arms")] = None
    seeds: Annotated[list[int] | None, Key("seeds")] = None


@dataclass(frozen=True, kw_only=True)
class _File:
    """The keys of an experiment file."""

    run_dir: Annotated[
        Path, Key("the experiment's folder; made if absent, continued if it holds the same one")
    ]
    base: Annotated[Any, Key("the configuration that the arms share: a YAML file, or its keys")]
    arms: Annotated[dict[str, dict[str, Any]], Key("name -> {dotted key: value}, as `pacing.keep: all`")]
    seeds: Annotated[list[int], Key("each arm is run once with each")]
    fast: Annotated[Selection, Key("what --fast runs")] = field(default_factory=Selection)


@dataclass(frozen=True)
class Experiment:
    """An experiment, every key of it checked.

    Attributes:
        base: the configuration that the arms share; its seed and run_dir mean nothing.
        arms: name -> dotted key -> value.
        fast: what --fast runs.
    """

    run_dir: Path
    seeds: tuple[int, ...]
    base: Config
    arms: Mapping[str, Mapping[str, Any]]
    configs: Mapping[str, Config]
    fast: Selection

    @property
    def folder(self) -> ExperimentFolder:
        return ExperimentFolder(self.run_dir)

    def config(self, arm: str, seed: int) -> Config:
        """The configuration of one run."""
        return replace(self.configs[arm], seed=seed, run_dir=self.folder.arm(arm, seed).path)

    def shared_config(self, seed: int) -> Config:
        """The configuration under which what the arms of a seed have in common is made."""
        return replace(self.base, seed=seed, run_dir=self.folder.shared(seed).path)

    def runs(self) -> list[tuple[str, int]]:
        """(arm, seed) of every run; the arms of a seed side by side."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    def only(self, selection: Selection) -> Experiment:
        """The part that is selected. Raises UserError for an arm or a seed that is not there."""
        arms = list(self.arms) if selection.arms is None else selection.arms
        seeds = list(self.seeds) if selection.seeds is None else selection.seeds
        for what, chosen, there in (("arm", arms, list(self.arms)), ("seed", seeds, list(self.seeds))):
            for name in chosen:
                if name not in there:
                    raise UserError(f"there is no {what} {name}; the experiment has {_listed(there)}")
        return replace(
            self,
            arms={name: self.arms[name] for name in self.arms if name in arms},
            configs={name: self.configs[name] for name in self.configs if name in arms},
            seeds=tuple(seed for seed in self.seeds if seed in seeds),
        )

    def dump(self) -> str:
        """As YAML, base and overrides resolved; `load_experiment` reads it back."""
        document = {
            "run_dir": str(self.run_dir),
            "seeds": list(self.seeds),
            "arms": {name: dict(overrides) for name, overrides in self.arms.items()},
            "base": config_to_dict(self.base),
        }
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file, apply overrides, check every key of every arm.

    An override of `run_dir`, `seeds` or `arms` is one of the experiment; any other is one of its base. Paths
    are read as in a configuration: those in a file start at its folder, `run_dir` at the current directory.

    Raises:
        UserError: what is wrong, by file and line (or the override), and the arm.
    """
    tree = read_tree(path)
    own = [override for override in overrides if _is_own(override)]
    for override in own:
        tree = apply_override(tree, override)
    file = build_section(tree, _File)
    _check_names(tree, file)
    base_tree = _base_tree(tree)
    for override in overrides:
        if override not in own:
            base_tree = apply_override(base_tree, override)
    for override in overrides:
        if override.partition("=")[0].strip() == "seed":
            raise UserError(
                f"override {override}: an experiment has seeds; choose with --seeds, or seeds=[1,2]"
            )
    here = Node(None, str(path), Path.cwd())
    base_tree = replace_key(base_tree, "run_dir", replace(here, value=str(file.run_dir)))
    base_tree = replace_key(base_tree, "seed", replace(here, value=file.seeds[0]))
    base = build(base_tree)
    experiment = Experiment(
        run_dir=file.run_dir,
        seeds=tuple(file.seeds),
        base=base,
        arms=file.arms,
        configs={name: _arm_config(tree, base_tree, base, name) for name in file.arms},
        fast=file.fast,
    )
    experiment.only(replace(file.fast, seeds=None))  # the seeds may have been overridden
    _check_one_text(tree, experiment)
    return experiment


def _is_own(override: str) -> bool:
    return override.partition("=")[0].strip().partition(".")[0] in ("run_dir", "seeds", "arms", "fast")


def _check_names(tree: Node, file: _File) -> None:
    arms, seeds = tree.find("arms"), tree.find("seeds")
    if not file.arms:
        raise UserError(f"{arms.where}: arms is empty; name at least one, e.g. `paced: {{}}`")
    for name in file.arms:
        if not _NAME.fullmatch(name) or name == BEFORE:
            raise UserError(
                f"{arms.value[name].where}: {name!r} can't be an arm's name, which is a folder's too: "
                f"letters, digits, `_`, `-`, `.`, and not {BEFORE!r}, which is the student before training"
            )
    seen = set(file.seeds)
    if not seen or len(seen) < len(file.seeds) or min(seen) < 0 or max(seen) > LARGEST_SEED:
        raise UserError(
            f"{seeds.where}: seeds must be different whole numbers from 0 to {LARGEST_SEED}, at least one"
        )


def _base_tree(tree: Node) -> Node:
    base = tree.find("base")
    if isinstance(base.value, dict):
        return base
    if not isinstance(base.value, str):
        raise UserError(f"{base.where}: base must be a YAML file or its keys, not {base.describe()}")
    try:
        return read_tree(base.folder / base.value)
    except UserError as error:
        raise UserError(f"{base.where}: base: {error}") from None


def _arm_config(tree: Node, base_tree: Node, base: Config, name: str) -> Config:
    overrides = tree.find("arms").value[name]
    try:
        for dotted, node in (overrides.value or {}).items():
            section = dotted.partition(".")[0]
            if section in _SET_HERE:
                raise UserError(f"{node.where}: {dotted} is set by {_SET_HERE[section]}")
            base_tree = replace_key(base_tree, dotted, node)
        config = build(base_tree)
    except UserError as error:
        raise UserError(f"{error} (arm {name})") from None
    for key, _, _ in diff_configs(base, config, ignore=MAY_DIFFER):
        where = overrides.value.get(key, overrides).where
        why = (
            "all arms run in one job"
            if key.startswith("parallel.")
            else "what a seed's arms start from is made once for all of them"
        )
        raise UserError(
            f"{where}: arms may not differ in {key} (arm {name}): {why}; set it in the base, or take an "
            f"experiment of its own (arms may differ in {_listed(MAY_DIFFER)})"
        )
    return config


def _check_one_text(tree: Node, experiment: Experiment) -> None:
    configs = (experiment.base, *experiment.configs.values())
    kept = {what_is_kept(config.pacing, config.rollout.attempts) for config in configs}
    if len(kept) > 1 and experiment.base.rollout.respond_to != "all":
        listed = _listed(sorted(kept))
        raise UserError(
            f"{tree.find('base').where}: arms and base keep different problems ({listed}) and "
            "have to learn from the same text; set rollout.respond_to: all in the base"
        )


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names))


def read_experiment(folder: ExperimentFolder) -> Experiment:
    """The experiment that a folder holds, wherever it was moved to. Raises UserError where it holds none."""
    if not folder.experiment.is_file():
        raise UserError(f"{folder.path}: not an experiment's folder (it has no experiment.yaml)")
    return replace(load_experiment(folder.experiment), run_dir=folder.path)


def check_folder(experiment: Experiment) -> None:
    """Writes nothing.

    Raises:
        UserError: the folder holds something else, or another experiment: another base, or an arm of the same
            name with other overrides.
    """
    folder = experiment.folder
    if not folder.experiment.exists():
        if folder.path.exists() and not folder.path.is_dir():
            raise UserError(f"{folder.path}: a file; run_dir names a folder")
        found = [path.name for path in folder.path.iterdir()] if folder.path.is_dir() else []
        foreign = [name for name in found if not name.startswith(".") and name != folder.logs.name]
        if foreign:
            raise UserError(
                f"{folder.path}: not an experiment's folder (it holds {min(foreign)} and no "
                "experiment.yaml); choose another run_dir"
            )
        return
    recorded = read_experiment(folder)
    pairs = [("base", recorded.base, experiment.base)]
    both = [name for name in experiment.arms if name in recorded.arms]
    pairs += [(f"arm {name}", recorded.configs[name], experiment.configs[name]) for name in both]
    for what, old, new in pairs:
        for key, before, after in diff_configs(old, new, ignore=("run_dir", "seed")):
            raise UserError(
                f"{folder.path} holds another experiment: {key} was {before!r}, is {after!r} ({what}); "
                f"choose another run_dir, or go back to {folder.experiment}"
            )


def with_recorded(experiment: Experiment) -> Experiment:
    """The experiment, and the arms and seeds that its folder holds beside it."""
    if not experiment.folder.experiment.exists():
        return experiment
    recorded = read_experiment(experiment.folder)
    return replace(
        experiment,
        arms={**recorded.arms, **experiment.arms},
        configs={**recorded.configs, **experiment.configs},
        seeds=tuple(sorted({*recorded.seeds, *experiment.seeds})),
    )
