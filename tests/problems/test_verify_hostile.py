"""Hostile text: no crash, no hang beyond the limit, no file written, one outcome for each attempt."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from paced_megatron.config import VerifierConfig
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.verifier_pool import GRACE_S
from paced_megatron.problems.verify import Outcome, Verifier

LIMIT_S = 0.4
MEGABYTE = 1_000_000

# What is settled without computing, however long it is.
LONG_TEXT = {
    "braces that open": r"\boxed{" + "{" * MEGABYTE,
    "braces that open and close": r"\boxed{" + "{" * MEGABYTE + "}" * MEGABYTE + "}",
    "braces that close": "}" * MEGABYTE + r"\boxed{",
    "boxes that are never closed": r"\boxed{" * 200_000,
    "boxes without braces": r"\boxed " * 200_000,
    "backslashes": r"\boxed{" + "\\" * MEGABYTE,
    "spaces in a box": r"\boxed{" + " " * MEGABYTE + "}",
    "spaces and digits": r"\boxed{" + "1 " * MEGABYTE + "}",
    "digits": r"\boxed{" + "9" * MEGABYTE + "}",
    "dollars": r"\boxed{" + "$" * MEGABYTE + "}",
    "nested texts": r"\boxed{" + r"\text{" * 20_000 + "5" + "}" * 20_000 + "}",
}
# What a box may hold and a reader may stumble over.
SHORT_TEXT = {
    "empty": "",
    "a power tower": "10^{10^{10}}",
    "nines to nines": "9^{9^{9^{9}}}",
    "a factorial": "1000000000!",
    "a product": r"\prod_{k=1}^{10^{8}} k",
    "a sum": r"\sum_{k=1}^{10^{12}} \frac{1}{k^{7}}",
    "a binomial": r"\binom{10^9}{5\cdot 10^8}",
    "a huge expansion": "(a+b+c+d+f+g)^{300}",
    "a large number": "2^{3000000000}",
    "an integral": r"\int_0^1 x^{x^{x^{x}}} dx",
    "nested braces": "{" * 900 + "1" + "}" * 900,
    "nested parentheses": "(" * 900 + "1" + ")" * 900,
    "nested fractions": r"\frac{1}{" * 150 + "2" + "}" * 150,
    "many terms": "x+" * 900 + "1",
    "many elements": "1," * 900 + "1",
    "many digits": "9" * 1_999,
    "a numeral of many digits": "9" * 1_990 + "_{36}",
    "a numeral in base 0": "10_{0}",
    "division by zero": r"\frac{1}{0}",
    "a fraction of nothing": r"\frac00",
    "control characters": "\x00\x01\x1b[31m\x7f",
    "half a surrogate pair": "\ud800",
    "right to left": "\u202e5\u202c",
    "other scripts": "五百 पाँच خمسة",
    "emoji": "\U0001f600" * 100,
    "other minus signs": "\u22125",
    "line breaks": "5\n\n6\r\n7\u2028",
    "infinity minus infinity": r"\infty - \infty",
    "percents": "%" * 500,
    "a format": "{0!r} %s {answer}",
    "JSON": '{"answer": "5"}\n',
}
SCRIPTS = (
    "open('{path}', 'w').close()",
    "__import__('os').system('touch {path}')",
    "1+__import__('pathlib').Path('{path}').touch()",
    "f(open('{path}', 'w'))",
    r"\max(open('{path}', 'w'), 2)",
    r"\operatorname{{eval}}(open('{path}','w'))",
    r"\input{{{path}}}",
    r"\write18{{touch {path}}}",
    "$(touch {path})",
    "`touch {path}`",
    "x; touch {path}",
)


def test_megabytes_are_settled_without_a_worker_and_in_time_that_grows_with_their_length() -> None:
    with Verifier(VerifierConfig(timeout_s=LIMIT_S)) as verifier:
        started = time.process_time()
        outcomes = verifier.score_many(
            list(LONG_TEXT.values()), [problem("5")] * len(LONG_TEXT), ["stop"] * len(LONG_TEXT)
        )
        assert dict(zip(LONG_TEXT, outcomes, strict=True)) == dict.fromkeys(LONG_TEXT, Outcome.UNPARSABLE)
        assert time.process_time() - started < 20  # 11 texts of up to two megabytes; 2 s on a quiet machine
        assert verifier.pids == []


def test_hostile_answers_and_golds_end_within_the_limit_each_with_one_outcome() -> None:
    texts = list(SHORT_TEXT.values())
    with Verifier(VerifierConfig(timeout_s=LIMIT_S, workers=2, memory_mib=512)) as verifier:
        verifier.score_many(
            [r"\boxed{x}", r"\boxed{y}"], [problem("2x")] * 2, ["stop"] * 2
        )  # they have started
        started = time.monotonic()
        attempts = [rf"\boxed{{{text}}}" for text in texts]
        outcomes = verifier.score_many(attempts, [problem("x^2+7")] * len(texts), ["stop"] * len(texts))
        # A worker that is killed has to be started again, which takes a second or so; much more if it's busy.
        assert time.monotonic() - started < len(texts) * (LIMIT_S + GRACE_S + 1)
        assert len(outcomes) == len(texts)
        assert set(outcomes) <= {Outcome.TIMED_OUT, Outcome.INCORRECT, Outcome.UNPARSABLE}
        assert outcomes.count(Outcome.TIMED_OUT) >= 3
        # As the problem's answer, too.
        outcomes = verifier.score_many(
            [r"\boxed{x^2+7}"] * len(texts), [problem(t) for t in texts], ["stop"] * len(texts)
        )
        assert len(outcomes) == len(texts)
        assert set(outcomes) <= {Outcome.TIMED_OUT, Outcome.INCORRECT}
        # And the next attempt is judged as ever.
        calm = Verifier(VerifierConfig(timeout_s=60))
        assert calm.score(r"\boxed{x+x}", problem("2x"), "stop") is Outcome.CORRECT


@pytest.mark.parametrize("marker", [None, "####"])
def test_code_in_an_answer_is_not_run(tmp_path: Path, marker: str | None) -> None:
    target = tmp_path / "written"
    codes = [script.format(path=target) for script in SCRIPTS]
    texts = [f"#### {code}" if marker else rf"\boxed{{{code}}}" for code in codes]
    with Verifier(VerifierConfig(answer_marker=marker, timeout_s=60)) as verifier:
        outcomes = verifier.score_many(texts, [problem("x^2+7")] * len(texts), ["stop"] * len(texts))
        assert Outcome.CORRECT not in outcomes and len(outcomes) == len(texts)
        assert len(verifier.pids) == 2  # it did come to a worker
        verifier.score_many(
            ["\\boxed{x^2+8}"] * len(codes), [problem(code) for code in codes], ["stop"] * len(codes)
        )
    assert list(tmp_path.iterdir()) == []


def problem(answer: str) -> Problem:
    return Problem(id="p", problem="How much?", answer=answer)
