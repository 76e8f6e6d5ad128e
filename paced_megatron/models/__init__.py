"""Hugging Face models as Megatron-Core models, and back.

Open `families.py` first: it says, for each architecture, which Megatron configuration computes the same
function (`rope.py` has the rotary embedding, `config_fields.py` accounts for every other field of
config.json). `mapping.py` is the one map of parameter names and layouts that loading, saving, conversion and
weight sync share. `gpt.py` builds the model at any layout; `folder.py` moves weights between it and a Hugging
Face folder, which `weight_files.py` reads, `hf_writer.py` writes, `hub.py` fetches, and `identity.py` tells
from others. `convert.py` turns such a folder into a Megatron distributed checkpoint and back without a model
(`paced convert`).

Losses, optimizers and a run's own checkpoints don't belong here. To add a family, add a row to `families.py`
and, where it has parameters of its own, rows to `mapping.py`.
"""
