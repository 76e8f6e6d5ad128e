"""Tokens per second of our SGLang engine, two bare loops on the same server, and the embedded engine.

    PACED_SGLANG_PYTHON=$PWD/.venv-sglang/bin/python PYTHONPATH=. python benchmarks/rollout.py
    PYTHONPATH=. python benchmarks/rollout.py --url http://127.0.0.1:30000 --model FOLDER # one that runs
    PYTHONPATH=. python benchmarks/rollout.py ... --quick --out /tmp/quick.csv        # does it run at all

`benchmarks/README.md` says what the columns mean. The variants take turns, repetition by repetition, with the
same requests and seeds, without log-probabilities, each on an empty prefix cache.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from machine import about_this_run, add_rows, busy_seconds

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))  # tiny_models, and the server on the CPU

from paced_megatron.rollout import Completion, Request, Sampling, attempt_requests  # noqa: E402

CONCURRENCY = 64
ATTEMPTS = 8  # at a problem
BARE = ("singles", "batches")
PRINTED = (
    "variant",
    "tokens_per_s",
    "over_faster_bare",
    "cpu_s_per_1000_tokens",
    "tokens",
    "cores_of_others",
)


def post(connection: http.client.HTTPConnection, path: str, body: Any) -> Any:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {content.decode(errors='replace')}")
    return json.loads(content)


def flush_cache(address: str) -> None:
    """Wait until the server is idle, and empty its prefix cache."""
    for _ in range(100):
        with contextlib.closing(http.client.HTTPConnection(address)) as connection:
            connection.request("POST", "/flush_cache")
            if connection.getresponse().status == 200:  # it says 400 while a request runs
                return
        time.sleep(0.1)
    raise SystemExit(f"http://{address}: somebody else uses this server")


def parameters(request: Request, sampling: Sampling, stop: Sequence[int]) -> dict[str, Any]:
    drawn = {name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k", "max_new_tokens")}
    return drawn | {"stop_token_ids": list(stop), "sampling_seed": request.seed}


def singles(address: str, requests: Sequence[Request], sampling: Sampling, stop: Sequence[int]) -> int:
    """A bare loop: one prompt in a POST, 64 POSTs in flight. Returns the number of new tokens."""
    left = iter(requests)  # next() of a list's iterator is atomic

    def work(_: int) -> int:
        connection, tokens = http.client.HTTPConnection(address), 0
        for request in left:
            body = {"input_ids": request.prompt_ids, "sampling_params": parameters(request, sampling, stop)}
            tokens += len(post(connection, "/generate", body)["output_ids"])
        connection.close()
        return tokens

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return sum(pool.map(work, range(CONCURRENCY)))


def batches(address: str, requests: Sequence[Request], sampling: Sampling, stop: Sequence[int]) -> int:
    """A bare loop: one POST of 64 prompts after the other. Returns the number of new tokens."""
    connection, tokens = http.client.HTTPConnection(address), 0
    for start in range(0, len(requests), CONCURRENCY):
        batch = requests[start : start + CONCURRENCY]
        body = {
            "input_ids": [request.prompt_ids for request in batch],
            "sampling_params": [parameters(request, sampling, stop) for request in batch],
        }
        tokens += sum(len(answer["output_ids"]) for answer in post(connection, "/generate", body))
    connection.close()
    return tokens


@dataclass
class Record:
    """What the repetitions of one variant gave."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        return [tokens / seconds for tokens, seconds in zip(self.tokens, self.seconds, strict=True)]

    def measure(self, job: Callable[[], int], server: Sequence[psutil.Process]) -> None:
        busy, cpu, served, start = busy_seconds(), time.process_time(), used_by(server), time.perf_counter()
        self.tokens.append(job())
        self.seconds.append(time.perf_counter() - start)
        self.cpu.append(time.process_time() - cpu)
        self.server_cpu.append(used_by(server) - served)
        ours = self.cpu[-1] + self.server_cpu[-1]
        self.others.append((busy_seconds() - busy - ours) / self.seconds[-1])
        self.loads.append(os.getloadavg()[0])


