"""What a size can cost at best, computed and not measured: FLOPs and bytes over the ceilings of one GPU.

    python -m benchmarks.gpu.roofline --sizes 8192x1024 8192x4096

A product takes the longer of its arithmetic and its bytes; what stands between the products takes its bytes.
`in turns` adds all of that up, as one stream does; `side by side` is the longer of all arithmetic and all
bytes, what no schedule can beat that moves the same bytes. What our walk reads and writes of the logits:

| pass | bytes for each of N x V entries |
|---|---|
| statistics: reads both float32 logits | 8 |
| gradient: reads both, writes one in bf16 | 10 |
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

VOCABULARY = 151_936
STATISTICS_BYTES = 8
GRADIENT_BYTES = 10
FLOAT32, BF16 = 4, 2
GOAL = 1.10
"""times the floor, issue 13"""
CHUNKS = (256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Ceilings:
    """Of one GPU: what a large copy and a large bf16 product reach. By default those measured on an H200 here
    on 2026-10-28 (KINDS.md of the tool device: 4.3 TB/s read and written, 788 TFLOP/s)."""

    flops: float = 790e12
    """a second"""
    bandwidth: float = 4.3e12
    """bytes a second"""

    def product(self, flops: float, moved: float) -> float:
        """Seconds."""
        return max(flops / self.flops, moved / self.bandwidth)


@dataclass(frozen=True)
class Size:
    """N tokens, hidden sizes of student and teacher, vocabulary."""

    tokens: int
    student: int
    teacher: int
    vocabulary: int = VOCABULARY

    @staticmethod
    def parse(text: str, vocabulary: int = VOCABULARY) -> Size:
        """8192x1024, or 8192x1024/2048 where the teacher is wider. Raises ValueError for anything else."""
        tokens, _, hidden = text.partition("x")
        student, _, teacher = hidden.partition("/")
        try:
            size = Size(int(tokens), int(student), int(teacher or student), vocabulary)
        except ValueError:
            size = Size(0, 0, 0, vocabulary)
        if min(size.tokens, size.student) < 1 or size.teacher < size.student:
            raise ValueError(f"{text} is not N x H_s, as 8192x1024, nor N x H_s / H_t, as 8192x1024/2048")
        return size

    def __str__(self) -> str:
        wider = "" if self.teacher == self.student else f"/{self.teacher}"
        return f"{self.tokens}x{self.student}{wider}"

    @property
    def flops(self) -> float:
        """Of the four products: both logits, the hidden gradient and the head's."""
        return 2.0 * self.tokens * self.vocabulary * (3 * self.student + self.teacher)

    @property
    def entries(self) -> float:
        return float(self.tokens) * self.vocabulary


@dataclass(frozen=True)
class Predicted:
    """Seconds; `over` is a time over the floor."""

    floor: float
    products: float
    """the four in chunks: every chunk reads three heads and adds to the head's gradient"""
    elementwise: float
    """statistics and gradient"""
    handing_out: float
    """the head's float32 gradient, cast and multiplied by the one from upstream"""
    all_arithmetic: float
    all_bytes: float

    @property
    def in_turns(self) -> float:
        return (self.products + self.elementwise + self.handing_out) / self.floor

    @property
    def side_by_side(self) -> float:
        return max(self.all_arithmetic, self.all_bytes) / self.floor

    def without(self, elementwise_share: float) -> float:
        """in_turns, with so much of the elementwise time gone."""
        return self.in_turns - elementwise_share * self.elementwise / self.floor


def predict(size: Size, chunk: int, ceilings: Ceilings | None = None) -> Predicted:
    """chunk: tokens of which the logits are in memory at a time."""
    ceilings = ceilings or Ceilings()
    tokens, vocabulary = size.tokens, size.vocabulary
    floor = sum(ceilings.product(*product) for product in _products(size, tokens, accumulate=False))
    products, moved = 0.0, 0.0
    chunks = math.ceil(tokens / chunk)
    for number in range(chunks):
        part = Size(tokens // chunks + (number < tokens % chunks), size.student, size.teacher, vocabulary)
        for flops, of_product in _products(part, part.tokens, accumulate=number > 0):
            products += ceilings.product(flops, of_product)
            moved += of_product
    elementwise = (STATISTICS_BYTES + GRADIENT_BYTES) * size.entries
    # float32 read, bf16 written; then bf16 read and written once more by the factor from upstream.
    handing_out = float(FLOAT32 + 3 * BF16) * vocabulary * size.student
    return Predicted(
        floor,
        products,
        elementwise / ceilings.bandwidth,
        handing_out / ceilings.bandwidth,
        size.flops / ceilings.flops,
        (moved + elementwise + handing_out) / ceilings.bandwidth,
    )


def bytes_allowed(size: Size, ceilings: Ceilings | None = None) -> float:
    """For each entry of the logits, outside the products and not beside them, within GOAL times the floor."""
    ceilings = ceilings or Ceilings()
    floor = predict(size, size.tokens, ceilings).floor
    return (GOAL - 1) * floor * ceilings.bandwidth / size.entries


def _products(size: Size, tokens: int, *, accumulate: bool) -> list[tuple[float, float]]:
    """(FLOPs, bytes) of the four: operands read once, results written once, bf16 but for the logits and the
    head's gradient, which from the second chunk on is read as well."""
    vocabulary, student, teacher = size.vocabulary, size.student, size.teacher
    logits = tokens * vocabulary
    of_head = vocabulary * student * (2 * FLOAT32 if accumulate else FLOAT32)
    of_logits = [
        (2.0 * logits * hidden, float(BF16 * (tokens + vocabulary) * hidden + FLOAT32 * logits))
        for hidden in (student, teacher)
    ]
    hidden_gradient = BF16 * (logits + vocabulary * student + tokens * student)
    head_gradient = BF16 * (logits + tokens * student) + of_head
    flops = 2.0 * logits * student
    return [*of_logits, (flops, float(hidden_gradient)), (flops, float(head_gradient))]


def table(sizes: Sequence[Size], chunks: Sequence[int] = CHUNKS, ceilings: Ceilings | None = None) -> str:
    """Predicted times over the floor by chunk, and how many bytes an entry the goal allows."""
    ceilings = ceilings or Ceilings()
    lines = [
        f"predicted, not measured, at {ceilings.flops / 1e12:.0f} TFLOP/s and "
        f"{ceilings.bandwidth / 1e12:.1f} TB/s; times the floor: in turns (side by side)",
        f"{'size':>16} {'floor ms':>9} "
        + " ".join(f"{f'chunk {chunk}':>14}" for chunk in chunks)
        + f" {'bytes/entry allowed':>20}",
    ]
    for size in sizes:
        cells = []
        for chunk in chunks:
            made = predict(size, min(chunk, size.tokens), ceilings)
            cells.append("-" if chunk > size.tokens else f"{made.in_turns:.2f} ({made.side_by_side:.2f})")
        floor = predict(size, size.tokens, ceilings).floor
        lines.append(
            f"{size!s:>16} {1000 * floor:>9.2f} "
            + " ".join(f"{cell:>14}" for cell in cells)
            + f" {bytes_allowed(size, ceilings):>20.1f}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["8192x1024", "8192x4096", "8192x1024/2048"])
    arguments = parser.parse_args()
    print(table([Size.parse(size) for size in arguments.sizes]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
