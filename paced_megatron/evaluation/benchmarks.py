"""Benchmarks: where their problems come from, and how these are asked and scored. A new one is a row of
BENCHMARKS.

The hub could not be reached from where this was written: its names, splits and columns are those that public
code uses (NeMo-RL for AIME 2024, tasks for inspect for AIME 2025). math500.jsonl and aime24.jsonl were read
as files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from paced_megatron.config import PromptConfig, VerifierConfig
from paced_megatron.errors import UserError
from paced_megatron.evaluation.presets import did_you_mean
from paced_megatron.problems.load import load_problems
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.rows import BY_ENDING, HUB, read_rows

DATA_VARIABLE = "PACED_BENCHMARKS"
NO_FIELDS: Mapping[str, str] = {}
# METHOD.md, section 4: the problem, an empty line, one sentence; no system prompt.
BOXED = PromptConfig(
    template="{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
)

MATH = VerifierConfig()


@dataclass(frozen=True)
class Benchmark:
    """A row of BENCHMARKS.

    Attributes:
        title: as papers write it.
        hub: its address for `problems/rows.py`.
        format: a row of `problems/formats.py`, of the hub's set and of a file alike.
        problems: how many there are; fewer or more is another set.
        files: what a file of it may be called, without its ending, in --data or $PACED_BENCHMARKS.
        prompts, verifier: how a problem is asked and an attempt scored, unless --prompts-of says otherwise.
    """

    title: str
    hub: str
    format: str
    problems: int
    files: tuple[str, ...]
    prompts: PromptConfig = BOXED
    verifier: VerifierConfig = MATH


BENCHMARKS: dict[str, Benchmark] = {
    # problem, solution, answer, subject, level, unique_id
    "math500": Benchmark(
        "MATH-500", "hf://HuggingFaceH4/MATH-500?split=test", "math500", 500, ("math500", "math-500")
    ),
    # id (a number), problem, solution, answer, url, year
    "aime2024": Benchmark(
        "AIME 2024", "hf://HuggingFaceH4/aime_2024?split=train", "numbered", 30, ("aime2024", "aime24")
    ),
    # problem, answer, id
    "aime2025": Benchmark(
        "AIME 2025", "hf://math-ai/aime25?split=test", "numbered", 30, ("aime2025", "aime25")
    ),
}


@dataclass(frozen=True)
class ProblemList:
    """A benchmark's problems, read.

    Attributes:
        name: of its folder of results; `title`: for people; `source`: where the problems were.
        problems: in their order, `limit` of them; `total`: how many there were.
        sha256: of the problems as they are here: what tells another edition of a set apart.
    """

    name: str
    title: str
    source: str
    problems: Sequence[Problem]
    total: int
    prompts: PromptConfig
    verifier: VerifierConfig

    @property
    def sha256(self) -> str:
        lines = "".join(json.dumps(asdict(problem)) + "\n" for problem in self.problems)
        return hashlib.sha256(lines.encode()).hexdigest()


def read_benchmark(
    wanted: str, data: Path | None = None, fields: Mapping[str, str] = NO_FIELDS, limit: int | None = None
) -> ProblemList:
    """The problems of a row of BENCHMARKS, or of a file or dataset.

    Args:
        wanted: a name ("aime24" does as well as "aime2024"), a path, or hf://...
        data: a folder with files of benchmarks; None: $PACED_BENCHMARKS, and without one the hub.
        fields: our field -> the column, for a file of the user's.
        limit: the first so many problems only.

    Raises:
        UserError: an unknown name, a file without answers, whatever `load_problems` refuses; in one line.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: at least 1 problem is needed")
    name = _name(wanted)
    try:
        if name is None:
            source = wanted
            problems = load_problems(source, fields, "numbered" if fields else _format(source))
        else:
            source = _source(name, data)
            problems = load_problems(source, format=BENCHMARKS[name].format)
    except UserError as error:
        raise UserError(f"--benchmark {wanted}: {error}{_remedy(str(error), name)}") from error
    if name is None:
        title, prompts, verifier = _stem(wanted), BOXED, MATH
    else:
        row = BENCHMARKS[name]
        title, prompts, verifier = row.title, row.prompts, row.verifier
        if len(problems) != row.problems:
            raise UserError(
                f"--benchmark {wanted}: {source} has {len(problems)} problems, and {title} has "
                f"{row.problems}; give the file's path instead to evaluate on what it has"
            )
    kept = problems[:limit]
    return ProblemList(name or title, title, source, kept, len(problems), prompts, verifier)


def is_row(wanted: str) -> bool:
    """Whether this names a row of BENCHMARKS, by its name, title or file."""
    return _row(wanted) is not None


def _row(wanted: str) -> str | None:
    for name, row in BENCHMARKS.items():
        if wanted.lower() in (name, row.title.lower(), *row.files):
            return name
    return None


def _name(wanted: str) -> str | None:
    """The row's name; None for a file or dataset of the user's. UserError for neither."""
    if is_row(wanted):
        return _row(wanted)
    if wanted.startswith(HUB) or Path(wanted).exists():
        return None
    if Path(wanted).suffix.lower() in BY_ENDING or os.sep in wanted:
        raise UserError(f"--benchmark {wanted}: no such file")
    known = [alias for name, row in BENCHMARKS.items() for alias in dict.fromkeys((name, *row.files))]
    raise UserError(f"--benchmark {wanted}: no such benchmark or file; {did_you_mean(wanted, known)}")


def _source(name: str, data: Path | None) -> str:
    """The file in the folder of benchmarks, or, where no folder is named, the hub's address."""
    row = BENCHMARKS[name]
    folder = data or (Path(named) if (named := os.environ.get(DATA_VARIABLE)) else None)
    if folder is None:
        return row.hub
    called = "--data" if data else f"${DATA_VARIABLE}"
    if not folder.is_dir():
        raise UserError(f"{called} {folder}: no such folder")
    files = [folder / f"{stem}{ending}" for stem in row.files for ending in BY_ENDING]
    for file in files:
        if file.is_file():
            return str(file)
    raise UserError(f"{called} {folder}: no {files[0].name} in it; put the set there, or name its file")


def _format(source: str) -> str:
    """How a file of the user's is laid out, by its first row: rows without an id are numbered."""
    first = next(iter(read_rows(source)), None)
    has_its_own = first is not None and "id" not in first.values and "unique_id" in first.values
    return "math500" if has_its_own else "numbered"


def _remedy(error: str, name: str | None) -> str:
    """What `paced evaluate` has in place of a key that the message names, or of the hub."""
    if name is None:
        return " (here: --field answer=COLUMN)" if "problems.fields" in error else ""
    if error.startswith(HUB):
        return f"; or put {BENCHMARKS[name].files[0]}.jsonl into a folder and name that in --data"
    return ""


def _stem(source: str) -> str:
    """A name for people and folders: "dev" for a/dev.jsonl and for hf://org/dev?split=test."""
    return Path(source.removeprefix(HUB).partition("?")[0]).stem or "benchmark"
