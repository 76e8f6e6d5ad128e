"""The teacher's hidden states on disk: the same numbers again, or none."""

from __future__ import annotations

import dataclasses
import shutil
from collections import namedtuple

import pytest
import torch

from paced_megatron.errors import UserError
from paced_megatron.models.identity import weights_identity
from paced_megatron.training.examples import Example
from paced_megatron.training.teacher_cache import TeacherCache
from tiny_models import make_tiny_qwen3

HIDDEN = 6


@pytest.fixture
def cache(tmp_path) -> TeacherCache:
    return TeacherCache(tmp_path / "teacher", "a teacher", HIDDEN, torch.bfloat16, torch.device("cpu"))


def _examples() -> list[Example]:
    return [Example(f"p{n}", (n, 1), (n, 2), tuple(range(n + 1)), 1.0) for n in range(3)]


def _filled(cache: TeacherCache) -> torch.Tensor:
    """Writes the three texts as one micro-batch; returns their numbers [6, H]."""
    hidden = torch.randn(6, HIDDEN, generator=torch.Generator().manual_seed(5)).bfloat16()
    cache.prepare(_examples())
    cache.write([_examples()], {0: hidden})
    return hidden


def test_texts_are_read_in_any_order_with_the_bits_that_were_written(cache):
    hidden, (one, two, three) = _filled(cache), _examples()
    found = cache.read([(7, [three, one]), (9, [two]), (4, [])])
    assert torch.equal(found[7], torch.cat([hidden[3:], hidden[:1]]))
    assert torch.equal(found[9], hidden[1:3])
    assert found[4].shape == (0, HIDDEN) and found[4].dtype == torch.bfloat16


def test_a_micro_batch_with_a_text_that_is_not_there_is_not_found(cache):
    _filled(cache)
    new = Example("p9", (9,), (9,), (4, 4), 1.0)
    assert cache.read([(0, [*_examples(), new])]) == {}


def test_a_text_that_stands_twice_in_a_step_is_kept_as_its_first_place_made_it_whoever_writes_last(cache):
    one, two, three = _examples()
    step, made = (
        [[two, one], [three], [one]],
        torch.randn(7, HIDDEN, generator=torch.Generator().manual_seed(6)).bfloat16(),
    )
    cache.prepare([one, two, three])
    cache.write(step, {2: made[:1]})  # another replica, which happens to be quicker
    assert cache.read([(0, [one])]) == {}
    cache.write(step, {0: made[1:4]})
    assert torch.equal(cache.read([(0, [one])])[0], made[3:4])


def test_what_is_not_ours_in_the_folder_is_left_alone(cache):
    (cache.folder / "notes").mkdir(parents=True)
    cache.prepare(_examples())
    assert (cache.folder / "notes").is_dir()


@pytest.mark.parametrize("change", ["teacher_prompt", "response"])
def test_another_text_of_the_same_problem_is_not_found(cache, change):
    _filled(cache)
    changed = dataclasses.replace(_examples()[1], **{change: (5, 5)})
    assert cache.read([(0, [changed])]) == {}


def test_another_teacher_or_dtype_finds_nothing_and_clears_the_folder_for_its_own(cache):
    _filled(cache)
    for changes in ({"identity": "another teacher"}, {"dtype": torch.float32}):
        assert dataclasses.replace(cache, **changes).read([(0, _examples())]) == {}
    other = dataclasses.replace(cache, identity="another teacher")
    assert other.prepare(_examples()) == (72, 72)
    assert list(cache.folder.iterdir()) == []


def _torn(content: bytes) -> bytes:
    return content[:-3]


def _one_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "damage", [_torn, _one_bit, lambda content: b"", lambda content: bytes(len(content))]
)
def test_a_damaged_file_is_noticed_and_made_anew(cache, damage):
    hidden, examples = _filled(cache), _examples()
    path = cache.path(examples[2])
    path.write_bytes(damage(path.read_bytes()))
    assert cache.read([(0, [examples[2]]), (1, [examples[0]])]).keys() == {1}
    cache.write([examples], {0: hidden})
    assert torch.equal(cache.read([(0, examples)])[0], hidden)


def test_another_texts_file_under_its_name_is_noticed(cache):
    _filled(cache)
    one = _examples()[1]
    other = dataclasses.replace(one, teacher_prompt=(8, 8))
    shutil.copy(cache.path(one), cache.path(other))
    assert cache.read([(0, [other])]) == {}


def test_the_size_is_known_before_and_each_text_counts_once(cache):
    examples = _examples()
    assert cache.prepare([*examples, *examples]) == (6 * HIDDEN * 2, 6 * HIDDEN * 2)
    _filled(cache)
    assert cache.prepare(examples) == (6 * HIDDEN * 2, 0)
    written = sum(path.stat().st_size for path in cache.folder.iterdir())
    assert 0 < written - 6 * HIDDEN * 2 <= 3 * 400  # headers


def test_a_disk_without_the_room_is_refused_before_anything_is_written(cache, monkeypatch):
    usage = namedtuple("usage", "total used free")  # a full disk can't be had here
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 71))
    with pytest.raises(UserError, match=r"teacher's hidden states take .* GB more.*teacher.cache: false"):
        cache.prepare(_examples())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 72))
    cache.prepare(_examples())


def test_the_identity_follows_the_weights(tmp_path):
    first = make_tiny_qwen3(tmp_path / "first", seed=1)
    again, other = make_tiny_qwen3(tmp_path / "again", seed=1), make_tiny_qwen3(tmp_path / "other", seed=2)
    assert weights_identity(first) == weights_identity(again) != weights_identity(other)
