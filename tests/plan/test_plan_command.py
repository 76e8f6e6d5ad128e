"""`paced plan`: from config.json alone to a table, JSON, an exit code and a layout that fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from paced_megatron.cli import main

CONFIGS = Path(__file__).parents[1] / "data" / "configs"
GB = 2**30


@pytest.fixture
def recipe(tmp_path):
    """Called with two published models and sections of a configuration; writes it. No weights."""

    def write(student: str, teacher: str, **sections) -> Path:
        for name in (student, teacher):
            (tmp_path / name).mkdir(exist_ok=True)
            shutil.copy(CONFIGS / f"{name}.json", tmp_path / name / "config.json")
        document = {
            "run_dir": str(tmp_path / "run"),
            "problems": {"train": "nowhere.jsonl"},
            "student": {"path": student},
            "teacher": {"path": teacher},
            "stages": [{"train_iters": 10}],
        } | sections
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


BF16 = {"params_dtype": "bfloat16"}


def planned(capsys, *arguments: str | Path) -> tuple[int, dict]:
    code = main(["plan", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_what_fits_ends_with_0_and_writes_nothing(recipe, capsys, tmp_path):
    path = recipe("Qwen3-0.6B", "Qwen3-1.7B", training=BF16)
    before = sorted(tmp_path.rglob("*"))
    code, plan = planned(capsys, path, "--memory-gb", "80")
    assert code == 0 and plan["fits"] is True and plan["would_fit"] is None
    assert sorted(tmp_path.rglob("*")) == before


def test_the_budget_of_each_stage_is_shown_with_the_key_that_sets_it(recipe, capsys):
    stages = [{"train_tokens": 20_000_000}, {}]
    path = recipe("Qwen3-0.6B", "Qwen3-1.7B", training=BF16 | {"train_seconds": 3600}, stages=stages)
    assert main(["plan", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Stage 1 is trained for 20,000,000 tokens (stages.0.train_tokens)." in said
    assert "Stage 2 is trained for 3,600 seconds (training.train_seconds)." in said
    assert planned(capsys, path)[1]["budgets"] == [{"train_tokens": 20_000_000}, {"train_seconds": 3600.0}]


def test_what_does_not_fit_ends_with_1_and_names_a_layout_that_does(recipe, capsys):
    parallel = {"tensor_model_parallel_size": 1, "data_parallel_size": 8}
    path = recipe("Qwen3-8B", "Qwen3-14B", training=BF16, parallel=parallel)
    code, plan = planned(capsys, path, "--memory-gb", "80")
    assert code == 1 and plan["fits"] is False
    better = plan["would_fit"]
    sizes = {name: better[name] for name in better if name.endswith("_size") and better[name]}
    sizes = {
        name: size for name, size in sizes.items() if name.split("_")[0] in ("tensor", "pipeline", "data")
    }
    assert (
        sizes["tensor_model_parallel_size"]
        * sizes["pipeline_model_parallel_size"]
        * sizes["data_parallel_size"]
        == 8
    )
    keys = [f"parallel.{name}={size}" for name, size in sizes.items()]
    keys += [f"parallel.{name}={better[name]}" for name in ("sequence_parallel", "use_distributed_optimizer")]
    if better["recompute_granularity"]:
        keys.append(f"training.recompute_granularity={better['recompute_granularity']}")
    code, again = planned(capsys, path, *keys, "--memory-gb", "80")  # the layout named, planned itself
    assert code == 0 and again["fits"] is True
    assert max(stage["peak"] for stage in again["stages"]) <= 80 * GB


def test_where_no_layout_of_so_many_processes_fits_a_larger_one_is_named(recipe, capsys):
    path = recipe("Qwen3-8B", "Qwen3-14B", training=BF16)
    code, plan = planned(capsys, path, "--memory-gb", "80")
    better = plan["would_fit"]
    assert code == 1
    world = better["tensor_model_parallel_size"] * better["pipeline_model_parallel_size"]
    assert world * better["data_parallel_size"] > 1


def test_a_model_too_large_for_the_engine_of_one_rank_is_said_to_be_that(recipe, capsys):
    path = recipe("Llama-3.1-8B-Instruct", "Llama-3.1-70B-Instruct", training=BF16)
    assert main(["plan", str(path), "--memory-gb", "80"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "the rollout engine has a whole model on rank 0" in shown


def test_the_table_has_what_the_json_has_and_says_what_does_not_fit(recipe, capsys):
    path = recipe("Qwen3-8B", "Qwen3-14B", training=BF16, parallel={"pipeline_model_parallel_size": 2})
    _, plan = planned(capsys, path, "--memory-gb", "40")
    assert main(["plan", str(path), "--memory-gb", "40"]) == 1
    shown = capsys.readouterr().out
    for stage in plan["stages"]:
        assert f"stage {stage['stage']}" in shown and f"{stage['peak'] / GB:.2f}" in shown
        for part in stage["lasting"]:
            assert part in shown
    assert "does not fit into 40.0 GB" in shown and "optimizer state" in shown and "TFLOP" in shown


def test_without_a_gpu_and_a_limit_there_is_no_verdict(recipe, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, plan = planned(capsys, recipe("Qwen3-0.6B", "Qwen3-1.7B"))
    assert code == 0 and plan["fits"] is None and plan["limit"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["parallel.tensor_model_parallel_size=8"], "num_attention_heads=28"),
        (["parallel.pipeline_model_parallel_size=3"], "num_hidden_layers=28"),
        (["--memory-gb", "0"], "--memory-gb 0: must be above 0"),
        (["--prompt-tokens", "-3"], "--prompt-tokens -3: must be above 0"),
        (["--response-tokens", "0"], "--response-tokens 0: must be above 0"),
        (["--memory-gb", "nan"], "--memory-gb nan: must be above 0, and finite"),
        (["--memory-gb", "inf"], "--memory-gb inf: must be above 0, and finite"),
    ],
)
def test_a_mistake_ends_with_2_and_one_line(recipe, capsys, arguments, words):
    path = recipe("Qwen2.5-7B-Instruct", "Qwen2.5-7B-Instruct", training={"global_batch_size": 32})
    assert main(["plan", str(path), *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_a_gpu_can_be_named_and_has_the_memory_of_its_data_sheet(recipe, capsys):
    path = recipe("Qwen3-0.6B", "Qwen3-1.7B", training=BF16)
    code, plan = planned(capsys, path, "--gpu", "H200")
    assert code == 0 and plan["limit"] == 141e9
    assert planned(capsys, path, "--gpu", "a100-40")[1]["limit"] == 40e9
    assert main(["plan", str(path), "--gpu", "h900"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--gpu h900: not known here" in line and "h100, " in line and "--memory-gb" in line
    with pytest.raises(SystemExit):
        main(["plan", str(path), "--gpu", "h100", "--memory-gb", "80"])


def test_keys_that_would_do_on_the_same_gpus_are_named_before_a_larger_layout(recipe, capsys):
    training = BF16 | {"micro_batch_size": 16}
    path = recipe("Qwen3-0.6B", "Qwen3-1.7B", training=training, rollout={"batch_size": 16})
    code, plan = planned(capsys, path, "--memory-gb", "70", "--response-tokens", "2048")
    assert code == 1 and plan["remedies"]
    for remedy in plan["remedies"]:
        code, again = planned(capsys, path, *remedy["keys"], "--memory-gb", "70", "--response-tokens", "2048")
        assert code == 0, remedy
        assert max(stage["peak"] for stage in again["stages"]) == pytest.approx(remedy["peak"]), remedy
    assert main(["plan", str(path), "--memory-gb", "70", "--response-tokens", "2048"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "training.micro_batch_size=1 (" in said and "would do." in said


def test_on_a_gpu_attention_never_makes_all_scores_and_on_a_cpu_it_does(recipe, capsys):
    path = recipe("Qwen3-0.6B", "Qwen3-1.7B", training=BF16)
    kept = [
        planned(capsys, path, *how, "--response-tokens", "8192")[1]["stages"][0]["turns"]["student"][
            "activations"
        ]
        for how in ((), ("--gpu", "h100"))
    ]
    assert kept[0] > 3 * kept[1]


def test_help_says_what_the_exit_codes_mean(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "1 it does not fit" in " ".join(capsys.readouterr().out.split())


def test_planning_imports_no_megatron():
    import subprocess
    import sys

    code = "import sys, paced_megatron.plan.plan as plan; sys.exit('megatron' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_the_teacher_s_cache_takes_on_disk_is_said_where_it_is_asked_for(recipe, capsys):
    path = recipe("Qwen3-0.6B", "Qwen3-1.7B", training=BF16)
    how = ("--memory-gb", "80", "--response-tokens", "1000")
    for cache, size, said in (("false", 0, ""), ("true", 1000 * 2048 * 2, "up to 3.9 MB")):
        asked = (path, f"teacher.cache={cache}", *how)
        assert planned(capsys, *asked)[1]["cache_bytes_per_response"] == size
        assert main(["plan", *map(str, asked)]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert said in shown and ("teacher.cache" in shown) == bool(said)


def test_an_on_policy_step_is_planned_with_all_attempts_at_its_problems(recipe, capsys):
    """Their K texts each, and beside them the engine that makes them."""

    def plan(**stage) -> dict:
        stages = [{"train_iters": 10, **stage}]
        path = recipe("Qwen3-0.6B", "Qwen3-1.7B", training=BF16, stages=stages, rollout={"attempts": 4})
        return planned(capsys, path, "--memory-gb", "80")[1]

    stored, one, whole = plan(), plan(text="rollouts", train_on="one"), plan(text="rollouts")
    handed_over = [
        of["stages"][0]["turns"]["student"]["hidden states of the teacher"] for of in (stored, one, whole)
    ]
    assert handed_over == [handed_over[0], handed_over[0], 4 * handed_over[0]]
    assert whole["matmul_flops"]["student forward"] == 4 * stored["matmul_flops"]["student forward"]
    beside = ["evaluation between steps" in of["stages"][0]["turns"] for of in (stored, one, whole)]
    assert beside == [False, True, True]


def test_a_proposed_layout_says_that_a_teacher_with_sizes_of_its_own_changes_too(recipe, capsys):
    """Who changed the student's alone would have another plan than the one that fits."""
    parallel = {"tensor_model_parallel_size": 1, "data_parallel_size": 8}
    path = recipe("Qwen3-8B", "Qwen3-14B", training=BF16, parallel=parallel)
    own = ("teacher.tensor_model_parallel_size=4", "teacher.pipeline_model_parallel_size=1")
    for sizes, is_said in (((), False), (own, True)):
        assert main(["plan", str(path), *sizes, "--memory-gb", "60"]) == 1
        shown = " ".join(capsys.readouterr().out.split())
        assert ("(data_parallel_size 8, teacher.tensor_model_parallel_size 4, " in shown) == is_said
        words = "and teacher.tensor_model_parallel_size and pipeline_model_parallel_size as the student's"
        assert "This layout would, with" in shown and (words in shown) == is_said


def test_texts_that_fill_a_bin_together_take_the_products_that_they_take_one_by_one(recipe, capsys):
    path = recipe("Qwen3-0.6B", "Qwen3-1.7B", training=BF16 | {"micro_batch_size": 1})
    how = ("--prompt-tokens", "512", "--response-tokens", "1536", "--gpu", "h100")
    alone = planned(capsys, path, *how)[1]["matmul_flops"]
    packed = planned(capsys, path, "training.pack_length=4096", *how)[1]["matmul_flops"]
    assert packed == pytest.approx(alone)
