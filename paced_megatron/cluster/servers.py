"""Which SGLang servers a job on a cluster starts for a recipe, as assignments that bash can `eval`.

    python -m paced_megatron.cluster.servers VERB RECIPE [key=value ...]

A recipe that has one server started by the job itself (`rollout.launch`) gets servers as steps of the job's
allocation instead, started the same way: as many as fit, on every node that serves, named in `rollout.urls`.
"""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paced_megatron.config import Config
from paced_megatron.config.io import load_config
from paced_megatron.errors import UserError
from paced_megatron.exit_codes import DONE, USER_ERROR
from paced_megatron.models.families import model_shape
from paced_megatron.models.hub import local_folder

# SGLang's arguments whose product is the number of GPUs of one server.
_GPU_ARGUMENTS = {
    "--tp-size": "tp",
    "--tensor-parallel-size": "tp",
    "--tp": "tp",
    "--pp-size": "pp",
    "--pipeline-parallel-size": "pp",
    "--dp-size": "dp",
    "--data-parallel-size": "dp",
}


@dataclass(frozen=True)
class Servers:
    """What a job's servers are started on, and how.

    Attributes:
        student, teacher: the folder that a server is started on; None: none is needed of that kind. A teacher
            of the student's shapes needs none: the weights are loaded before each phase.
        python, args, env: as in `rollout.launch`.
        gpus: of one server.
        colocate: whether they let go of their memory while the trainer works.
    """

    student: Path | None = None
    teacher: Path | None = None
    python: Path | None = None
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 1
    colocate: bool = False


def servers_for(config: Config, verb: str) -> Servers:
    """The servers that `paced VERB` needs of a job; none where the engine is another one, its servers run
    elsewhere (`rollout.urls`), or the verb samples nothing.

    Raises:
        UserError: a model's folder can't be read.
    """
    if verb not in served_verbs(config):
        return Servers()
    rollout = config.rollout
    samples_student, samples_teacher = _samples(config)[verb]
    args = shlex.split(rollout.launch.args)
    student, teacher = local_folder(config.student.path), None
    if samples_teacher and config.teacher.path is not None:
        teacher = local_folder(config.teacher.path)
        teacher = None if model_shape(teacher) == model_shape(student) else teacher
    return Servers(
        student if samples_student or teacher is None else None,
        teacher,
        rollout.launch.python,
        args,
        rollout.launch.env,
        gpus_of(args),
        rollout.colocate,
    )


def served_verbs(config: Config) -> list[str]:
    """The verbs for which a job starts servers."""
    if config.rollout.engine != "sglang" or config.rollout.urls:
        return []
    return [verb for verb, models in _samples(config).items() if any(models)]


def _samples(config: Config) -> dict[str, tuple[bool, bool]]:
    """Whether a verb samples the student, and the teacher; a verb that is not there samples nothing."""
    taught = any(stage.text == "responses" for stage in config.stages)
    on_the_way = config.evaluation.every > 0 or any(stage.text == "rollouts" for stage in config.stages)
    return {
        "run": (True, taught),
        "rollout": (True, False),
        "respond": (False, taught),
        "train": (on_the_way, False),
        "evaluate-before": (True, False),
        "evaluate": (True, False),
    }


def gpus_of(args: Sequence[str]) -> int:
    """How many GPUs a server with these arguments takes: tensor x pipeline x data parallel."""
    sizes = {"tp": 1, "pp": 1, "dp": 1}
    words = [word for arg in args for word in arg.split("=", 1)]
    for name, value in itertools.pairwise(words):
        if name in _GPU_ARGUMENTS and value.isdecimal():
            sizes[_GPU_ARGUMENTS[name]] = int(value)
    # With attention data parallel the replicas share a tensor-parallel group; else each has its own GPUs.
    shared = "--enable-dp-attention" in words
    return sizes["tp"] * sizes["pp"] * (1 if shared else sizes["dp"])


def as_bash(servers: Servers, run_dir: Path) -> str:
    """Assignments, one a line, every value quoted."""

    def text(value: object) -> str:
        return shlex.quote("" if value is None else str(value))

    lists = {
        "LAUNCH_ARGS": servers.args,
        "LAUNCH_ENV": [f"{name}={value}" for name, value in servers.env.items()],
    }
    plain = {
        "RUN_DIR": run_dir,
        "SERVED_STUDENT": servers.student,
        "SERVED_TEACHER": servers.teacher,
        "LAUNCH_PYTHON": servers.python,
        "SERVER_GPUS": servers.gpus,
        "COLOCATE": int(servers.colocate),
    }
    lines = [f"{name}={text(value)}" for name, value in plain.items()]
    lines += [f"{name}=({' '.join(map(text, values))})" for name, values in lists.items()]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    verb, recipe, *overrides = argv
    try:
        config = load_config(Path(recipe), overrides)
        print(as_bash(servers_for(config, verb), config.run_dir))
    except UserError as error:
        print(f"paced: {error}", file=sys.stderr)
        return USER_ERROR
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
