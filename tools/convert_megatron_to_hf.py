"""A Megatron distributed checkpoint, saved at any layout, becomes a Hugging Face folder.

    python tools/convert_megatron_to_hf.py runs/sft models/Qwen3-8B-sft --source models/Qwen3-8B --verify

The same as `paced convert to-hf`; `--help` has every option. docs/converter.md tells more.
"""

from __future__ import annotations

import sys
from pathlib import Path

# From a clone it runs without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paced_megatron.commands.convert import main

if __name__ == "__main__":
    sys.exit(main("to-hf"))
