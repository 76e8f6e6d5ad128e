"""How good a student is, from scored attempts at held-out problems, and what it has forgotten.

`accuracy.py` turns attempts into a row of numbers and keeps the rows of a run in evaluation.json. Making the
attempts belongs to `rollout/`, scoring one to `problems/verify.py`. `forgetting.py` has lm-eval measure a
student on its tasks, `forgotten.py` says how much of it was lost, and `forgetting_files.py` what is still to
be measured. Open `accuracy.py`.
"""
