"""Findings in the terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from paced_megatron.doctor.check import Asked, Finding, Status

STYLES = {Status.OK: "green", Status.NOTE: "yellow", Status.PROBLEM: "bold red"}


def as_json(findings: Mapping[str, Finding], asked: Asked) -> str:
    """The same as the table: `for` is what was asked about, `works` whether nothing stands in its way."""
    return json.dumps(
        {
            "for": asked.title,
            "works": not problems(findings),
            "checks": [
                {
                    "name": name,
                    "status": finding.status.value,
                    "says": finding.says,
                    "remedy": finding.remedy,
                }
                for name, finding in findings.items()
            ],
        },
        indent=1,
    )


def print_findings(findings: Mapping[str, Finding], asked: Asked, console: Console | None = None) -> None:
    """A row a check, its remedy below it, and what it comes to."""
    console = console or Console()
    table = Table(box=None, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("what was found", overflow="fold")
    for name, finding in findings.items():
        says = Text(finding.says)
        if finding.remedy:
            says.append(f"\n-> {finding.remedy}", style="italic")
        table.add_row(name, Text(finding.status.value, style=STYLES[finding.status]), says)
    console.print(table)
    console.print(Text(f"\n{verdict(findings, asked)}"), highlight=False)


def problems(findings: Mapping[str, Finding]) -> list[str]:
    """The names of the checks that found one."""
    return [name for name, finding in findings.items() if finding.status is Status.PROBLEM]


def verdict(findings: Mapping[str, Finding], asked: Asked) -> str:
    """What it comes to, in a line."""
    found = problems(findings)
    if found:
        return f"In the way of {asked.title}: {', '.join(found)}."
    return f"Nothing stands in the way of {asked.title}."
