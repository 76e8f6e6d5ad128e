"""The largest difference, where it is, and what it means; on numbers made by hand (a real server's are in
tests/sglang/test_agreement.py)."""

from __future__ import annotations

import pytest
from torch import tensor

from paced_megatron.commands.check_rollout import meaning
from paced_megatron.models.families import ModelShape
from paced_megatron.rollout.agreement import Agreement, _difference
from paced_megatron.rollout.sglang.probe import probe_for

ANSWERS = [(11, 12, 13), (21, 22)]
OURS = [tensor([-1.0, -2.0, -3.0]), tensor([-4.0, -5.0])]


def compared(theirs, bound=0.1):
    return _difference(("SGLang", "transformers"), {"SGLang": theirs, "transformers": OURS}, ANSWERS, bound)


def test_the_token_that_differs_most_is_named_and_the_mean_is_over_all_tokens():
    found = compared([tensor([-1.0, -2.0, -3.0]), tensor([-4.5, -5.25])])
    assert (found.text, found.position, found.token_id) == (1, 0, 21)
    assert found.largest == pytest.approx(0.5) and found.mean == pytest.approx(0.75 / 5)
    assert not found.agrees
    assert compared([tensor([-1.0, -2.0, -3.0]), tensor([-4.5, -5.25])], bound=0.5).agrees


def test_what_is_no_number_never_agrees_and_is_where_it_is_largest():
    found = compared([tensor([-1.0, float("nan"), -3.0]), tensor([-9.0, -5.0])], bound=100.0)
    assert (found.text, found.position, found.token_id) == (0, 1, 12)
    assert not found.agrees


def agreement(template, *differences):
    return Agreement(tuple(ANSWERS), "7", "float32", differences, template)


def test_a_template_that_differs_is_no_agreement_and_one_that_is_not_told_is_said():
    same = compared(OURS)
    assert agreement("", same).agrees and meaning(agreement("", same)) == ["They agree: one model."]
    assert agreement(None, same).agrees and "not compared" in meaning(agreement(None, same))[0]
    other = agreement("of 'x' they make 3 tokens", same)
    assert not other.agrees and "of 'x' they make 3 tokens" in meaning(other)[0]


@pytest.mark.parametrize(("vocab_size", "context"), [(151936, 40960), (301, 128), (2, 2)])
def test_a_probe_stays_within_the_vocabulary_and_the_context(vocab_size, context):
    shape = ModelShape("qwen3", 1, 8, 8, 1, 1, 8, vocab_size, context, 1e4, 1e-6, False)
    probe = probe_for(shape)
    assert probe == probe_for(shape)
    assert all(0 < len(prompt) < context for prompt in probe.prompts)
    ids = [token for prompt in (*probe.prompts, probe.ids) for token in prompt]
    assert 0 < min(ids) <= max(ids) < vocab_size  # 0 is what /health asks for
