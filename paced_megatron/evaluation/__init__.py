"""How good a model is, from scored attempts at held-out problems, and what it has forgotten.

Two ways to the first. `accuracy.py` is a run's own: attempts at its held-out problems become a row of
numbers in evaluation.json, with `plan.py` and `strata.py` beside it. `evaluate.py` is `paced evaluate
FOLDER...`: any models on benchmarks. A benchmark is a row of `benchmarks.py`, a way to sample one of
`presets.py`;
`task.py` is one model on one benchmark with all that decides its attempts, `measurement.py` its numbers,
`comparison.py` the tables. What avg@k, pass@k, maj@k and every interval over problems are stands in
`estimates.py`, which wrong answers are one for maj@k in `votes.py`. Making attempts belongs to `rollout/`,
scoring one to `problems/verify.py`.

`forgetting.py` has lm-eval measure a model on its tasks, `forgotten.py` says how much of it was lost, and
`forgetting_files.py` what is still to be measured. Open `estimates.py`, then `evaluate.py`.
"""
