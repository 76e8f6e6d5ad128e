"""What the scripts in slurm/ ask of Python: which servers a job needs, a chain's jobs, how jobs stand.

The scripts start processes and pass exit codes on; whatever has to know a configuration, or to be put into
words, is here, where it can be tested without Slurm. Nothing here starts or submits anything, and nothing of
the package imports this room. `servers.py` and `chain.py` are asked by slurm/servers.sh and slurm/submit.sh,
`status.py` is `submit.sh --status`. Open `servers.py` first.
"""
