"""The data of the tasks in this folder: NAME.jsonl, of which the first rows are examples (`dev`)."""

from __future__ import annotations

import json
from pathlib import Path

import datasets

EXAMPLES = 4


def load(name: str, **metadata: object) -> datasets.DatasetDict:
    lines = (Path(__file__).parent / f"{name}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return datasets.DatasetDict(
        dev=datasets.Dataset.from_list(rows[:EXAMPLES]), test=datasets.Dataset.from_list(rows[EXAMPLES:])
    )
