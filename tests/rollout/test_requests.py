from __future__ import annotations

import subprocess
import sys

from paced_megatron.rollout import Request, attempt_requests
from paced_megatron.rollout.requests import attempt_seed, keyed_requests


def test_each_problem_gets_k_requests_side_by_side_with_indices_from_zero() -> None:
    requests = attempt_requests({"b": [5, 6], "a": [7]}, attempts=3, seed=1)
    assert [r.key for r in requests] == [("b", 0), ("b", 1), ("b", 2), ("a", 0), ("a", 1), ("a", 2)]
    assert {r.prompt_ids for r in requests[:3]} == {(5, 6)} and requests[3].prompt_ids == (7,)


def test_every_request_has_a_seed_of_its_own_that_any_engine_takes() -> None:
    requests = attempt_requests({f"p{i}": [1] for i in range(100)}, attempts=8, seed=1)
    seeds = [r.seed for r in requests]
    assert len(set(seeds)) == 800
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert max(seeds) > 2**30  # not squeezed into a corner


def test_the_seed_depends_on_each_of_its_three_parts_and_not_on_how_they_are_joined() -> None:
    seeds = [
        attempt_seed(*parts)
        for parts in [(1, "a", 0), (2, "a", 0), (1, "b", 0), (1, "a", 1), (1, "a1", 1), (1, "a", 11)]
    ]
    assert len(set(seeds)) == 6


def test_other_problems_leave_a_problems_requests_as_they_are() -> None:
    alone = attempt_requests({"a": [7]}, attempts=2, seed=3)
    among: list[Request] = attempt_requests({"b": [5], "a": [7], "c": [9]}, attempts=2, seed=3)
    assert among[2:4] == alone


def test_seeds_are_the_same_in_every_process_and_release() -> None:
    code = "from paced_megatron.rollout.requests import attempt_seed as s; print(s(1234, 'algebra/3 ä', 5))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert printed == {f"{attempt_seed(1234, 'algebra/3 ä', 5)}\n"}
    assert attempt_seed(1234, "algebra/3 ä", 5) == 80875370  # written down from the first release


def test_requests_asked_for_one_by_one_have_the_seeds_that_they_would_have_had_side_by_side() -> None:
    prompts = {"b": [5, 6], "a": [7]}
    side_by_side = {r.key: r for r in attempt_requests(prompts, attempts=3, seed=1)}
    keys = [("a", 0), ("b", 0), ("b", 2)]
    requests = keyed_requests(prompts, keys, seed=1)
    assert requests == [side_by_side[key] for key in keys]
