"""Processes, devices, groups and files: the one room that knows on what kind of machine the rest runs.

Here belong the start of a job's processes (`launch.py`), the process groups as an object that is passed on
(`world.py`), Megatron-Core without CUDA (`cpu.py`) and without torch's compiler (`uncompiled.py`), the
waiting of all ranks for rank 0 (`lead.py`), and writing files so that a killed run leaves none half-written
(`files.py`). Nothing here knows about models, problems or losses, and no other room keeps global state. Open
`world.py` first.
"""
