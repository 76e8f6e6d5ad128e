"""report.html as a file: whole, alone, the same each time, and of the numbers in report.json."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hand_made_runs import AFTER, BEFORE, lines, write_experiment, write_run
from paced_megatron.report import write_report

HOSTILE = "<script>alert('no')</script>"


class Elements(HTMLParser):
    """Every element with its attributes, and the text of each table cell."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._in_cell = self._in_cell or tag == "td"
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += f" {data}"

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(params=["run_report", "experiment_report"])
def made(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_the_page_loads_nothing(made: Any):
    page = Elements(made.html)
    assert not [
        tag for tag, _ in page.found if tag in ("script", "img", "iframe", "object", "embed", "audio")
    ]
    for tag, attributes in page.found:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:,")), f"<{tag} {name}={value!r}>"
    assert not re.search(r"@import|@font-face", made.html)
    assert set(re.findall(r"url\(([^)]{0,2})", made.html)) <= {"#m", "#a", "#l", "#s"}
    # An address may stand in the SVG's namespace declarations, which nobody loads.
    assert set(re.findall(r"https?://[^\s\"'<]+", made.html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "default-src 'none'" in made.html


def test_ids_are_there_once_and_what_refers_to_them_finds_them(made: Any):
    ids = re.findall(r'\bid="([^"]+)"', made.html)
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:url\(#|href="#|aria-labelledby=")([^")]+)', made.html))
    assert referred <= set(ids)


def test_pictures_have_words_and_tables_have_heads(made: Any):
    page = Elements(made.html)
    pictures = [each for each in page.of("div") if each.get("role") == "img"]
    assert len(pictures) == 4
    assert all(len(each["aria-label"] or "") > 30 for each in pictures)
    assert all(each.get("aria-hidden") == "true" for each in page.of("svg"))
    assert len(page.of("svg")) == 2 * len(pictures)  # for a wide page and for a phone
    assert page.of("th")
    assert all(each.get("scope") for each in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table"))


def test_every_number_in_a_table_is_in_the_json(made: Any):
    known = known_texts(made.content)
    cells = [cell for cell in Elements(made.html).cells if "=" not in cell and "base" not in cell]
    assert len(cells) > 20
    for cell in cells:
        for number in re.findall(r"[+−]?\d[\d.\u2009]*", cell):
            assert number in known, f"{number!r} of {cell!r}"


def known_texts(content: Any) -> set[str]:
    """Every number of the JSON in each form that the page gives numbers."""
    if isinstance(content, dict):
        return set().union(*map(known_texts, content.values()))
    if isinstance(content, list):
        return set().union(*map(known_texts, content))
    if isinstance(content, bool) or not isinstance(content, int | float):
        return set()
    # Not by the page's own functions: a mistake in them has to show.
    percent, signed = f"{100 * content:.1f}", f"{100 * content:+.1f}"
    plain = {f"{content:.1f}", f"{content:.2f}", f"{content:,.0f}".replace(",", "\u2009"), str(content)}
    return {text.replace("-", "−") for text in (percent, signed)} | plain


def test_the_same_files_give_the_same_bytes(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    made = [write_report(folder).read_bytes()]
    files = {path.name: path.read_bytes() for path in (folder / "report").iterdir()}
    made.append(write_report(folder).read_bytes())
    assert made[0] == made[1]
    assert {path.name: path.read_bytes() for path in (folder / "report").iterdir()} == files
    assert set(files) == {
        "report.json", "movements.png", "accuracy.png", "loss.png", "steps.png",
        "movements.csv", "histograms.csv", "chance.csv", "weights.csv", "stages.csv", "accuracy.csv",
        "forgetting.csv", "outcomes.csv", "loss.csv", "steps.csv", "cost.csv", "time.csv",
    }  # fmt: skip


def test_another_number_in_the_files_changes_the_page(tmp_path: Path, run_report: Any):
    folder = write_run(tmp_path / "by-hand", after=AFTER | {"a": 1})
    assert write_report(folder).read_text() != run_report.html


def test_a_name_from_the_files_is_text_and_never_markup(tmp_path: Path):
    folder = write_run(tmp_path / f"run {HOSTILE.replace('/', '')}")
    (folder / "environment.json").write_text(json.dumps({"commit": HOSTILE, "packages": {HOSTILE: HOSTILE}}))
    stage = folder / "stage-1"
    for name in ("pass_rates.jsonl", "pass_rates_after.jsonl"):
        records = [json.loads(line) for line in (stage / name).read_text().splitlines()]
        lines(stage / name, [record | {"problem_id": HOSTILE + record["problem_id"]} for record in records])
    rows = json.loads((folder / "evaluation.json").read_text())
    for row in rows["rows"]:
        row["accuracy_by_level"] = {HOSTILE: 0.5}
        row["accuracy_by_stratum"], row["problems_by_stratum"] = {}, {}
    (folder / "evaluation.json").write_text(json.dumps(rows))
    html = write_report(folder).read_text()
    assert "<script" not in html.lower()
    assert "&lt;script&gt;" in html
    assert not Elements(html).of("script")


def test_a_problem_by_a_hostile_name_still_moves(tmp_path: Path):
    folder = write_run(
        tmp_path / "run", after={HOSTILE if name == "b" else name: k for name, k in AFTER.items()}
    )
    write_report(folder)
    [found] = json.loads((folder / "report" / "report.json").read_text())["movements"]
    assert found["problems"] == len(BEFORE) - 1  # "b" has no after any more


def test_one_arm_with_two_seeds_and_one_seed_with_two_arms_have_a_report(tmp_path: Path):
    for name, arms, seeds in (("a", {"only": {}}, (1, 2)), ("b", {"one": {}, "two": {}}, (1,))):
        html = write_report(write_experiment(tmp_path / name, arms, seeds)).read_text()
        assert "report of an experiment" in html
        assert ("Arm against arm" in html) == (len(arms) > 1)


def test_the_commands_that_run_it_again_name_the_commit_the_folder_and_what_was_typed(tmp_path: Path):
    folder = write_run(tmp_path / "a run")
    typed = "paced run recipe.yaml training.lr=3e-6"
    for commit, ending in (("c0ffee", "\n"), ("c0ffee-dirty", "  # and changes")):
        (folder / "environment.json").write_text(json.dumps({"commit": commit, "command": typed}))
        html = write_report(folder).read_text()
        assert f"<code>git checkout c0ffee{ending}" in html
        assert f"paced run &#39;{folder}/config.yaml&#39; run_dir=runs/again" in html
        assert f"<code>{typed}</code>" in html
    (folder / "environment.json").write_text(json.dumps({"commit": "not a clone"}))
    assert "git checkout" not in write_report(folder).read_text()
