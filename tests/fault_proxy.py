"""A proxy before an SGLang server that spoils the answers to /generate on demand, and passes all else on.

    with fault_proxy(server.url) as proxy:
        proxy.plan(["error 500", None, "closed"])       # the first POST to /generate, the second, the third
        ...                                              # use proxy.url as the server's
        assert proxy.done == {"error 500": 1, "closed": 1}

A server dies, hangs and stumbles when it likes; here it does so when a test says. All that is right in an
answer is the real server's. `FAULTS` lists what there is.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DELAY_S = 3.0  # longer than the time limit that a test gives its client
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    kind: str  # Content-Type
    content: bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultProxy

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.next_fault() if self.path == "/generate" else None
        with contextlib.suppress(ConnectionError):  # the client gave up, which a fault may want
            try:
                answer = self.proxy.ask(self.command, self.path, body, dict(self.headers))
            except (OSError, http.client.HTTPException):  # no server there: neither am I
                close_socket(self, None)
                return
            (FAULTS[fault] if fault else send)(self, answer)

    def log_message(self, *args: Any) -> None:
        pass


def send(handler: _Handler, answer: Answer, promised: int | None = None) -> None:
    """Answer; `promised` is a Content-Length other than the true one."""
    handler.send_response(answer.status)
    handler.send_header("Content-Type", answer.kind)
    handler.send_header("Content-Length", str(len(answer.content) if promised is None else promised))
    handler.end_headers()
    handler.wfile.write(answer.content)


def delay(handler: _Handler, answer: Answer) -> None:
    """The answer is right and comes when nobody waits for it any more."""
    time.sleep(DELAY_S)
    send(handler, answer)


def error_500(handler: _Handler, answer: Answer) -> None:
    send(handler, Answer(500, "text/plain", b"Internal Server Error"))


def error_503(handler: _Handler, answer: Answer) -> None:
    send(handler, Answer(503, "text/plain", b"Service Unavailable"))


def cut_json(handler: _Handler, answer: Answer) -> None:
    """A whole answer by its length, and half of its text."""
    send(handler, Answer(answer.status, answer.kind, answer.content[: len(answer.content) // 2]))


def cut_body(handler: _Handler, answer: Answer) -> None:
    """The connection ends before all the bytes that were promised came."""
    half = answer.content[: len(answer.content) // 2]
    send(handler, Answer(answer.status, answer.kind, half), promised=len(answer.content))
    handler.close_connection = True


def close_socket(handler: _Handler, answer: Answer | None) -> None:
    """The connection is reset without a word."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.close_connection = True
    handler.connection.close()
    handler.wfile.close = handler.rfile.close = lambda: None  # type: ignore[method-assign]


def abort(handler: _Handler, answer: Answer) -> None:
    """Status 200, the first tokens, and the finish reason that a real server gives to what was aborted.

    Knows the answer as one JSON (of one prompt or several) and as a stream of events.
    """
    streamed = answer.content.startswith(b"data: ")
    lines = answer.content.split(b"\n") if streamed else [answer.content]
    content = b"\n".join(_aborted(line) for line in lines)
    send(handler, Answer(200, answer.kind, content))


def _aborted(line: bytes) -> bytes:
    prefix, text = (b"data: ", line[6:]) if line.startswith(b"data: ") else (b"", line)
    if not text.startswith((b"{", b"[")) or text == b"[DONE]":
        return line
    content = json.loads(text)
    for one in content if isinstance(content, list) else [content]:
        if one["meta_info"]["finish_reason"] is not None:
            one["output_ids"] = one["output_ids"][:2]
            one["meta_info"] |= {"completion_tokens": len(one["output_ids"]), "finish_reason": ABORTED}
    return prefix + json.dumps(content).encode()


ABORTED = {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}
FAULTS: dict[str, Callable[[_Handler, Answer], None]] = {
    "delay": delay,
    "error 500": error_500,
    "error 503": error_503,
    "cut json": cut_json,
    "cut body": cut_body,
    "closed": close_socket,
    "abort": abort,
}


@dataclass
class FaultProxy:
    """See the module. `done` counts the faults that were committed, `asked` the POSTs to /generate."""

    target: str
    url: str = ""
    done: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    _plan: deque[str | None] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, faults: Iterable[str | None]) -> None:
        """What happens to the next POSTs to /generate, one each; None and the end of the plan: nothing."""
        with self._lock:
            self._plan = deque(faults)
            unknown = {fault for fault in self._plan if fault} - FAULTS.keys()
            assert not unknown, f"{unknown} are none of {list(FAULTS)}"

    def next_fault(self) -> str | None:
        with self._lock:
            self.asked += 1
            fault = self._plan.popleft() if self._plan else None
            self.done.update([fault] if fault else [])
            return fault

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """The server's answer. Raises OSError or HTTPException where it gives none."""
        connection = http.client.HTTPConnection(self.target.removeprefix("http://"), timeout=TIMEOUT_S)
        kept = {name: value for name, value in headers.items() if name.lower() in KEPT}
        try:
            connection.request(method, path, body, kept)
            response = connection.getresponse()
            return Answer(response.status, response.getheader("Content-Type", ""), response.read())
        finally:
            connection.close()


KEPT = ("content-type", "authorization")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


@contextlib.contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    """A running proxy before the server at `target` (http://HOST:PORT)."""
    proxy = FaultProxy(target)
    listener = _Listener(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    listener.block_on_close = False
    proxy.url = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
