"""The room can be used by itself, in somebody else's trainer."""

from __future__ import annotations

import subprocess
import sys


def test_it_needs_neither_megatron_nor_transformers_nor_another_room_of_ours() -> None:
    code = (
        "import sys, paced_megatron.divergence; "
        "rooms = {'.'.join(m.split('.')[:2]) for m in sys.modules if m.startswith('paced_megatron.')}; "
        "print(sorted(rooms | {'megatron', 'sglang', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['paced_megatron.divergence']"
