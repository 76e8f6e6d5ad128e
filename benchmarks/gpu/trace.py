"""What a trace of torch's profiler says of one region: kernels by time, products among them, host syncs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Event = Mapping[str, Any]

PRODUCT = re.compile(r"gemm|nvjet|cutlass|xmma|cublas|aten::(mm|addmm|addmm_|bmm|baddbmm|_scaled_mm)$", re.I)
NO_PRODUCT = re.compile(r"flash|sdpa|fmha|attention", re.I)
"""attention is told apart, though it multiplies as well"""
RUNTIME = ("cuda_runtime", "cuda_driver")
SYNC = re.compile(r"^cu(da)?(Stream|Device|Ctx|Event)Synchronize|^cudaMemcpy$|^cuMemcpyDtoH(_v2)?$")
TO_HOST = re.compile(r"DtoH|Device -> (Pageable|Pinned)", re.I)


@dataclass(frozen=True)
class Kernel:
    name: str
    calls: int
    milliseconds: float

    @property
    def is_product(self) -> bool:
        return bool(PRODUCT.search(self.name)) and not NO_PRODUCT.search(self.name)


@dataclass(frozen=True)
class Region:
    """What the host did within it, and the device because of it."""

    kernels: Sequence[Kernel]
    """most time first; on a CPU torch's operations, by their own time"""
    syncs: Mapping[str, int]
    """calls by which the host waits for the device, and copies to the host, by name"""

    @property
    def milliseconds(self) -> float:
        return sum(kernel.milliseconds for kernel in self.kernels)

    @property
    def product_share(self) -> float:
        """Of the kernels' time; 0 where there are none."""
        products = sum(kernel.milliseconds for kernel in self.kernels if kernel.is_product)
        return products / self.milliseconds if self.kernels else 0.0

    @staticmethod
    def of(events: Iterable[Event], name: str) -> Region:
        """The region that record_function(name) made, of a trace's traceEvents. A kernel belongs to the call
        that started it, whenever it ran. Raises ValueError where the region is not there once."""
        spans = [event for event in events if event.get("ph") == "X"]
        regions = [
            event for event in spans if event.get("name") == name and event.get("cat") == "user_annotation"
        ]
        if len(regions) != 1:
            raise ValueError(f"the trace has {len(regions)} regions named {name}, not one")
        start = regions[0]["ts"]
        end = start + regions[0]["dur"]
        inside = [event for event in spans if start <= event["ts"] < end]
        calls = [event for event in inside if event.get("cat") in RUNTIME]
        started = {_correlation(event) for event in calls} - {None}
        on_device = [event for event in spans if _correlation(event) in started]
        kernels = [event for event in on_device if event.get("cat") == "kernel"]
        copies = [event for event in on_device if event.get("cat") == "gpu_memcpy"]
        syncs: dict[str, int] = defaultdict(int)
        for event in calls:
            if SYNC.search(event["name"]):
                syncs[event["name"]] += 1
        for event in copies:
            if TO_HOST.search(event["name"]):
                syncs["copies to the host"] += 1
        of_host = [event for event in inside if event.get("cat") == "cpu_op"]
        timed = [(e["name"], e["dur"]) for e in kernels] if calls else _own_times(of_host)
        return Region(_by_time(timed), dict(syncs))

    def table(self, rows: int = 25) -> str:
        lines = [f"{'ms':>10} {'share':>7} {'calls':>6}  kernel (* a product)"]
        for kernel in self.kernels[:rows]:
            share = kernel.milliseconds / self.milliseconds if self.milliseconds else 0.0
            star = "*" if kernel.is_product else " "
            lines.append(
                f"{kernel.milliseconds:>10.3f} {share:>7.3f} {kernel.calls:>6} {star}{kernel.name[:110]}"
            )
        left = self.kernels[rows:]
        if left:
            lines.append(f"{sum(k.milliseconds for k in left):>10.3f} in {len(left)} more")
        lines.append(f"all {self.milliseconds:.3f} ms; share of products {self.product_share:.3f}")
        counted = ", ".join(f"{count} x {name}" for name, count in self.syncs.items())
        lines.append(f"host syncs: {counted or 'none'}")
        return "\n".join(lines)


def _correlation(event: Event) -> int | None:
    return event.get("args", {}).get("correlation")


def _own_times(events: Sequence[Event]) -> list[tuple[str, float]]:
    """(name, microseconds without those of the operations within), thread by thread."""
    timed = []
    open_ones: dict[Any, list[tuple[float, int]]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        stack = open_ones[event["tid"]]
        while stack and stack[-1][0] <= event["ts"]:
            stack.pop()
        if stack:
            name, own = timed[stack[-1][1]]
            timed[stack[-1][1]] = name, own - event["dur"]
        stack.append((event["ts"] + event["dur"], len(timed)))
        timed.append((event["name"], event["dur"]))
    return timed


def _by_time(timed: Iterable[tuple[str, float]]) -> list[Kernel]:
    """(name, microseconds) of each call."""
    together: dict[str, list[float]] = defaultdict(list)
    for name, microseconds in timed:
        together[name].append(microseconds)
    kernels = [Kernel(name, len(times), sum(times) / 1000) for name, times in together.items()]
    return sorted(kernels, key=lambda kernel: -kernel.milliseconds)
