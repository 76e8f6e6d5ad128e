"""A process's groups: runtime/world.py."""

from __future__ import annotations

from unittest import mock

import torch.distributed as dist

from paced_megatron.runtime.world import job_of_one, parallel_groups


def test_megatron_makes_no_second_set_of_groups_for_gloo_beside_those_of_the_job() -> None:
    """On GPUs each would be connections over the host's network, of which nobody makes use."""
    with job_of_one(), mock.patch.object(dist, "new_group", side_effect=dist.new_group) as new_group:
        groups = parallel_groups(1, seed=1)
    asked_for = [call.kwargs.get("backend") for call in new_group.call_args_list]
    assert groups.dp.size() == 1
    assert asked_for and set(asked_for) == {None}
