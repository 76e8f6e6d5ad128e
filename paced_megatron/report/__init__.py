"""A run's results in a form that people look at.

So far the table at the end of a run (`table.py`). What is measured, and how, belongs to `evaluation/`; here
it is only shown.
"""
