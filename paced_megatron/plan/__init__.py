"""What a step will take, before anything is queued: bytes on each rank, matrix products, a layout that fits.

Pure functions of a config.json's shape and a layout; no weights, no GPU, no Megatron, nothing written. What
can't be laid out at all is refused elsewhere (`models/families.check_layout`, `config/rules.py`); how a
number is shown is `table.py`'s. tests/plan counts the live bytes of real steps and compares. Open `memory.py`
first.
"""

PROMPT_TOKENS = 512  # of the longest prompt, where nobody has said
