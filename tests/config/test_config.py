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
