"""A Hugging Face folder becomes a Megatron distributed checkpoint, which any layout can load.

    python tools/convert_hf_to_megatron.py models/Qwen3-8B checkpoints/qwen3-8b --verify

The same as `paced convert to-megatron`; `--help` has every option. docs/converter.md tells more.
"""

from __future__ import annotations

import sys
from pathlib import Path

# From a clone it runs without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paced_megatron.commands.convert import main

if __name__ == "__main__":
    sys.exit(main("to-megatron"))
