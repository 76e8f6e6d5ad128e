"""Real problems, the real Qwen3 tokenizer with its head of 151,936 rows, and a small random student."""

from __future__ import annotations

import json

import pytest
import yaml

from paced_megatron.cli import main
from tiny_models import make_tiny_qwen3


@pytest.fixture(scope="module")
def recipe(test_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    tokenizer = test_data / "qwen3-tokenizer"
    sizes = {"vocab_size": 151_936, "num_hidden_layers": 1, "max_position_embeddings": 2048}
    make_tiny_qwen3(folder / "student", seed=7, tokenizer=tokenizer, **sizes)
    make_tiny_qwen3(folder / "teacher", seed=8, hidden_size=64, tokenizer=tokenizer, **sizes)
    problems = (test_data / "math500.jsonl").read_text().splitlines(keepends=True)
    (folder / "math.jsonl").write_text("".join(problems[:6]))
    document = {
        "run_dir": str(folder / "run"),
        "problems": {
            "train": "math.jsonl",
            "fields": {"id": "unique_id"},
            "prompts": {
                "template": "{problem}\n\nThink step by step; put the final answer in \\boxed{}.",
                "chat_template_kwargs": {"enable_thinking": False},
            },
        },
        "student": {"path": "student"},
        "teacher": {"path": "teacher"},
        "rollout": {"attempts": 2, "max_new_tokens": 8, "batch_size": 6},
        "training": {"global_batch_size": 2},
        "stages": [{"train_iters": 1}],
    }
    (folder / "math.yaml").write_text(yaml.safe_dump(document))
    return folder / "math.yaml"


def test_a_student_that_solves_nothing_ends_in_a_message_that_says_so(recipe, capsys):
    assert main(["run", str(recipe)]) == 2
    captured = capsys.readouterr()
    line = captured.err.strip()
    assert "none of the 6 problems" in line and "k=0: 6" in line and "easier problems" in line
    attempts = [
        json.loads(text) for text in (recipe.parent / "run/stage-1/attempts.jsonl").read_text().splitlines()
    ]
    assert len(attempts) == 12
    assert {attempt["outcome"] for attempt in attempts} == {"truncated"}
    assert all(len(attempt["token_ids"]) == 8 and max(attempt["token_ids"]) < 151_669 for attempt in attempts)
    assert not (recipe.parent / "run/stage-1/checkpoints").exists()


def test_the_recorded_problems_are_those_of_the_file(recipe, test_data):
    main(["rollout", str(recipe)])
    recorded = [json.loads(line) for line in (recipe.parent / "run/problems.jsonl").read_text().splitlines()]
    source = [json.loads(line) for line in (test_data / "math500.jsonl").read_text().splitlines()[:6]]
    assert [problem["id"] for problem in recorded] == [problem["unique_id"] for problem in source]
    assert [problem["answer"] for problem in recorded] == [problem["answer"] for problem in source]
