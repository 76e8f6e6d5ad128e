"""Hugging Face models as Megatron-Core models, and back.

`families.py` says, for each architecture, which Megatron configuration computes the same function;
`mapping.py` is the one map of parameter names and layouts that loading, saving and weight sync share;
`gpt.py` builds the model; `folder.py` moves weights between a model and a Hugging Face folder. Losses and
optimizers don't belong here. To add a family, open `families.py`.
"""
