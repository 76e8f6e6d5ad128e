"""How good a student is, from scored attempts at held-out problems.

`accuracy.py` turns attempts into a row of numbers and keeps the rows of a run in evaluation.json. Making the
attempts belongs to `rollout/`, scoring one to `problems/verify.py`. Open `accuracy.py`.
"""