def used_by(processes: Sequence[psutil.Process]) -> float:
    """Processor seconds, user and system."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def work(model: Path, problems: int, new_tokens: int) -> tuple[list[Request], Sampling, list[int]]:
    """8 attempts at each of `problems` prompts of 8 to 47 random tokens; and the ids at which all stop."""
    from paced_megatron.problems.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)
    generator = torch.Generator().manual_seed(31)
    prompts = {
        f"problem-{number}": torch.randint(0, 256, (8 + number % 40,), generator=generator).tolist()
        for number in range(problems)
    }
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=new_tokens)
    return attempt_requests(prompts, ATTEMPTS, seed=32), sampling, [tokenizer.eos_token_id]


def sglang_version(address: str) -> str:
    with contextlib.closing(http.client.HTTPConnection(address)) as connection:
        connection.request("GET", "/server_info")
        return str(json.loads(connection.getresponse().read()).get("version", "unknown"))


def server_processes(address: str) -> list[psutil.Process]:
    """Whoever listens at the address (of this host), and its children."""
    port = int(address.rpartition(":")[2])
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            main = psutil.Process(connection.pid)
            return [main, *main.children(recursive=True)]
    return []


def run_all(variants: dict[str, Callable[[], int]], address: str, repetitions: int) -> dict[str, Record]:
    """The variants in turn, repetition by repetition, after one of each that is not timed."""
    for job in variants.values():
        job()
    records = {name: Record() for name in variants}
    server = server_processes(address)
    for _ in range(repetitions):
        for name, job in variants.items():
            flush_cache(address)
            records[name].measure(job, server)
    return records


def rows(records: dict[str, Record], common: dict[str, object]) -> list[dict[str, object]]:
    """A row per variant; `over_faster_bare` compares with the faster bare loop, by the medians of both."""
    bare = max((records[name] for name in BARE), key=lambda record: statistics.median(record.rates))
    made = []
    for name, record in records.items():
        tokens = sum(record.tokens)
        ratios = [mine / theirs for mine, theirs in zip(record.rates, bare.rates, strict=True)]
        made.append(
            common
            | {
                "variant": name,
                "tokens_per_s": f"{statistics.median(record.rates):.0f}",
                "min_tokens_per_s": f"{min(record.rates):.0f}",
                "max_tokens_per_s": f"{max(record.rates):.0f}",
                "over_faster_bare": f"{statistics.median(record.rates) / statistics.median(bare.rates):.3f}",
                "median_of_ratios": f"{statistics.median(ratios):.3f}",
                "cpu_s_per_1000_tokens": f"{1000 * sum(record.cpu) / tokens:.4f}",
                "server_cpu_s_per_1000_tokens": f"{1000 * sum(record.server_cpu) / tokens:.4f}",
                "tokens": tokens // len(record.tokens),
                "repetitions": len(record.tokens),
                "load": f"{statistics.median(record.loads):.2f}",
                "cores_of_others": f"{statistics.median(record.others):.2f}",
            }
        )
    return made


Variant = Callable[
    [str, Path, list[Request], Sampling, list[int]], contextlib.AbstractContextManager[Callable[[], int]]
]


def bare(loop: Callable[..., int]) -> Variant:
    return lambda address, model, *asked: contextlib.nullcontext(lambda: loop(address, *asked))


@contextlib.contextmanager
def embedded(
    address: str, model: Path, requests: list[Request], sampling: Sampling, stop: list[int]
) -> Iterator[Callable[[], int]]:
    """transformers' generation in this process, in batches as large as what the others have in flight."""
    from paced_megatron.rollout.embedded import EmbeddedEngine

    with contextlib.closing(EmbeddedEngine(CONCURRENCY)) as engine:
        engine.load_weights(model, "default")
        yield lambda: new_tokens(engine.generate(requests, sampling))


def new_tokens(units: Iterable[Sequence[Completion]]) -> int:
    return sum(len(completion.token_ids) for unit in units for completion in unit)


@contextlib.contextmanager
def ours(
    address: str, model: Path, requests: list[Request], sampling: Sampling, stop: list[int]
) -> Iterator[Callable[[], int]]:
    """Our engine, after it has given the server its weights. Attempts are not written to a file."""
    from paced_megatron.config import RolloutConfig
    from paced_megatron.rollout.sglang.engine import SGLangEngine

    rollout = RolloutConfig(engine="sglang", urls=[f"http://{address}"], concurrency=CONCURRENCY)
    engine = SGLangEngine(rollout, student=model, teacher=model, logs=Path(), say=print)
    with contextlib.closing(engine):
        engine.load_weights(model, "benchmark")
        yield lambda: new_tokens(engine.generate(requests, sampling))


VARIANTS: dict[str, Variant] = {
    "singles": bare(singles),
    "batches": bare(batches),
    "ours": ours,
    "embedded": embedded,
}


@contextlib.contextmanager
def a_server(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """(host:port, model): the one that was named, or one on the CPU with a tiny model, started here."""
    if arguments.url:
        if not arguments.model:
            raise SystemExit("--url without --model: name the folder that the server serves")
        yield arguments.url.removeprefix("http://").rstrip("/"), arguments.model
        return
    from sglang_server import cpu_launch, interpreter, servers
    from tiny_models import make_tiny_qwen3

    model = make_tiny_qwen3(folder / "model", seed=30)
    with servers(cpu_launch(interpreter(os.environ)), folder) as start:
        yield start(model).url.removeprefix("http://"), model


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a running server; by default one is started on the CPU")
    parser.add_argument("--model", type=Path, help="the folder that the server at --url serves")
    parser.add_argument("--problems", type=int, default=32, help="with 8 attempts each")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="8 problems of 8 tokens, once")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path, help="the CSV to write; by default under benchmarks/results")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.problems, arguments.new_tokens, arguments.repetitions = 8, 8, 1
    out = arguments.out or ROOT / "benchmarks/results" / f"rollout-{datetime.date.today()}.csv"
    with tempfile.TemporaryDirectory() as scratch, a_server(arguments, Path(scratch)) as (address, model):
        asked = work(model, arguments.problems, arguments.new_tokens)
        with contextlib.ExitStack() as stack:
            variants = {
                name: stack.enter_context(VARIANTS[name](address, model, *asked))
                for name in arguments.variants
            }
            records = run_all(variants, address, arguments.repetitions)
        common = about_this_run("cpu") | {
            "sglang": sglang_version(address),
            "requests": len(asked[0]),
            "max_new_tokens": arguments.new_tokens,
            "concurrency": CONCURRENCY,
        }
        made = rows(records, common)
    add_rows(out, made)
    for row in made:
        print(*(f"{key}={row[key]}" for key in PRINTED))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
