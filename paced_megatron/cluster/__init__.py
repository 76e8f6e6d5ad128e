"""What the scripts in slurm/ ask of Python: nodes and ranks, which servers a job needs, a chain's jobs, how
jobs stand.

The scripts start processes and pass exit codes on; whatever has to know a configuration, or to be put into
words, is here, where it can be tested without Slurm. Nothing here starts or submits anything, and nothing of
the package imports this room. `layout.py` and `chain.py` are asked by slurm/submit.sh, `servers.py` by
slurm/servers.sh, `status.py` is `submit.sh --status`. Open `layout.py` first.
"""
