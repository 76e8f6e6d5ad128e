"""A process that compares answers for `verifier_pool.py`: `python -m ... PIPE PARENT MEMORY_MIB`.

It holds math-verify and sympy, and nothing else of weight (no torch). What it is sent are two answers and a
time limit, what it sends back is the name of an Outcome; both as JSON.

Model text is read by math-verify's LaTeX grammar. That is not quite the end of it: sympy.Number("12") goes
through sympify and parse_expr to Python's eval, with the digits as `Integer (12 )`. So before the first
answer comes, eval is put behind a gate that numbers and names pass and nothing else.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
READY = b"ready"

# What sympy makes of a number's text: Integer (12 ), Float ('2.5' ), with signs and powers of ten. And what
# its own code asks for: constants, and names such as Symbol ('exbi' ).
HARMLESS = re.compile(
    r"\s*[-+]?\s*(?:"
    r"(?:Integer|Float)\s*\(\s*'?[\d.]+(?:[eE][-+]?\d+)?'?\s*\)|Symbol\s*\(\s*'\w+'\s*\)|E|I|pi|oo|zoo|nan"
    r")\s*",
    re.ASCII,
)


def main(pipe_number: int, parent: int, memory_mib: int) -> None:
    """Answer questions until the pipe is closed, the parent ends, or this process has grown too large."""
    end_with(parent)
    pipe = Connection(pipe_number)
    from paced_megatron.problems import math_equal

    harden(memory_mib)
    pipe.send_bytes(READY)
    os.dup2(
        os.open(os.devnull, os.O_WRONLY), 2
    )  # a mistake at the start was said; from here on it is chatter
    while True:
        try:
            question = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        outcome = math_equal.judge_value(question["answer"], question["gold"], question["timeout_s"])
        pipe.send_bytes(json.dumps(outcome.value).encode())
        if address_space_mib() > memory_mib / 2:
            return  # a fresh process takes the next question: this one keeps what it has grown to


def end_with(parent: int) -> None:
    """Ask the kernel to kill this process when the thread that started it ends (only Linux can)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # the parent's to handle, which kills us
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before we could ask
            os._exit(1)


def harden(memory_mib: int) -> None:
    """What holds from the first answer on; after the imports, which may ask for more."""
    _allow_numbers_and_names_only()
    _limit_resources(memory_mib)


def _allow_numbers_and_names_only() -> None:
    """From here on sympy's string parser evaluates a number or a name, and refuses any other code."""
    from sympy.parsing import sympy_parser

    evaluate = sympy_parser.eval_expr

    def evaluate_harmless(code: Any, local_dict: Any, global_dict: Any) -> Any:
        if not isinstance(code, str) or not HARMLESS.fullmatch(code):
            raise ValueError("the verifier evaluates numbers and names only")
        return evaluate(code, local_dict, global_dict)

    sympy_parser.eval_expr = evaluate_harmless


def _limit_resources(memory_mib: int) -> None:
    """No more address space than this, no byte written to a file, no core dump."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def address_space_mib() -> float:
    """What RLIMIT_AS counts; 0 where the system doesn't say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize() / 2**20
    except OSError:
        return 0.0


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
