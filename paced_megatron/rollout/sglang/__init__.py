"""SGLang as a rollout engine: servers that run elsewhere, or one that we start, spoken to over HTTP.

`engine.py` is the RolloutEngine: open it first. Beside it: `client.py`, one server's HTTP; `facts.py`, what a
server says of itself; `generation.py`, a group of attempts as one POST, and what is checked of the answer;
`member.py`, one server with its weights, and how it becomes ready again; `pool.py`, which deals the attempts
out; `launcher.py`, the server that we start; `weights.py`, how fresh weights reach a server. Nothing here
imports sglang, which lives in an environment of its own.
"""
