"""What is evaluated: Hugging Face folders, models of the hub, and runs by their last stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paced_megatron.config.io import recorded_config
from paced_megatron.errors import UserError
from paced_megatron.models.families import read_config
from paced_megatron.models.hub import is_hub_id, local_folder
from paced_megatron.models.weight_files import WeightFiles
from paced_megatron.run_folder import RunFolder


@dataclass(frozen=True)
class Target:
    """A model to evaluate.

    Attributes:
        name: what tables call it; of several targets each has its own.
        folder: the Hugging Face folder.
        results: where its results are by default.
    """

    name: str
    folder: Path
    results: Path


def find_targets(given: Sequence[Path]) -> list[Target]:
    """The models that the command line names, in its order; nothing of them is loaded.

    Raises:
        UserError: one is no model's folder, a run without a trained student, or named twice.
    """
    folders = [_model_folder(path) for path in given]
    twice = [path for path, folder in zip(given, folders, strict=True) if folders.count(folder) > 1]
    if twice:
        raise UserError(f"{twice[0]}: named twice; a model is compared with others")
    names = _names(given)
    return [
        Target(name, folder, _results(path, name))
        for name, path, folder in zip(names, given, folders, strict=True)
    ]


def _model_folder(path: Path) -> Path:
    if path.is_file():
        raise UserError(f"{path}: a file; a target is a run's YAML, or the folder of a model or of a run")
    if (path / "config.yaml").is_file():
        stages = len(recorded_config(path / "config.yaml").stages)
        folder = RunFolder(path).stage(stages).student
        if not folder.is_dir():
            raise UserError(f"{folder}: not made yet; run `paced export {path / 'config.yaml'}` first")
    elif (path / "arms").is_dir() and (path / "experiment.yaml").is_file():
        raise UserError(f"{path}: an experiment; name its runs, as {path}/arms/ARM/seed-1")
    elif not path.exists() and not is_hub_id(str(path)):
        raise UserError(f"{path}: no such folder; a target is the folder of a model or of a run")
    else:
        folder = local_folder(path)
    read_config(folder)
    WeightFiles(folder).check_readable()
    return folder.resolve()


def _results(path: Path, name: str) -> Path:
    """Beside the model; the hub's cache is no place for results."""
    return path / "evaluation" if path.is_dir() else Path("evaluations") / name


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart: "a/seed-1", "b/seed-1"."""
    parts = [path.resolve().parts[1:] if path.is_dir() else path.parts for path in paths]
    most = max(map(len, parts))
    for count in range(1, most + 1):
        names = ["-".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
