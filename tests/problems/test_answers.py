"""Finding the final answer in a text."""

from __future__ import annotations

import random
import time

import pytest

from paced_megatron.problems.answers import final_answer, last_boxed, plain, unwrapped

BOXES = [
    (r"so \boxed{5}.", "5"),
    (r"\boxed{ \frac{1}{2} }", r"\frac{1}{2}"),
    (r"\boxed{\sqrt{\frac{a_{1}}{b^{2}}}} and }}", r"\sqrt{\frac{a_{1}}{b^{2}}}"),
    (r"\fbox{7}", "7"),
    (r"\boxed {8}", "8"),
    (r"first \boxed{1}, no: \boxed{2}", "2"),
    (r"first \boxed{1}, no: \fbox{3}", "3"),
    (r"\boxed{\boxed{4}}", "4"),
    (r"$\boxed 9$ it is", "9"),
    (r"\(\boxed 12\)", "12"),
    (r"\boxed\frac{1}{2} or so", r"\frac{1}{2}"),
    (r"\boxed{\left\{ x : x > 0 \right.} done", r"\left\{ x : x > 0 \right."),
    (r"\boxed{\}} x }", r"\}"),
    (r"\boxed{a\\}b}", "a\\\\"),
    (r"no box", None),
    (r"\boxed{}", None),
    (r"\boxed{  }", None),
    (r"\boxed", None),
    (r"\boxed{5", None),
    (r"\boxed{1} then \boxed{{2}", None),
    (r"\boxed{1} then \boxed{}", None),
    (r"\boxedset{5}", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "content"), BOXES)
def test_the_last_box_is_read_with_balanced_braces(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


def test_a_box_of_random_nesting_gives_its_content_back() -> None:
    rng = random.Random(0)
    for _ in range(200):
        content = "x"
        for _ in range(rng.randrange(30)):
            content = rng.choice(["{%s}", r"\frac{%s}{2}", r"\{%s\}", r"a\\%s", "y%s{z}", r"\}%s"]) % content
        assert last_boxed(rf"\boxed{{wrong}} {{ \boxed{{{content}}} }} $") == content


def test_what_follows_the_last_marker_is_the_answer_and_boxes_count_for_nothing() -> None:
    assert final_answer("#### 1\n#### 2 apples \n", "####") == "2 apples"
    assert final_answer(r"\boxed{7} Answer: 3", "Answer:") == "3"
    assert final_answer(r"\boxed{7}", "Answer:") is None
    assert final_answer("Answer: \n ", "Answer:") is None
    assert final_answer("Answer: 1", None) is None
    assert final_answer("a.c1 abc2", "a.c") == "1 abc2"


def test_megabytes_of_braces_take_no_more_than_moments() -> None:
    started = time.monotonic()
    assert last_boxed(r"\boxed{" * 200_000) is None
    assert last_boxed(r"\boxed{" + "{" * 1_000_000) is None
    assert last_boxed(r"\boxed" + " " * 1_000_000) is None
    assert time.monotonic() - started < 20


PLAIN = [
    (r"$\dfrac{1}{2}$.", r"\frac{1}{2}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"90^\circ", "90"),
    (r"90^{\circ}", "90"),
    (r"\$18.90", "18.90"),
    (r"10,\!236", "10,236"),
    ("1 2", "1 2"),
    ("x + 1", "x+1"),
    (r"\[ 5 \]", "5"),
    (r"\leftarrow", r"\leftarrow"),
    (r"\textbf{B}", "B"),
]


@pytest.mark.parametrize(("answer", "spelling"), PLAIN)
def test_plain_spelling_drops_what_only_looks(answer: str, spelling: str) -> None:
    assert plain(answer) == spelling


def test_two_formulas_are_not_unwrapped_as_if_they_were_one() -> None:
    assert unwrapped("$1$ and $2$") == "$1$ and $2$"
    assert unwrapped(r"\(1\) and \(2\)") == r"\(1\) and \(2\)"
    assert unwrapped(r"\(1\)") == "1"
    assert unwrapped("$") == "$"
    assert unwrapped("$$x$$") == "x"
