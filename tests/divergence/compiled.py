"""Compiles every kernel of the loss for GPUs that are not there, and prints as JSON what came out; see
test_hopper.py. A script: compiled.py '[[90, 151936, ["jsd"]]]', of capability, vocabulary, divergences."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from paced_megatron.divergence.kernels.gradient import gradient_kernel
from paced_megatron.divergence.kernels.launch import Launch, elementwise, reduction
from paced_megatron.divergence.kernels.measure import measure_kernel
from paced_megatron.divergence.kernels.mixtures import mixture_kernel

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
MIXTURES = ("jsd", "skew_forward_kl", "skew_reverse_kl")
INTEGERS = {"rows": "i32", "student_stride": "i64", "teacher_stride": "i64", "out_stride": "i64"}
FLOATS = ("over_temperature", "share")


def kernels(
    columns: int, divergences: Sequence[str]
) -> Iterator[tuple[str, Any, Launch, dict[str, Any], str]]:
    """(name, kernel, launch, constants, dtype of the result)."""
    row, block = reduction(columns), elementwise(columns)
    yield "measure", measure_kernel, row, {"COLUMNS": columns, "HALF": 5, "BLOCK": row.block}, "fp32"
    common = {"COLUMNS": columns, "KNOWN": 6}
    for name in (one for one in divergences if one in MIXTURES):
        constants = {**common, "BLOCK": row.block, "DIVERGENCE": name}
        yield f"sums {name}", mixture_kernel, row, constants, "fp32"
    for name in divergences:
        for dtype in ("fp32", "bf16"):
            constants = {**common, "BLOCK": block.block, "DIVERGENCE": name}
            yield f"gradient {name} {dtype}", gradient_kernel, block, constants, dtype


def compiled(kernel: Any, launch: Launch, constants: dict[str, Any], dtype: str, capability: int) -> Any:
    """As it is launched: pointers and strides are multiples of 16."""
    signature, aligned = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in FLOATS:
            signature[name] = "fp32"
        else:
            signature[name] = INTEGERS.get(name, f"*{dtype}" if name == "out" else "*fp32")
            if name != "rows":
                aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    return triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": launch.warps}
    )


def usage(binary: bytes) -> dict[str, int]:
    """Of the machine code: registers of a thread, bytes of stack and of local memory, which spills go to."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        said = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", said)
    assert found is not None, said
    return dict(zip(("registers", "stack", "local"), map(int, found.groups()), strict=True))


def main(asked: list[tuple[int, int, list[str]]]) -> None:
    out = []
    for capability, columns, divergences in asked:
        for name, kernel, launch, constants, dtype in kernels(columns, divergences):
            made = compiled(kernel, launch, constants, dtype, capability)
            text = made.asm["ptx"]
            stored = r"st\.global\.v4\.b32" if dtype == "fp32" else r"st\.global\.v[24]\.b32"
            out.append(
                {
                    "name": name,
                    "capability": capability,
                    "columns": columns,
                    "warps": launch.warps,
                    "entries": launch.block // (32 * launch.warps),
                    "wide_loads": len(re.findall(r"ld\.global\.v4\.b32", text)),
                    "wide_stores": len(re.findall(stored, text)),
                    **usage(made.asm["cubin"]),
                }
            )
    print(json.dumps(out))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
