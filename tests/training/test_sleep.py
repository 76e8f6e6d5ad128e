"""Sleep: what comes back is what went, and it is noticed where it isn't.

On this CPU the device's memory is the host's, so that the copies are real, and pinned memory and streams are
not tried.
"""

from __future__ import annotations

import pytest
import torch

from paced_megatron.training.sleep import Sleeper, asleep, optimizer_state


def _tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A buffer, a view of a part of it, and bf16 numbers of an odd count."""
    generator = torch.Generator().manual_seed(3)
    buffer = torch.randn(7, 11, generator=generator)
    return buffer, buffer[2:5], torch.randn(13, generator=generator).bfloat16()


@pytest.mark.parametrize("frozen", [True, False])
def test_tensors_and_views_come_back_bit_equal_and_their_memory_is_free_meanwhile(frozen):
    tensors = _tensors()
    before = [tensor.clone() for tensor in tensors]
    sleeper = Sleeper("teacher", lambda: tensors, frozen=frozen)
    for _ in range(2):
        sleeper.sleep()
        assert sleeper.asleep and all(tensor.untyped_storage().nbytes() == 0 for tensor in tensors)
        sleeper.wake()
        assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))
    tensors[0][3, 0] = 5.0
    assert tensors[1][1, 0] == 5.0  # still a view


def test_what_changed_between_two_sleeps_comes_back_changed():
    tensors = _tensors()
    sleeper = Sleeper("optimizer", lambda: tensors)
    with asleep(sleeper):
        pass
    tensors[0].mul_(3)
    wanted = tensors[0].clone()
    with asleep(sleeper):
        pass
    assert torch.equal(tensors[0], wanted)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_single_changed_bit_is_noticed_on_waking(frozen):
    sleeper = Sleeper("teacher", _tensors, frozen=frozen)
    sleeper.sleep()
    sleeper._hosts[1][5] ^= 1
    with pytest.raises(RuntimeError, match="teacher: the weights that woke are not those"):
        sleeper.wake()


def test_weights_that_did_not_come_back_are_noticed():
    sleeper = Sleeper("teacher", _tensors, frozen=True)
    sleeper.sleep()
    for host in sleeper._hosts:
        host.zero_()
    with pytest.raises(RuntimeError, match="not those that went to sleep"):
        sleeper.wake()


def test_one_that_sleeps_must_not_be_used_and_sleeps_on_after_a_shared_nap():
    sleeper, other = Sleeper("teacher", _tensors), Sleeper("optimizer", _tensors)
    sleeper.sleep()
    with pytest.raises(RuntimeError, match="teacher: asleep"):
        sleeper.check_awake()
    with asleep(sleeper, other):
        assert other.asleep
    assert sleeper.asleep and not other.asleep
    sleeper.wake()
    sleeper.check_awake()


def test_an_optimizers_moments_sleep_and_the_models_own_weights_do_not():
    torch.manual_seed(4)
    model = torch.nn.Linear(5, 3)
    inner = torch.optim.AdamW(model.parameters(), lr=0.1)
    wrapped = type("Megatron's", (), {"optimizer": inner})()  # its one attribute that is read
    model(torch.randn(2, 5)).sum().backward()
    inner.step()
    moments = [state["exp_avg"] for state in inner.state.values()]
    before = [moment.clone() for moment in moments]
    with asleep(Sleeper("optimizer", lambda: optimizer_state(wrapped, [model]))):
        assert all(moment.untyped_storage().nbytes() == 0 for moment in moments)
        assert model.weight.untyped_storage().nbytes() > 0
    assert all(torch.equal(moment, old) for moment, old in zip(moments, before, strict=True))
