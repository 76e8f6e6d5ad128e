"""One SGLang server over HTTP: JSON in, JSON out, and a second try where that can help."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

REQUEST_S = 60.0
CONNECT_S = 10.0
TRIES = 4
FIRST_PAUSE_S = 0.5  # doubled after each try, and shortened at random by up to a half
SHOWN_CHARACTERS = 300  # of what a server said
END_OF_STREAM = b"data: [DONE]"


class ServerError(Exception):
    """A request that a server did not answer as it should. The message names the URL.

    Attributes:
        status: the HTTP status; None where there was no whole answer (connection, timeout, cut JSON).
        retryable: whether the same request may be answered later, or by another server.
    """

    def __init__(self, message: str, status: int | None = None, retryable: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable


class ServerClient:
    """A server's address and the connections to it; may be used from several threads.

    Args:
        url: as in http://127.0.0.1:30000.
        api_key: sent as a bearer token, and never shown.
        timeout_s: seconds that an answer may take where the call does not say otherwise.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = REQUEST_S) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        # trust_env off: a proxy of the environment has no business between us and a server of ours.
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0),
            trust_env=False,
        )

    def get(self, path: str, *, timeout_s: float | None = None, tries: int = TRIES) -> Any:
        """The JSON of the answer; None where it is empty. Raises ServerError."""
        return self._ask("GET", path, None, timeout_s, tries)

    def post(
        self, path: str, body: Mapping[str, Any], timeout_s: float | None = None, *, tries: int = TRIES
    ) -> Any:
        """The JSON of the answer; None where it is empty.

        Args:
            timeout_s: seconds for one try.
            tries: how often it is asked in all, where the connection or the server (5xx) fails.

        Raises:
            ServerError: of the last try.
        """
        return self._ask("POST", path, body, timeout_s, tries)

    def stream(self, path: str, body: Mapping[str, Any], timeout_s: float | None = None) -> Iterator[Any]:
        """The JSON of each event of a streamed answer (`"stream": true` in the body), as it arrives.

        Args:
            timeout_s: seconds that may pass without an event.

        Raises:
            ServerError: also where the answer ends before it is whole. Nothing is asked twice.
        """
        url, timeout_s = self.url + path, timeout_s or self._timeout_s
        with (
            _server_errors(url, timeout_s),
            self._http.stream("POST", url, json=body, timeout=_limits(timeout_s)) as response,
        ):
            if response.status_code != 200:
                response.read()
                _check_status(url, response)
            whole = False
            for line in _lines(response):  # to its end, so that the connection can be used again
                if line == END_OF_STREAM:
                    whole = True
                elif line.startswith(b"data: "):
                    yield _json(url, line.removeprefix(b"data: "))
            if not whole:
                raise ServerError(f"{url}: the answer breaks off")

    def close(self) -> None:
        """Close the connections; a call that is waiting between two tries gives up."""
        self._closed.set()
        self._http.close()

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float | None, tries: int
    ) -> Any:
        pause = FIRST_PAUSE_S
        for left in range(tries - 1, -1, -1):
            try:
                return self._ask_once(method, path, body, timeout_s or self._timeout_s)
            except ServerError as error:
                if not error.retryable or not left or self._closed.is_set():
                    raise
            self._closed.wait(jittered(pause))
            pause *= 2
        raise ValueError("tries is below 1")

    def _ask_once(self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float) -> Any:
        url = self.url + path
        with _server_errors(url, timeout_s):
            response = self._http.request(method, url, json=body, timeout=_limits(timeout_s))
            _check_status(url, response)
        return _json(url, response.text) if response.content else None


def _limits(timeout_s: float) -> httpx.Timeout:
    return httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))


@contextmanager
def _server_errors(url: str, timeout_s: float) -> Iterator[None]:
    """What httpx raises, as ServerError."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise ServerError(f"{url}: no answer within {timeout_s:g} s") from error
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
        usable = not isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL)
        raise ServerError(f"{url}: {error or type(error).__name__}", retryable=usable) from error
    except RuntimeError as error:
        if "closed" not in str(error):  # httpx's word for a client that was closed meanwhile
            raise
        raise ServerError(f"{url}: the connection was closed by us") from error


def _lines(response: httpx.Response) -> Iterator[bytes]:
    """Lines that end in LF alone: httpx's own iter_lines cuts a text at U+0085 and U+2028 too, which
    JSON leaves as they are."""
    left = b""
    for chunk in response.iter_bytes():
        *whole, left = (left + chunk).split(b"\n")
        yield from whole


def _check_status(url: str, response: httpx.Response) -> None:
    code = response.status_code
    if code != 200:
        said = said_by(response) or response.reason_phrase
        raise ServerError(f"{url}: {code} {said}", code, retryable=code >= 500 or code == 429)


def _json(url: str, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ServerError(f"{url}: the answer is no JSON: {text[:SHOWN_CHARACTERS]!r}") from error


def jittered(pause_s: float) -> float:
    """Between half of it and the whole, so that many clients don't come back together."""
    return pause_s * random.uniform(0.5, 1.0)


def said_by(response: httpx.Response) -> str:
    """The server's own words in one line. SGLang has three shapes: {"error": {"message"}}, {"error": text}
    and {"message"}."""
    try:
        said = response.json()
    except ValueError:
        said = response.text
    for key in ("error", "message"):
        if isinstance(said, dict) and key in said:
            said = said[key]
    return " ".join(str(said).split())[:SHOWN_CHARACTERS]
