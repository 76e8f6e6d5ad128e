"""Problems: what the student is asked, how it is asked, and how an answer is judged.

Here belong the Problem itself, its loaders, the prompt made of it (chat template and tokenizer), what a
teacher sees beside it (`context.py`; a named context is a row of its table), and the verifiers that turn the
text of an attempt into an Outcome. How attempts are sampled and kept is `rollout/`; what a pass rate means
for a problem's weight is `pacing/`. Open `problem.py` first, then `load.py`. A new verifier is one function
and one row in the table of `verify.py`. Nothing in this folder imports Megatron.
"""
