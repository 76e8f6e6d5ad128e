"""The quickstart's committed models and problem files are what its README says; nothing is trained."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from paced_megatron.config.io import load_config

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
MODELS = ("teacher", "student")
Row = dict[str, str]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def model(name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(QUICKSTART / name).eval()


@cache
def tokenizer(name: str) -> Any:
    return AutoTokenizer.from_pretrained(QUICKSTART / name)


@cache
def rows(name: str) -> list[Row]:
    return [json.loads(line) for line in (QUICKSTART / f"{name}.jsonl").read_text().splitlines()]


def prompt(name: str, messages: Sequence[dict[str, str]], **how: Any) -> str:
    return tokenizer(name).apply_chat_template(messages, tokenize=False, **how)


@torch.inference_mode()
def greedily_right(name: str, problems: Sequence[Row]) -> list[bool]:
    """Whether the likeliest response ends within 16 tokens and has the answer; prompts of one length."""
    encode = tokenizer(name).encode
    texts = [
        prompt(name, [{"role": "user", "content": p["problem"]}], add_generation_prompt=True)
        for p in problems
    ]
    ids = torch.tensor([encode(text, add_special_tokens=False) for text in texts])
    output = model(name).generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16
    )
    responses = tokenizer(name).batch_decode(output[:, ids.shape[1] :])
    return [
        "<eos>" in response and response.split("<eos>")[0].rpartition("#")[2] == problem["answer"]
        for response, problem in zip(responses, problems, strict=True)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_model_config_and_tokenizer_agree(name: str) -> None:
    config, words = model(name).config, tokenizer(name)
    assert config.model_type == "qwen3" and config.tie_word_embeddings
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
    assert config.max_position_embeddings == 64
    assert config.vocab_size % 64 == 0 and len(words) <= config.vocab_size < len(words) + 64
    assert model(name).get_input_embeddings().weight.shape[0] == config.vocab_size
    assert {weight.dtype for weight in model(name).parameters()} == {torch.float32}
    special = (words.eos_token_id, words.pad_token_id)
    assert special == (1, 0)
    for saved in ("config.json", "generation_config.json"):
        settings = json.loads((QUICKSTART / name / saved).read_text())
        assert (settings["eos_token_id"], settings["pad_token_id"]) == special, saved


def test_teacher_and_student_have_the_same_tokenizer_files() -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (QUICKSTART / "teacher" / file).read_bytes() == (QUICKSTART / "student" / file).read_bytes(), (
            file
        )


@pytest.mark.parametrize("name", MODELS)
def test_chat_template_gives_exactly_problem_and_colon(name: str) -> None:
    user = {"role": "user", "content": "ab cd"}
    assert prompt(name, [user], add_generation_prompt=True) == "ab cd:"
    system = {"role": "system", "content": "be brief"}
    assert prompt(name, [system, user], add_generation_prompt=True) == "be brief ab cd:"
    assistant = {"role": "assistant", "content": "37,45#3745"}
    assert prompt(name, [user, assistant]) == "ab cd:37,45#3745<eos>"


def test_a_text_comes_back_from_its_tokens_one_token_a_character() -> None:
    words = tokenizer("student")
    for row in (*rows("train"), *rows("test"), *rows("forgetting")):
        text = f"{row['problem']}:{row['solution']}"
        ids = words.encode(text, add_special_tokens=False)
        assert len(ids) == len(text) and words.unk_token_id not in ids
        assert words.decode(ids) == text
        assert len(row["solution"]) + 1 <= 16, "a right response, with <eos>, must fit into max_new_tokens"


def test_teacher_answers_at_least_95_percent_greedily() -> None:
    sample = random.Random(0).sample(rows("test"), 40)
    assert sum(greedily_right("teacher", sample)) >= 38


def test_student_is_good_at_frequent_words_and_lost_on_words_it_never_saw() -> None:
    right: Counter[str] = Counter()
    for row, correct in zip(rows("test"), greedily_right("student", rows("test")), strict=True):
        right[row["level"]] += correct
    accuracy = [right[str(band)] / 40 for band in range(10)]
    assert min(accuracy[:2]) > 0.8, accuracy
    assert max(accuracy[8:]) < 0.2, accuracy
    assert any(0.2 < value < 0.8 for value in accuracy), f"no frontier between them: {accuracy}"


def test_student_can_sort_letters() -> None:
    five = [row for row in rows("forgetting") if row["level"] == "5"]
    assert sum(greedily_right("student", five)) >= 0.9 * len(five)


def test_problem_files_have_their_sizes_and_no_id_twice() -> None:
    levels = {name: Counter(row["level"] for row in rows(name)) for name in ("train", "test", "forgetting")}
    assert levels["train"] == {str(band): 60 for band in range(10)}
    assert levels["test"] == {str(band): 40 for band in range(10)}
    assert levels["forgetting"] == {str(length): 20 for length in range(3, 8)}
    ids = [row["id"] for name in levels for row in rows(name)]
    assert len(ids) == len(set(ids)) == 1100


def test_answers_follow_from_the_solutions_and_a_word_has_one_code_and_one_band() -> None:
    known: dict[str, tuple[str, str]] = {}
    for row in (*rows("train"), *rows("test")):
        codes, _, end = row["solution"].partition("#")
        assert end == codes.replace(",", "") == row["answer"]
        for word, code in zip(row["problem"].split(" "), codes.split(","), strict=True):
            assert len(word) == 2 and len(code) == 2 and code.isdigit()
            assert known.setdefault(word, (code, row["level"])) == (code, row["level"]), word
    assert len(known) == 300
    assert set(Counter(band for _, band in known.values()).values()) == {30}


def test_sort_answers_are_the_letters_in_order() -> None:
    for row in rows("forgetting"):
        assert row["answer"] == "".join(sorted(row["problem"])) and row["level"] == str(len(row["problem"]))
        assert row["solution"] == f"{row['answer']}#{row['answer']}"
    assert len({row["problem"] for row in rows("forgetting")}) == 100


def test_no_pair_is_in_train_and_test_in_either_order() -> None:
    pairs = [frozenset(row["problem"].split(" ")) for row in (*rows("train"), *rows("test"))]
    assert len(pairs) == len(set(pairs)) == 1000


def test_script_makes_the_committed_problem_files_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(QUICKSTART)
    import lexicon
    import make_models

    for file, lines in lexicon.make_problem_sets(1, lexicon.make_lexicon(1)).files().items():
        make_models.write_jsonl(tmp_path / file, lines)
        assert (tmp_path / file).read_bytes() == (QUICKSTART / file).read_bytes(), file


def test_no_held_out_problem_is_drawn_while_a_model_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(QUICKSTART)
    import lexicon

    words = lexicon.make_lexicon(1)
    sets = lexicon.make_problem_sets(1, words)
    held_out = sets.held_out()
    assert {p.problem for p in (*sets.test, *sets.forgetting)} <= held_out
    assert held_out.isdisjoint(p.problem for p in sets.train)
    rng = random.Random(0)
    drawn = [lexicon.draw_lexicon(rng, words, 3, held_out).problem for _ in range(3000)]
    drawn += [lexicon.draw_sort(rng, held_out).problem for _ in range(20000)]
    assert held_out.isdisjoint(drawn)
    assert len(set(drawn[:3000])) > 700, "nearly all of the 790 open pairs of a band come up"


def test_configuration_is_accepted_and_names_what_is_there() -> None:
    config = load_config(QUICKSTART / "quickstart.yaml")
    for path in (config.problems.train, config.problems.test, config.student.path, config.teacher.path):
        assert path is not None and Path(path).exists() and Path(path).parent == QUICKSTART
    assert config.problems.verifier.answer_marker == "#"
    assert config.stages[0].train_iters == 40 and config.training.lr == 3e-4
    assert model("student").config.num_key_value_heads % config.parallel.tensor_model_parallel_size == 0


def test_models_and_problems_stay_under_four_megabytes() -> None:
    kept = [
        *QUICKSTART.glob("*.jsonl"),
        *(file for name in MODELS for file in (QUICKSTART / name).rglob("*")),
    ]
    assert sum(file.stat().st_size for file in kept if file.is_file()) < 4e6
