"""What a recipe says, what it leaves to defaults, where its paths lead, and how it is written again."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from config.written import YAML
from paced_megatron.config import Config, StageConfig, TrainingConfig
from paced_megatron.config.io import config_from_dict, config_to_dict, diff_configs, dump_config, load_config
from paced_megatron.errors import UserError


def test_what_is_not_said_has_its_default(load) -> None:
    config = load()
    assert config.training == dataclasses.replace(TrainingConfig(), lr=1e-6, global_batch_size=8)
    assert config.stages == [StageConfig(divergence="forward_kl", train_iters=10)]
    assert (config.seed, config.rollout.attempts, config.pacing.kernel) == (1234, 8, "beta")


def test_a_dataset_of_the_hub_stays_the_address_that_it_is_and_is_recorded_so(load, tmp_path: Path) -> None:
    address = "hf://org/name?config=all&split=train[:80%]"
    config = load(YAML, f"problems.train={address}", "problems.format=dapo_math_processed")
    assert config.problems.train == address
    recorded = tmp_path / "recorded.yaml"
    recorded.write_text(dump_config(config))
    assert load_config(recorded) == config


def test_the_share_of_tokens_kept_is_for_tip(load) -> None:
    config = load(YAML, "training.token_weights=tip", "training.token_weights_kept=0.2")
    assert config.training.token_weights_kept == 0.2
    with pytest.raises(
        UserError, match=r"token_weights_kept is for training.token_weights=tip, and that is none"
    ):
        load(YAML, "training.token_weights_kept=0.2")


def test_fields_are_for_a_plain_file(load) -> None:
    load(YAML, "problems.fields={id: uid}", "problems.format=math")  # test is plain
    with pytest.raises(
        UserError, match=r"problems.fields names columns of plain files, and no file is plain"
    ):
        load(YAML, "problems.fields={id: uid}", "problems.format=math", "problems.test_format=math500")


def test_inputs_start_at_the_files_folder_and_run_dir_at_the_current_directory(load, tmp_path: Path) -> None:
    config = load()
    assert config.problems.train == str(tmp_path / "recipe/data/train.jsonl")
    assert config.problems.test == "/elsewhere/test.jsonl"
    assert config.student.path == tmp_path / "recipe/student"
    assert config.teacher.path == tmp_path / "teacher"
    assert config.run_dir == tmp_path / "elsewhere/runs/a"
    prompts = "  prompts: {chat_template: chat.jinja}\nstudent:"
    template = load(YAML.replace("student:", prompts)).problems.prompts.chat_template
    assert template == tmp_path / "recipe/chat.jinja"


def test_an_overrides_paths_start_at_the_current_directory(load, tmp_path: Path) -> None:
    config = load(YAML, "student.path=mine", "run_dir=out", "teacher={path: yours}")
    assert config.student.path == tmp_path / "elsewhere/mine"
    assert config.teacher.path == tmp_path / "elsewhere/yours"
    assert config.run_dir == tmp_path / "elsewhere/out"


def test_the_users_home_is_understood(load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load(YAML, "student.path=~/mine").student.path == Path("/home/somebody/mine")


@pytest.mark.parametrize("text", ["1e-6", "1E-6", "1.0e-6", "0.000001", "+1e-06"])
def test_a_number_may_be_written_as_people_write_it(load, text: str) -> None:
    assert load(YAML.replace("1e-6", text)).training.lr == 1e-6
    assert load(YAML.replace("1e-6", "3.0"), f"training.lr={text}").training.lr == 1e-6


def test_a_whole_number_serves_where_a_fraction_may_stand(load) -> None:
    value = load(YAML.replace("1e-6", "1")).training.lr
    assert (value, type(value)) == (1.0, float)


# What replaces what in YAML, the line that the message names (0: the file), and the message.
<<<<<<< HEAD
=======
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


>>>>>>> rv1
def test_a_stage_without_a_budget_of_its_own_has_that_of_training(load) -> None:
    config = load(
        YAML.replace("- train_iters: 10", "- {}\n  - train_seconds: 1.5\n  - train_iters: 3"),
        "training.train_tokens=5000",
    )
    budgets = [config.budget(number) for number in (1, 2, 3)]
    assert [(budget.name, budget.amount, budget.key) for budget in budgets] == [
        ("train_tokens", 5000, "training.train_tokens"),
        ("train_seconds", 1.5, "stages.1.train_seconds"),
        ("train_iters", 3, "stages.2.train_iters"),
    ]


def test_the_bounds_themselves_are_allowed(load) -> None:
    load(
        YAML,
        "rollout.top_p=1",
        "rollout.temperature=0",
        "rollout.top_k=-1",
        "evaluation.top_k=1",
        "pacing.beta=0",
    )


def test_a_divergence_takes_its_parameter_and_akl_has_one_already(load) -> None:
    config = load(YAML, "stages=[{train_iters: 4, divergence: jsd, divergence_parameter: 0.1}]")
    assert config.stages[0].divergence_parameter == 0.1
    assert load(YAML, "stages.0.divergence=akl").stages[0].divergence_parameter is None


def test_evaluating_in_between_needs_held_out_problems(load) -> None:
    with pytest.raises(UserError, match=r"evaluation.every=5 needs held-out problems; set problems.test$"):
        load(YAML, "evaluation.every=5", "problems.test=null")
    assert load(YAML, "evaluation.every=5").evaluation.every == 5


def test_sections_can_be_shared_by_yaml_aliases_and_own_keys_win(load) -> None:
    text = YAML.replace("{path: student}", "&both {path: /models/a}").replace(
        "\n  path: ../teacher", " *both"
    )
    assert load(text).teacher.path == load(text).student.path == Path("/models/a")
    merged = YAML.replace("  lr: 1e-6", "  <<: {lr: 1e-5, min_lr: 1e-7}\n  lr: 1e-6")
    assert (load(merged).training.lr, load(merged).training.min_lr) == (1e-6, 1e-7)


def test_what_is_dumped_is_read_back_the_same(load, tmp_path: Path) -> None:
    rng = random.Random(0)
    config = load(
        YAML,
        f"training.lr={rng.uniform(1e-7, 1e-6)}",
        "problems.prompts.system_prompt=yes: 'sir' é\\n",
        'problems.prompts.template="{problem}\\n\\n# think "',
        "problems.prompts.chat_template_kwargs={enable_thinking: false, tools: [1, a]}",
        "training.adam_eps=1e-12",
    )
    file = tmp_path / "dumped.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config
    assert config_from_dict(config_to_dict(config)) == config


def test_a_dump_holds_every_key(load) -> None:
    tree = config_to_dict(load())
    assert list(tree) == [field.name for field in dataclasses.fields(Config)]
    assert list(tree["training"]) == [field.name for field in dataclasses.fields(TrainingConfig)]


def test_two_configurations_differ_in_the_keys_that_differ(load) -> None:
    old = load()
    assert diff_configs(old, load()) == []
    new = load(
        YAML,
        "training.lr=2e-6",
        "run_dir=b",
        "stages=[{train_iters: 10}, {train_iters: 5}]",
        "problems.fields.id=i",
    )
    assert diff_configs(old, new, ignore=["run_dir"]) == [
        ("training.lr", 1e-6, 2e-6),
        ("problems.fields.id", None, "i"),
        *(
            (f"stages.1.{key}", None, value)
            for key, value in config_to_dict(new)["stages"][1].items()
            if value is not None
        ),
    ]
    assert [key for key, _, _ in diff_configs(new, old, ignore=["run_dir", "stages", "train"])] == [
        "problems.fields.id",
        "training.lr",
    ]


def test_a_dict_is_checked_like_a_file(tmp_path: Path) -> None:
    data = {
        "run_dir": "r",
        "problems": {"train": "t.jsonl"},
        "student": {"path": Path("/s")},
        "teacher": {"path": "/t"},
        "stages": [{"train_iters": 3}],
    }
    config = config_from_dict(data, folder=tmp_path)
    assert (config.problems.train, config.student.path) == (str(tmp_path / "t.jsonl"), Path("/s"))
    with pytest.raises(UserError, match=r"^here: unknown key sed; did you mean seed\?$"):
        config_from_dict(data | {"sed": 1}, where="here")
