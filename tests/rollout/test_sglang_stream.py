"""Events that end where the server ends them, whatever a text holds."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from paced_megatron.rollout.sglang.client import ServerClient, ServerError

# What str.splitlines calls the end of a line and JSON leaves as it is; a tiny model writes it every so often.
TEXTS = ["a\u0085b", "a\u2028b\u2029c", "an end\n, escaped", "plain"]
EVENTS = b"".join(
    b"data: " + json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n\n" for text in TEXTS
)


class Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        content = EVENTS + (b"data: [DONE]\n\n" if asked["whole"] else b"")
        for start in range(0, len(content), 7):  # in pieces that end in the middle of a letter
            self.wfile.write(content[start : start + 7])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def client() -> Iterator[ServerClient]:
    """Answers are written here, since a real model writes such a text when it likes."""
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    client = ServerClient(f"http://127.0.0.1:{server.server_address[1]}")
    yield client
    client.close()
    server.shutdown()
    server.server_close()


def test_a_text_may_hold_what_unicode_calls_the_end_of_a_line(client):
    assert [event["text"] for event in client.stream("/generate", {"whole": True})] == TEXTS


def test_a_stream_that_ends_without_its_last_word_gives_its_events_and_is_an_error(client):
    seen = []
    with pytest.raises(ServerError, match="breaks off") as error:
        for event in client.stream("/generate", {"whole": False}):
            seen.append(event["text"])
    assert seen == TEXTS and error.value.retryable
