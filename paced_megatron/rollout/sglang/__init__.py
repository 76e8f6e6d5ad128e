"""SGLang as a rollout engine: servers that run elsewhere, or one that we start, spoken to over HTTP.

`engine.py` is the RolloutEngine: open it first. Beside it: `client.py`, one server's HTTP; `server.py`, what a
server says of itself, and what is checked of it; `launcher.py`, the server that we start; `pool.py`, how the
requests are dealt out to the servers and what becomes of those that a server did not answer; `weights.py`, how
fresh weights reach a server. Nothing here imports sglang, which lives in an environment of its own.
"""
