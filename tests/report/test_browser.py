"""report.html in a real browser: it draws without an error, asks for nothing, and fits wide and narrow."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Headless, alone, and quiet: what a browser asks for on its own account must not be taken for the page's.
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--no-default-browser-check",
)  # fmt: skip


NOBODY = "not an origin"  # in the browser's record: the request is the browser's own


@dataclass(frozen=True)
class Opened:
    """What the browser said, what it asked for, and the page's HTML once it was drawn."""

    console: list[str]
    requests: list[str]
    dom: str


@pytest.fixture(scope="session")
def browser() -> str:
    found = os.environ.get("PACED_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found:
        return found
    reason = f"no browser: none of {', '.join(_NAMES)} is on the path, and PACED_BROWSER names none"
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def run(browser: str, page: Path, tmp: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """The browser on a page, with a profile of its own."""
    profile = tmp / "profile"
    command = [browser, *_FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def opened(browser: str, page: Path, tmp: Path) -> Opened:
    log = tmp / "net.json"
    done = run(
        browser, page, tmp, "--enable-logging=stderr", f"--log-net-log={log}", "--dump-dom",
        "--window-size=1200,900",
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Opened(console, sorted(set(requests(log))), done.stdout)


def requests(log: Path) -> list[str]:
    """Addresses that the page asked for, from the browser's own record of the network.

    A request's initiator is the page's origin; what a browser asks for on its own account (the time, an
    account) has none.
    """
    text = log.read_text().rstrip()
    found = json.loads(text if text.endswith("}") else text.rstrip(",") + "]}")
    details = [event["params"] for event in found["events"] if isinstance(event.get("params"), dict)]
    return [each["url"] for each in details if each.get("initiator", NOBODY) != NOBODY and "url" in each]


@pytest.fixture(scope="session")
def seen(
    browser: str, run_report: Any, experiment_report: Any, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    return {
        name: opened(browser, made.folder / "report.html", tmp_path_factory.mktemp("browser"))
        for name, made in (("run", run_report), ("experiment", experiment_report))
    }


@pytest.mark.parametrize("name", ["run", "experiment"])
def test_the_console_stays_empty(seen: Any, name: str):
    assert seen[name].console == []
    assert "Problems move" in seen[name].dom


@pytest.mark.parametrize("name", ["run", "experiment"])
def test_nothing_is_asked_for(seen: Any, name: str):
    assert seen[name].requests == []


def test_a_page_that_breaks_these_rules_is_caught(browser: str, tmp_path: Path):
    """The two tests above can fail: a script's error and a picture from elsewhere are seen."""
    page = tmp_path / "bad.html"
    page.write_text("<title>x</title><img src='http://127.0.0.1:9/a.png'><script>nothing.there()</script>")
    found = opened(browser, page, tmp_path)
    assert any("nothing is not defined" in line for line in found.console)
    assert any("127.0.0.1:9" in url for url in found.requests)


@pytest.mark.parametrize(("width", "theme"), [(1200, "light"), (1200, "dark"), (360, "light"), (360, "dark")])
def test_nothing_is_wider_than_the_page(
    browser: str, experiment_report: Any, tmp_path: Path, width: int, theme: str
):
    """Measured by a script around the page: a frame may be narrower than the narrowest window."""
    measure = """
      const inner = document.querySelector("iframe").contentDocument, root = inner.documentElement
      const pictures = [...inner.querySelectorAll(".picture svg")]
      document.title = JSON.stringify([
        root.scrollWidth, root.clientWidth, getComputedStyle(inner.body).backgroundColor,
        pictures.filter(picture => picture.getBoundingClientRect().width > 0).length,
      ])"""
    page = tmp_path / "measured.html"
    style = f"width: {width}px; height: 900px; border: 0"
    page.write_text(
        f'<iframe style="{style}" srcdoc="{escape(experiment_report.html)}"></iframe>'
        f"<title></title><script>onload = () => {{{measure}}}</script>"
    )
    scheme = f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}"
    dom = run(browser, page, tmp_path, "--dump-dom", "--window-size=1400,1000", scheme).stdout
    measured = re.search(r"<title>(\[.*?\])</title>", dom)
    assert measured, dom[-2000:]
    wide, window, ground, pictures = json.loads(measured[1])
    assert wide <= window <= width
    assert ground == {"light": "rgb(246, 245, 242)", "dark": "rgb(15, 18, 23)"}[theme]
    assert pictures == 4  # each once: the other width's is not shown
