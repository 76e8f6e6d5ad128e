"""Time and memory of the converter, both directions, beside `cp` of the same bytes.

    python benchmarks/converter.py                  # 2 GB; writes benchmarks/results/converter-DATE.csv
    python benchmarks/converter.py --quick          # a few MB: does it run at all
    python benchmarks/converter.py --layers 28 --repetitions 5 --folder /somewhere/with/8/GB

`benchmarks/README.md` says what the columns mean. The variants take turns, repetition by repetition, each
conversion in a process of its own, so that its high-water mark is its own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from machine import PEAKS, about_this_run, add_rows, busy_seconds

ROOT = Path(__file__).resolve().parents[1]
MB = 2**20
VARIANTS = ["cp", "cp_synced", "to_megatron", "to_hf"]
PRINTED = [
    "variant",
    "mb",
    "median_s",
    "over_cp",
    "over_cp_synced",
    "peak_mb",
    "peak_anon_mb",
    "cores_of_others",
]


def make_source(folder: Path, hidden: int, layers: int, vocabulary: int, shard_mb: int) -> None:
    """A random Qwen3 in bfloat16, in shards of a layer or more, written without holding it."""
    from paced_megatron.models.families import model_shape
    from paced_megatron.models.hf_writer import write_folder
    from paced_megatron.models.mapping import hugging_face_shapes

    config = json.loads((ROOT / "examples/quickstart/student/config.json").read_text())
    config |= {
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 128,
        "num_key_value_heads": hidden // 256,
        "head_dim": 128,
        "vocab_size": vocabulary,
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
        "layer_types": ["full_attention"] * layers,
        "max_window_layers": layers,
    }
    seed = folder.with_name("config")
    seed.mkdir()
    (seed / "config.json").write_text(json.dumps(config))
    torch.manual_seed(7)
    shapes = hugging_face_shapes(model_shape(seed))
    tensors = ((name, torch.randn(size, dtype=torch.bfloat16)) for name, size in shapes.items())
    write_folder(tensors, shapes=shapes, source=seed, out=folder, max_shard_size=shard_mb * MB)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def copy(source: Path, out: Path, synced: bool) -> dict[str, float]:
    start = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(out)], check=True)
    if synced:  # as the converter does before the folder gets its name
        for path in out.rglob("*"):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    return {"seconds": time.perf_counter() - start}


def convert(direction: str, source: Path, out: Path) -> dict[str, float]:
    """In a process of its own."""
    command = [sys.executable, __file__, "--child", direction, str(source), str(out)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(answer.splitlines()[-1])


class AnonymousPeak(threading.Thread):
    """The most memory that is the process's own (RssAnon), looked at every 2 ms: without the pages of mapped
    files, which the kernel takes back when it needs them."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first, self.most, self.over = self._now(), 0, threading.Event()

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    def run(self) -> None:
        while not self.over.wait(0.002):
            self.most = max(self.most, self._now())


def child(direction: str, source: Path, out: Path) -> None:
    """What `convert` starts: one conversion, and a line of JSON about it."""
    # torch's checkpoint writer imports its compiler when it is first called, and with it Triton where that is
    # installed; imports count to what was held before.
    import torch._dynamo  # noqa: F401

    from paced_megatron.models.convert import to_hugging_face, to_megatron

    work: Callable[[Path, Path], None] = to_megatron if direction == "to_megatron" else to_hugging_face
    before, anonymous = PEAKS["cpu"].start(), AnonymousPeak()
    anonymous.start()
    cpu, start = time.process_time(), time.perf_counter()
    work(source, out)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    anonymous.over.set()
    anonymous.join()
    peak = {"peak": PEAKS["cpu"].peak() - before, "anonymous": anonymous.most - anonymous.first}
    print(json.dumps({"seconds": seconds, "cpu": cpu} | peak))


@dataclass
class Record:
    """What the repetitions of one variant gave."""

    runs: list[dict[str, float]] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def measure(self, job: Callable[[], dict[str, float]]) -> None:
        busy, mine, start = busy_seconds(), _own_seconds(), time.perf_counter()
        self.runs.append(job())
        seconds = time.perf_counter() - start
        self.others.append((busy_seconds() - busy - (_own_seconds() - mine)) / seconds)
        self.loads.append(os.getloadavg()[0])

    def median(self, key: str) -> float:
        return statistics.median(run[key] for run in self.runs)


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def run_all(work: Path, repetitions: int) -> dict[str, Record]:
    records = {name: Record() for name in VARIANTS}
    source, checkpoint = work / "source", work / "checkpoint"
    jobs: dict[str, Callable[[], dict[str, float]]] = {
        "cp": lambda: copy(source, work / "copy", synced=False),
        "cp_synced": lambda: copy(source, work / "copy", synced=True),
        "to_megatron": lambda: convert("to_megatron", source, checkpoint),
        "to_hf": lambda: convert("to_hf", checkpoint, work / "copy"),
    }
    for _ in range(repetitions):
        shutil.rmtree(checkpoint, ignore_errors=True)
        for name, job in jobs.items():
            os.sync()  # nobody pays for what others wrote
            records[name].measure(job)
            shutil.rmtree(work / "copy", ignore_errors=True)
    return records


def rows(records: dict[str, Record], mb: float, common: dict[str, object]) -> list[dict[str, object]]:
    def over(record: Record, other: str) -> str:
        pairs = zip(record.runs, records[other].runs, strict=True)
        return f"{statistics.median(mine['seconds'] / theirs['seconds'] for mine, theirs in pairs):.2f}"

    made = []
    for name, record in records.items():
        own = "peak" in record.runs[0]
        made.append(
            {
                **common,
                "mb": f"{mb:.0f}",
                "variant": name,
                "median_s": f"{record.median('seconds'):.3g}",
                "min_s": f"{min(run['seconds'] for run in record.runs):.3g}",
                "over_cp": over(record, "cp"),
                "over_cp_synced": over(record, "cp_synced"),
                "cpu_s": f"{record.median('cpu'):.3g}" if own else "",
                "peak_mb": f"{max(run['peak'] for run in record.runs) / MB:.0f}" if own else "",
                "peak_anon_mb": f"{max(run['anonymous'] for run in record.runs) / MB:.0f}" if own else "",
                "repetitions": len(record.runs),
                "load": f"{statistics.median(record.loads):.2f}",
                "cores_of_others": f"{statistics.median(record.others):.2f}",
            }
        )
    return made


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few MB")
    parser.add_argument("--hidden", type=int, default=2048, help="a multiple of 256")
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--vocabulary", type=int, default=151_936, help="rows of the embedding and the head")
    parser.add_argument("--shard-mb", type=int, default=1000, help="size of the source's files")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--out", type=Path, help="the CSV to write; by default under benchmarks/results")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.hidden, arguments.layers, arguments.vocabulary = 256, 3, 1000
    out = arguments.out or ROOT / "benchmarks/results" / f"converter-{datetime.date.today()}.csv"
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        source = Path(work) / "source"
        make_source(source, arguments.hidden, arguments.layers, arguments.vocabulary, arguments.shard_mb)
        common = about_this_run("cpu") | {
            "hidden_size": arguments.hidden,
            "layers": arguments.layers,
            "vocabulary": arguments.vocabulary,
        }
        made = rows(run_all(Path(work), arguments.repetitions), size_of(source) / MB, common)
    add_rows(out, made)
    for row in made:
        print(*(f"{key}={row[key]}" for key in PRINTED))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
