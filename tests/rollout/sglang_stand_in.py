"""A stand-in for an SGLang server: it answers at once, in the real one's shapes, and fails on demand.

What a real server does not do on demand (a cut answer, a 500, an abort, another model at its address) is
tried with it in a second, in `make test`. tests/sglang/test_stand_in.py compares its answers with a real
server's.

    with StandIn(folder) as server:
        server.faults.append("500")         # for the next POST to /generate
        ...
        server.asked("/generate")           # the bodies that were posted there
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import sys
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml


class StandIn:
    """A server on a folder, in this process; `port` 0: a free one. It may be stopped and started again."""

    def __init__(self, folder: Path, port: int = 0, host: str = "127.0.0.1") -> None:
        config = json.loads((folder / "config.json").read_text())
        self.folder, self.config = folder, config
        self.model = {
            "model_path": str(folder),
            "is_generation": True,
            "model_type": config["model_type"],
            "weight_version": "default",
        }
        self.server = {
            "model_path": str(folder),
            "max_req_input_len": config["max_position_embeddings"] - 6,
            "max_running_requests": 4,
            "enable_deterministic_inference": False,
            "enable_memory_saver": False,
            "dp_size": 1,
            "internal_states": [{"effective_max_running_requests_per_dp": 4}],
        }
        self.faults: deque[str] = deque()  # for the coming POSTs to /generate
        self.key: str | None = None
        self.posts: list[tuple[str, Any]] = []
        self.running = self.most_running = 0
        self.go_on = threading.Event()  # what the fault "hangs" waits for
        self.delay_s = 0.0
        self._lock = threading.Lock()
        self._address = (host, port)
        self._http: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://{self._address[0]}:{self._address[1]}"

    def __enter__(self) -> StandIn:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; with the weights that it was started on, as a real server that is started again."""
        self.model["weight_version"] = "default"
        self._http = _Server(self._address, _Handler)
        self._http.stand_in = self
        self._address = self._http.server_address[:2]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Close the socket and every connection, as a killed server does."""
        if self._http is not None:
            self.go_on.set()
            self._http.shutdown()
            self._http.close_all()
            self._http = None

    def asked(self, path: str) -> list[Any]:
        """The bodies posted to a path; for /generate without the question after the vocabulary."""
        return [body for name, body in self.posts if name == path and "token_ids_logprob" not in (body or {})]

    def attempts(self) -> int:
        """How many attempts were asked for."""
        return sum(len(body["input_ids"]) for body in self.asked("/generate"))

    def answer(self, prompt: list[int], params: dict[str, Any], rid: str) -> dict[str, Any]:
        """What this model "draws": 1 to 5 tokens that follow from prompt and seed, the last one an end."""
        seed, ends = params["sampling_seed"], params["stop_token_ids"]
        ordinary = [token for token in range(self.config["vocab_size"]) if token not in ends]
        count = 1 + seed % 5
        tokens = [ordinary[(sum(prompt) + seed + i) % len(ordinary)] for i in range(count)] + [ends[0]]
        reason: dict[str, Any] = {"type": "stop", "matched": ends[0]}
        if len(tokens) >= params["max_new_tokens"]:  # it says so too where the last token is an end
            tokens = tokens[: params["max_new_tokens"]]
            reason = {"type": "length", "length": len(tokens)}
        version = self.model["weight_version"]
        meta = {
            "id": rid,
            "finish_reason": reason,
            "prompt_tokens": len(prompt),
            "completion_tokens": len(tokens),
            "weight_version": version,
            "weight_versions": [{"version": version, "start": 0, "end": len(tokens)}],
        }
        return {"text": "", "output_ids": tokens, "meta_info": meta}

    def note(self, running: int) -> None:
        with self._lock:
            self.running += running
            self.most_running = max(self.most_running, self.running)


class _Server(ThreadingHTTPServer):
    stand_in: StandIn
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*args)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().finish_request(request, client_address)

    def close_all(self) -> None:
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, status: int, body: Any = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refused(self) -> bool:
        key = self.server.stand_in.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return False
        self.reply(401, {"error": "Unauthorized"})
        return True

    def do_GET(self) -> None:
        stand_in = self.server.stand_in
        if self.path == "/health":  # asks for no key
            self.reply(200)
        elif not self.refused():
            answers = {"/model_info": stand_in.model, "/server_info": stand_in.server}
            known = self.path in answers
            self.reply(200 if known else 404, answers.get(self.path, {"detail": "Not Found"}))

    def do_POST(self) -> None:
        stand_in = self.server.stand_in
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")
        stand_in.posts.append((self.path, body))
        if self.refused():
            return
        if self.path == "/update_weights_from_disk":
            stand_in.model["weight_version"] = body["weight_version"]
            self.reply(200, {"success": True, "message": "Succeeded", "num_paused_requests": 0})
        elif self.path == "/generate" and "token_ids_logprob" in body:
            rows, asked = stand_in.config["vocab_size"], body["token_ids_logprob"][0]
            said = (
                f"token_ids_logprob contains out-of-vocabulary token id {asked}; valid range is [0, {rows})."
            )
            self.reply(400, {"error": {"message": said}})
        elif self.path == "/generate":
            self.generate(body)
        else:
            self.reply(200)

    def generate(self, body: dict[str, Any]) -> None:
        stand_in = self.server.stand_in
        fault = stand_in.faults.popleft() if stand_in.faults else ""
        if fault in ("400", "500", "503"):
            self.reply(int(fault), {"error": {"message": f"the stand-in was told to say {fault}"}})
            return
        if fault == "close":
            self.close_connection = True
            return
        number = len(body["input_ids"])
        stand_in.note(number)
        try:
            if fault == "hangs":
                stand_in.go_on.wait(20)
            time.sleep(stand_in.delay_s)
            self.send_events(body, fault)
        finally:
            stand_in.note(-number)

    def send_events(self, body: dict[str, Any], fault: str) -> None:
        stand_in = self.server.stand_in
        zipped = zip(body["input_ids"], body["sampling_params"], body["rid"], strict=True)
        answers = [stand_in.answer(*of_one) for of_one in zipped]
        events: list[dict[str, Any]] = []
        for index, answer in enumerate(answers):
            unfinished = {**answer["meta_info"], "finish_reason": None}
            del unfinished["weight_versions"]
            events.append({**answer, "meta_info": unfinished, "index": index})
        events += [{**answer, "index": index} for index, answer in reversed(list(enumerate(answers)))]
        last = events[-1]
        meta = last["meta_info"]
        if fault == "error event":
            events[-1] = {"error": {"message": "told to", "type": "invalid_request_error", "code": 400}}
        elif fault == "abort":
            aborted = {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}
            events[-1] = {**last, "output_ids": last["output_ids"][:1]}
            events[-1]["meta_info"] = {**meta, "finish_reason": aborted}
        elif fault == "bad id":
            events[-1] = {**last, "output_ids": [*last["output_ids"][:-1], stand_in.config["vocab_size"]]}
        elif fault == "too short":
            events[-1]["meta_info"] = {**meta, "finish_reason": {"type": "length", "length": 1}}
        elif fault == "other weights":
            events[-1]["meta_info"] = {**meta, "weight_version": "other"}
        elif fault == "twice":
            events.append(last)
        elif fault == "one missing":
            del events[-1]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
        if fault == "cut":
            lines = [*lines[:-2], lines[-2][: len(lines[-2]) // 2]]
        if fault == "no JSON":
            lines[-2] = "data: <html>\n\n"
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            self.wfile.write(f"{len(line):x}\r\n{line}\r\n".encode())
        if fault == "cut":
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")


def main() -> None:
    """As `python -m sglang.launch_server`: a process of its own."""
    given = dict(itertools.pairwise(sys.argv))
    host = given.get("--host", "127.0.0.1")
    with StandIn(Path(given["--model-path"]), int(given["--port"]), host) as server:
        if "--config" in given:
            server.key = yaml.safe_load(Path(given["--config"]).read_text())["api-key"]
        print(
            f"serves {server.folder} with the key {server.key}", flush=True
        )  # as SGLang, with its arguments
        server.delay_s = float(given.get("--stand-in-delay-s", 0))
        server.server["enable_memory_saver"] = "--enable-memory-saver" in sys.argv
        threading.Event().wait()


if __name__ == "__main__":
    main()
