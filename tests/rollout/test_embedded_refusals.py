"""What the embedded engine refuses, by name and before it generates anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from paced_megatron.errors import UserError
from paced_megatron.problems.tokenizer import load_tokenizer
from paced_megatron.rollout import Request, Sampling, attempt_requests
from paced_megatron.rollout.checks import end_warnings, folder_end_ids
from paced_megatron.rollout.embedded import EmbeddedEngine

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=-1, max_new_tokens=12)


def engine_of(folder: Path, batch_size: int = 4) -> EmbeddedEngine:
    engine = EmbeddedEngine(batch_size)
    engine.load_weights(folder, "v1")
    return engine


def test_a_folder_without_any_end_of_sequence_token_is_refused(changed: Callable[..., Path]) -> None:
    changed("generation_config.json", eos_token_id=None)
    changed("tokenizer_config.json", eos_token=None)
    folder = changed("config.json", eos_token_id=300)  # a row of the head, perhaps, but no token
    with pytest.raises(UserError, match=r"changed names no end-of-sequence token .*eos_token_id"):
        engine_of(folder)


def test_a_prompt_without_room_for_the_answer_is_refused_by_name_before_anything_is_generated(
    tiny: Path,
) -> None:
    requests = attempt_requests({"short": [5], "fits": [5] * 500, "long": [5] * 501}, attempts=1, seed=1)
    engine = engine_of(tiny, batch_size=1)
    with pytest.raises(
        UserError, match=r"problem long: a prompt of 501 tokens and max_new_tokens 12 .*512 tokens"
    ):
        engine.generate(requests, GREEDY)  # the call itself, not its first batch
    assert len(list(engine.generate(requests[:2], GREEDY))) == 2


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "no tokens"), ([5, 10_000], "does not have"), ([-1], "does not have")]
)
def test_a_prompt_that_the_model_cannot_read_is_refused_by_name(
    tiny: Path, prompt: list[int], message: str
) -> None:
    requests = attempt_requests({"fine": [5], "odd": prompt}, attempts=1, seed=1)
    with pytest.raises(UserError, match=f"problem odd: .*{message}"):
        engine_of(tiny).generate(requests, GREEDY)


def test_missing_weights_are_refused_and_not_replaced_by_random_ones(
    tiny: Path, changed: Callable[..., Path]
) -> None:
    folder = changed("config.json")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"changed: 1 weights are missing, as model\.layers\.1\.mlp\.up_proj"):
        engine_of(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("broken", [False, True])
def test_a_folder_with_a_file_missing_or_broken_is_refused_in_one_line(
    changed: Callable[..., Path], name: str, broken: bool
) -> None:
    file = changed("config.json") / name
    content = file.read_bytes()
    file.unlink()
    if broken:
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="changed: ") as caught:
        engine_of(file.parent)
    assert "\n" not in str(caught.value)


def test_an_engine_without_weights_or_closed_generates_nothing(
    tiny: Path, uneven_requests: list[Request]
) -> None:
    with pytest.raises(RuntimeError, match="load_weights"):
        EmbeddedEngine(4).generate(uneven_requests, GREEDY)
    engine = engine_of(tiny)
    engine.close()
    engine.close()
    assert engine.weight_version == ""
    with pytest.raises(RuntimeError, match="load_weights"):
        engine.generate(uneven_requests, GREEDY)


def test_a_teacher_that_ends_a_reply_where_the_student_goes_on_is_told_before_anything_is_trained(
    tiny: Path, changed: Callable[..., Path], tmp_path: Path
) -> None:
    """As Qwen's base and chat models: seed 7's student ends with <|endoftext|> alone."""
    tokenizer = load_tokenizer(tiny)
    end, other = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    teacher = shutil.copytree(tiny, tmp_path / "teacher")
    (teacher / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, other, 5]}))
    changed("config.json", eos_token_id=other)
    changed("tokenizer_config.json", eos_token="<|endoftext|>")
    student = changed("generation_config.json", eos_token_id=other)
    rows = 300
    [warning] = end_warnings(student, teacher, load_tokenizer(student), tokenizer, rows)
    assert warning.startswith(f"{teacher} ends a reply with token {end} (<|im_end|>), and {student} does not")
    both = changed("generation_config.json", eos_token_id=[other, end])
    assert end_warnings(both, teacher, load_tokenizer(both), tokenizer, rows) == []
    assert folder_end_ids(both, load_tokenizer(both), rows) == tuple(sorted((end, other)))


def test_a_folder_that_does_not_say_where_a_text_ends_is_not_refused_for_a_warning(
    tiny: Path, changed: Callable[..., Path]
) -> None:
    """A teacher need never be sampled from, and transformers passes over a broken generation config."""
    tokenizer = load_tokenizer(tiny)
    changed("generation_config.json", eos_token_id=None)
    changed("tokenizer_config.json", eos_token=None)
    teacher = changed("config.json", eos_token_id=None)
    with pytest.raises(UserError, match="names no end-of-sequence token"):
        folder_end_ids(teacher, load_tokenizer(teacher), 300)
    assert end_warnings(tiny, teacher, tokenizer, load_tokenizer(teacher), 300) == []
    for content in ("{", "[]"):
        (teacher / "generation_config.json").write_text(content)
        with pytest.raises(UserError, match=r"generation_config\.json: can't be read"):
            folder_end_ids(teacher, load_tokenizer(teacher), 300)
        assert end_warnings(tiny, teacher, tokenizer, load_tokenizer(teacher), 300) == []
        assert end_warnings(teacher, tiny, load_tokenizer(teacher), tokenizer, 300) == []
