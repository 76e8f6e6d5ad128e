"""Each mistake in a configuration ends as one line that names the place and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.written import YAML
from paced_megatron.config.io import load_config
from paced_megatron.errors import UserError

# What replaces what in YAML, the line that the message names (0: the file), and the message.
MISTAKES = {
    "unknown key": ("lr: 1e-6", "lrr: 1e-6", 9, "unknown key training.lrr; did you mean training.lr?"),
    "unknown key, right elsewhere": (
        "student:",
        "lr: 1\nstudent:",
        5,
        "unknown key lr; did you mean training.lr?",
    ),
    "unknown section": ("training:", "trainings:", 8, "unknown key trainings; did you mean training?"),
    "unknown key like no other": (
        "path: ../teacher",
        "path: ../teacher\n  qqq: 1",
        8,
        "unknown key teacher.qqq; the keys of teacher are path, "
        "tensor_model_parallel_size, pipeline_model_parallel_size, own_ranks, data_parallel_size, "
        "offload, cache",
    ),
    "unknown key in a list": (
        "- train_iters: 10",
        "- train_iters: 10\n    divergense: forward_kl",
        13,
        "unknown key stages.0.divergense; did you mean stages.0.divergence?",
    ),
    "unknown column": (
        "train: data/train.jsonl",
        "train: a\n  fields: {anser: label}",
        4,
        "unknown key problems.fields.anser; did you mean problems.fields.answer?",
    ),
    "key twice": ("global_batch_size: 8", "lr: 2", 10, "key lr twice (first in line 9); remove one"),
    "missing key": (
        "student: {path: student}",
        "student:",
        5,
        "missing key student.path: Hugging Face folder: config.json, *.safetensors and the tokenizer's files"
        "; where there is none, a model's name on the hub, e.g. `Qwen/Qwen3-0.6B`",
    ),
    "missing section": ("student: {path: student}\n", "", 0, "missing key student, a section"),
    "no budget": (
        "train_iters: 10",
        "divergence: reverse_kl",
        11,
        "stages.0 has no budget; set train_iters, train_tokens or train_seconds there, or in training for "
        "all stages",
    ),
    "two budgets of a stage": (
        "- train_iters: 10",
        "- train_iters: 10\n  - {train_iters: 3, train_seconds: 5.5}",
        11,
        "stages.1 names more than one budget, train_iters and train_seconds; leave one (null: not set)",
    ),
    "two budgets for all stages": (
        "lr: 1e-6",
        "lr: 1e-6\n  train_tokens: 9\n  train_iters: 3",
        8,
        "training names more than one budget, train_iters and train_tokens; leave one (null: not set)",
    ),
    "text for an int": (
        "size: 8",
        'size: "8"',
        10,
        "training.global_batch_size must be a whole number, not '8'",
    ),
    "word for an int": (
        "size: 8",
        "size: 1e1",
        10,
        "training.global_batch_size must be a whole number, not '1e1'",
    ),
    "fraction for an int": (
        "size: 8",
        "size: 8.0",
        10,
        "training.global_batch_size must be a whole number, not 8.0",
    ),
    "bool for an int": (
        "size: 8",
        "size: yes",
        10,
        "training.global_batch_size must be a whole number, not true",
    ),
    "bool for a float": ("1e-6", "true", 9, "training.lr must be a number, not true"),
    "word for a float": ("1e-6", "fast", 9, "training.lr must be a number, not 'fast'"),
    "quoted float": ("1e-6", '"1e-6"', 9, "training.lr must be a number, not '1e-6'; remove the quotes"),
    "null for a float": ("1e-6", "", 9, "training.lr must be a number, not null"),
    "list for a float": ("1e-6", "[1]", 9, "training.lr must be a number, not a list"),
    "infinity": ("1e-6", ".inf", 9, "training.lr must be a finite number, not inf"),
    "bool for a path": (
        "data/train.jsonl",
        "no",
        3,
        "problems.train must be text, not false; put it in quotes if that text is meant",
    ),
    "empty path": ("runs/a", '""', 1, "run_dir must be a path, not ''"),
    "a value for a section": (
        "{path: student}",
        "student",
        5,
        "student must be a section of keys, not 'student'",
    ),
    "a section for a list": (
        "- train_iters",
        "train_iters",
        11,
        "stages must be a list, not a section of keys",
    ),
    "choice": (
        "- train_iters: 10",
        "- {train_iters: 10, divergence: forwardkl}",
        12,
        "stages.0.divergence must be forward_kl or reverse_kl or jsd or skew_forward_kl or skew_reverse_kl "
        "or akl, not 'forwardkl'; did you mean forward_kl?",
    ),
    "parameter missing": (
        "- train_iters: 10",
        "- train_iters: 5\n  - {train_iters: 10, divergence: jsd}",
        11,
        "stages.1.divergence_parameter: jsd needs beta, a number between 0 and 1",
    ),
    "parameter too many": (
        "- train_iters: 10",
        "- {train_iters: 10, divergence_parameter: 0.5}",
        11,
        "stages.0.divergence_parameter: forward_kl takes none, but 0.5 is given",
    ),
    "parameter out of range": (
        "- train_iters: 10",
        "- {train_iters: 10, divergence: akl, divergence_parameter: 1}",
        12,
        "stages.0.divergence_parameter must be above 0 and below 1, not 1",
    ),
    "no stages": (
        "\n  - train_iters: 10",
        " []",
        11,
        "stages is empty; it needs at least one entry, e.g. `- {divergence: forward_kl, train_iters: 100}`",
    ),
    "batch": (
        "size: 8",
        "size: 9\n  micro_batch_size: 2\nparallel: {data_parallel_size: 2}",
        10,
        "training.global_batch_size=9 is not a multiple of training.micro_batch_size x "
        "parallel.data_parallel_size = 2 x 2 = 4; 8 or 12 would do",
    ),
    "not YAML": (
        "{path: student}",
        "{path: [}",
        5,
        "not valid YAML: while parsing a flow node: expected the node content, but found '}'",
    ),
    "two documents": (
        "student:",
        "---\nstudent:",
        5,
        "not valid YAML: expected a single document in the stream: but found another document",
    ),
    "circle": ("{path: student}", "&s {path: *s}", 5, "a section that contains itself; remove the alias (*)"),
    "code": (
        "{path: student}",
        "!!python/object:os.system {path: a}",
        5,
        "the tag tag:yaml.org,2002:python/object:os.system has no meaning here; remove it",
    ),
    "forgotten quotes": (
        "data/train.jsonl",
        "a\n  prompts: {template: {{problem}}}",
        4,
        "a key must be text; braces in a text need quotes around it",
    ),
    "a date that is none": (
        "run_dir: runs/a",
        "run_dir: runs/a\nseed: 2026-13-41",
        2,
        "'2026-13-41' cannot be read (month must be in 1..12); put it in quotes if it is text",
    ),
    "a tag whose value is none": (
        "run_dir: runs/a",
        "run_dir: runs/a\nseed: !!int many",
        2,
        "'many' cannot be read (invalid literal for int() with base 10: 'many'); "
        "put it in quotes if it is text",
    ),
    "brackets without end": (
        "run_dir: runs/a",
        f"run_dir: {'[' * 5000}{']' * 5000}",
        None,
        "not valid YAML: brackets or sections lie too deep in each other",
    ),
    "an experiment's key": (
        "run_dir: runs/a",
        "run_dir: runs/a\narms: {paced: {}}",
        2,
        "unknown key arms; this is an experiment's file: `paced compare` takes it",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_file_is_told_with_its_line_and_the_remedy(load, name: str) -> None:
    old, new, line, message = MISTAKES[name]
    assert old in YAML
    with pytest.raises(UserError) as caught:
        load(YAML.replace(old, new))
    assert str(caught.value) == f"../recipe/run.yaml{f':{line}' if line else ''}: {message}"


OUT_OF_RANGE = {
    "seed=-1": "seed must be at least 0 and at most 9223372036854775807, not -1",
    "seed=9223372036854775808": (
        "seed must be at least 0 and at most 9223372036854775807, not 9223372036854775808"
    ),
    'run_dir="a\\0b"': "run_dir must be a path, not 'a\\x00b'",
    "parallel.tensor_model_parallel_size=0": "parallel.tensor_model_parallel_size must be at least 1, not 0",
    "parallel.data_parallel_size=0": "parallel.data_parallel_size must be at least 1, not 0",
    "rollout.attempts=0": "rollout.attempts must be at least 2, not 0",
    "rollout.temperature=-0.1": "rollout.temperature must be at least 0, not -0.1",
    "rollout.top_p=0": "rollout.top_p must be above 0 and at most 1, not 0",
    "evaluation.top_p=1.01": "evaluation.top_p must be above 0 and at most 1, not 1.01",
    "rollout.top_k=0": "rollout.top_k must be at least 1, or -1 for off, not 0",
    "rollout.top_k=-2": "rollout.top_k must be at least 1, or -1 for off, not -2",
    "rollout.max_new_tokens=0": "rollout.max_new_tokens must be at least 1, not 0",
    "rollout.batch_size=0": "rollout.batch_size must be at least 1, not 0",
    "pacing.alpha=-1": "pacing.alpha must be at least 0, not -1",
    "pacing.beta=-1e-3": "pacing.beta must be at least 0, not '-1e-3'",
    "training.lr=0": "training.lr must be above 0, not 0",
    "training.adam_beta2=1": "training.adam_beta2 must be at least 0 and below 1, not 1",
    "training.temperature=0": "training.temperature must be above 0, not 0",
    "training.save_interval=0": "training.save_interval must be at least 1, not 0",
    "stages.0.train_iters=0": "stages.0.train_iters must be at least 1, not 0",
    "training.train_tokens=0": "training.train_tokens must be at least 1, not 0",
    "stages.0.train_seconds=-1": "stages.0.train_seconds must be above 0, not -1",
    "training.lr_warmup_fraction=1": "training.lr_warmup_fraction must be at least 0 and below 1, not 1",
    "evaluation.max_new_tokens=0": "evaluation.max_new_tokens must be at least 1, not 0",
    "problems.verifier.timeout_s=0": "problems.verifier.timeout_s must be above 0, not 0",
    "training.min_lr=1": "training.min_lr=1 is above training.lr=1e-06; lower it",
    "training.lr_warmup_iters=10": (
        "training.lr_warmup_iters=10 must be below every stage's train_iters; one has 10"
    ),
    "problems.prompts.template=Hello": (
        "problems.prompts.template has no {problem}, so that every prompt would be the same; put it in"
    ),
}


@pytest.mark.parametrize("override", OUT_OF_RANGE)
def test_a_value_out_of_range_is_told_with_its_range(load, override: str) -> None:
    with pytest.raises(UserError) as caught:
        load(YAML, override)
    assert str(caught.value) == f"override {override}: {OUT_OF_RANGE[override]}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("stages=[{train_tokens: 90}]", "training.lr_warmup_iters=2"),
            "training.lr_warmup_iters=2 counts steps, and stages.0.train_tokens tokens; set "
            "training.lr_warmup_fraction, a share of the budget",
        ),
        (
            ("training.lr_warmup_fraction=0.1", "training.lr_warmup_iters=2"),
            "training.lr_warmup_iters=2 stands beside training.lr_warmup_fraction=0.1; leave one",
        ),
        (
            ("stages=[{train_iters: 9}, {train_seconds: 90}]", "pacing.order=easy_to_hard"),
            "pacing.order=easy_to_hard sorts all texts of a stage, and how many stages.1.train_seconds makes "
            "only the clock knows; set train_iters or train_tokens",
        ),
    ],
)
def test_what_counts_steps_is_not_taken_for_a_budget_that_does_not(load, overrides, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(YAML, *overrides)
    assert str(caught.value) == f"override {overrides[-1]}: {message}"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/nowhere.yaml: no such file; give the run's YAML file$"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match=r": a folder; give the run's YAML file$"):
        load_config(tmp_path)


def test_an_empty_file_misses_its_first_key(load) -> None:
    with pytest.raises(UserError, match=r"^../recipe/run.yaml: missing key run_dir: the run's folder"):
        load("")
