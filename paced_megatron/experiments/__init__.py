"""Arms side by side: an experiment file, the job that runs it, and the numbers that come out.

`experiment.py` reads the file (`base:` a configuration, `arms:` name -> overrides, `seeds:`), `compare.py`
runs what is missing, each arm and seed a run's folder of its own, `shared.py` keeps what the arms of a seed
have in common, `results.py` reads the numbers back from the folders, `reading.py` and `table.py` put them
into words and into the terminal. How a run is made is not here (`run.py`, `phases/`), and neither are
pictures (`report/`). A new baseline is a row of pacing's tables and an arm in a YAML file, and nothing in
this room. Open `compare.py` first.
"""
