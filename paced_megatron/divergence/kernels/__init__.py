"""The vocabulary part of the loss on a GPU: two passes over a chunk's logits, three for mixtures.

`part.py` is what the walk calls; `measure.py`, `mixtures.py` and `gradient.py` have a kernel each,
`formulas.py` what a divergence is per entry. Triton is imported by these files alone, and they by
`prepare.py` alone and only where Triton is the way taken. Nothing of [n, V] is made beside the logits and,
with tensor cores, their bf16 gradient. AKL has no kernel: its threshold search is thirty passes whoever makes
them.

Sizes of blocks are fixed numbers (`launch.py`), not tuned on the spot (docs/decisions/0010).
"""
