"""Problems: what the student is asked, how it is asked, and how an answer is judged.

Here belong the Problem itself, its loaders, the prompt made of it (chat template and tokenizer), what a
teacher sees beside it (`context.py`; a named context is a row of its table), and the verifiers that turn the
text of an attempt into an Outcome. How attempts are sampled and kept is `rollout/`; what a pass rate means
for a problem's weight is `pacing/`. Open `problem.py` first, then `load.py`; `rows.py` has the kinds of
files, `formats.py` the layouts of published sets, `lists.py` what a configuration names. A new verifier is
one function and one row in the table of `verify.py`; what the verifier `math` takes as equal is in
`math_text.py` (by text, in our process) and `math_equal.py` (by value, in the processes of
`verifier_pool.py`). Nothing in this folder imports Megatron.
"""
