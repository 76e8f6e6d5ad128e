"""The verbs of `paced`, a file each: their arguments, their help, and the call that does the work.

A file has `add(verbs)`, which describes a verb to argparse, and `run(options, argv)`, which returns the exit
code; `cli.py` lists the files. What a verb does is not here (`phases/`, `experiments/`, `report/`,
`models/`), and is imported only when it is asked for, so that `--help` and a wrong key needn't wait for torch
and Megatron. Open `phases.py` first.
"""
