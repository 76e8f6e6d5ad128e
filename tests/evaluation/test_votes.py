"""Which wrong answers are one answer, and maj@k from that, against every subset counted one by one."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import pytest

from paced_megatron.config import VerifierConfig
from paced_megatron.errors import UserError
from paced_megatron.evaluation.estimates import maj_at
from paced_megatron.evaluation.votes import VOTES, same_answers, wrong_votes
from paced_megatron.problems.outcome import Outcome
from paced_megatron.problems.verify import Verifier
from paced_megatron.rollout import Attempt

RIGHT, WRONG, NONE, CUT, SLOW = (
    Outcome.CORRECT,
    Outcome.INCORRECT,
    Outcome.UNPARSABLE,
    Outcome.TRUNCATED,
    Outcome.TIMED_OUT,
)
# One value a row. The last of 2x and of the root need a worker.
SPELLINGS = (
    ("1/2", "0.5", r"\frac12", r"\frac{1}{2}", r"\dfrac{1}{2}", "$.5$", "50\\%"),
    ("3", "3.0", "$3$", "+3", r"\boxed{3}"),
    ("2x", "x+x", r"x\cdot 2"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    ("-7", "-14/2", "- 7"),
)
VALUE = {spelling: value for value, row in enumerate(SPELLINGS) for spelling in row}
GOLD = -1


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(VerifierConfig(timeout_s=60)) as one:  # long: what is tested is no time limit
        yield one


def attempts(answers: Sequence[tuple[Outcome, str]]) -> list[Attempt]:
    return [
        Attempt("p", index, (1,), rf"so \boxed{{{answer}}}", "stop", outcome, 0, "w")
        for index, (outcome, answer) in enumerate(answers)
    ]


def majority(voters: Sequence[int | None]) -> float:
    """By the definition: the share of the correct answer among the values with the most votes."""
    counts = Counter(value for value in voters if value is not None)
    winners = [value for value, count in counts.items() if count == max(counts.values())]
    return winners.count(GOLD) / len(winners) if winners else 0.0


class Asked:
    """A judge by a table of equal pairs (answer, gold), which notes what it was asked."""

    def __init__(self, equal: Sequence[tuple[str, str]] = (), slow: Sequence[str] = ()) -> None:
        self.equal, self.slow = set(equal), set(slow)
        self.pairs: list[tuple[str, str]] = []

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        self.pairs += pairs
        return [SLOW if self.slow & set(pair) else RIGHT if pair in self.equal else WRONG for pair in pairs]


def test_maj_at_k_is_the_mean_over_all_subsets_of_the_values_whatever_their_spelling(
    verifier: Verifier, tmp_path: Path
) -> None:
    rng = random.Random(17)
    merged = 0
    for case in range(25):
        few = rng.sample(SPELLINGS, 2)
        said: list[tuple[Outcome, str]] = [
            rng.choice([(RIGHT, "9"), (WRONG, rng.choice(few[0])), (WRONG, rng.choice(few[1])), (CUT, "9")])
            for _ in range(rng.randint(3, 7))
        ]
        said += [(RIGHT, "9")]
        made, path = attempts(said), tmp_path / f"{case}.json"
        values = [GOLD if kind is RIGHT else VALUE[text] if kind is WRONG else None for kind, text in said]
        correct = values.count(GOLD)
        ks = range(1, len(said) + 1)
        wrong = wrong_votes({"p": made}, ks, None, verifier.judge_many, path)["p"]
        merged += len(wrong) < len({text for kind, text in said if kind is WRONG})
        for k in ks:
            subsets = list(combinations(values, k))
            slow = sum(map(majority, subsets)) / len(subsets)
            assert maj_at(correct, wrong, len(said), k) == pytest.approx(slow, abs=1e-12), (said, k)
        rng.shuffle(made)
        other = tmp_path / "shuffled.json"
        assert sorted(wrong_votes({"p": made}, ks, None, verifier.judge_many, other)["p"]) == sorted(wrong)
        other.unlink(missing_ok=True)
    assert merged > 10


def test_two_spellings_of_one_wrong_answer_outvote_a_correct_one(verifier: Verifier, tmp_path: Path) -> None:
    said = [(RIGHT, "9"), (RIGHT, "9"), (WRONG, "1/2"), (WRONG, "0.5"), (WRONG, r"\frac12")]
    wrong = wrong_votes({"p": attempts(said)}, (5,), None, verifier.judge_many, tmp_path / VOTES)["p"]
    assert wrong == [3]
    assert maj_at(2, wrong, 5, 5) == 0.0


def test_the_exact_verifier_s_answers_are_one_only_where_their_text_is(tmp_path: Path) -> None:
    said = [(RIGHT, "9"), (WRONG, "a b"), (WRONG, "ab"), (WRONG, "$ab$"), (WRONG, "ab")]
    with Verifier(VerifierConfig(kind="exact")) as exact:
        wrong = wrong_votes({"p": attempts(said)}, (5,), None, exact.judge_many, tmp_path / VOTES)["p"]
    assert sorted(wrong) == [1, 1, 2]


def test_an_answer_behind_a_marker_votes_as_one_in_a_box(verifier: Verifier, tmp_path: Path) -> None:
    texts = ["# 2", "# 3", "so # 3.0", "# 4"]
    made = [
        Attempt("p", index, (1,), text, "stop", RIGHT if text == "# 2" else WRONG, 0, "w")
        for index, text in enumerate(texts)
    ]
    assert wrong_votes({"p": made}, (4,), "#", verifier.judge_many, tmp_path / VOTES) == {"p": [2, 1]}


def test_what_is_truncated_or_unreadable_has_no_vote(verifier: Verifier, tmp_path: Path) -> None:
    said = [(RIGHT, "7"), (CUT, "8"), (CUT, "8"), (NONE, "8")]
    assert wrong_votes({"p": attempts(said)}, (4,), None, verifier.judge_many, tmp_path / VOTES) == {"p": []}


def test_equality_that_is_not_transitive_is_to_the_group_s_first_alone() -> None:
    # 50 and 0.5 both are 50%, and not each other.
    equal = [("50", "50%"), ("0.5", "50%")]
    leads = {"50%": 3, "50": 1, "0.5": 1}
    assert same_answers(leads, Asked(equal)) == [["50%", "0.5", "50"]]
    follows = {"0.5": 1, "50": 2, "50%": 1}
    assert same_answers(follows, Asked(equal)) == [["50", "50%"], ["0.5"]]
    for order in (sorted(follows), sorted(follows, reverse=True)):
        again = same_answers({answer: follows[answer] for answer in order}, Asked(equal))
        assert again == [["50", "50%"], ["0.5"]]


def test_answers_are_equal_where_the_verifier_takes_either_for_the_other() -> None:
    for pair in (("C", "(C) 12"), ("(C) 12", "C")):
        assert same_answers({"C": 2, "(C) 12": 1}, Asked([pair])) == [["C", "(C) 12"]]


def test_an_answer_is_not_compared_where_no_number_depends_on_it(tmp_path: Path) -> None:
    never = Asked()
    none_correct = attempts([(WRONG, "1/2"), (WRONG, "0.5"), (WRONG, "4"), (WRONG, "5")])
    of_two = attempts([(RIGHT, "9"), (WRONG, "1/2"), (WRONG, "0.5")])
    alike = attempts([(RIGHT, "9"), (WRONG, "4"), (WRONG, "4")])
    for made, ks in ((none_correct, (4,)), (of_two, (1, 2)), (of_two, ()), (alike, (3,))):
        wrong_votes({"p": made}, ks, None, never, tmp_path / VOTES)
    assert never.pairs == [] and not (tmp_path / VOTES).exists()


def test_what_ran_out_of_time_before_is_compared_with_nothing(tmp_path: Path) -> None:
    said = [(RIGHT, "9"), (SLOW, "huge"), (SLOW, "huge"), (WRONG, "4"), (WRONG, "04"), (SLOW, "4")]
    judge = Asked([("04", "4")])
    assert sorted(wrong_votes({"p": attempts(said)}, (6,), None, judge, tmp_path / VOTES)["p"]) == [2, 3]
    assert judge.pairs == [("04", "4")]


def test_an_answer_at_which_time_runs_out_is_compared_no_more_and_the_others_are() -> None:
    slow = [f"slow {number}" for number in range(20)]
    judge = Asked([("4.0", "4")], slow)
    groups = same_answers({"5": 3, "4": 2, "4.0": 1} | dict.fromkeys(slow, 1), judge)
    assert [group for group in groups if group[0] not in slow] == [["5"], ["4", "4.0"]]
    assert len(groups) == 22
    assert len([pair for pair in judge.pairs if set(pair) & set(slow)]) == 20
    first_is_slow = Asked(slow=slow)
    assert len(same_answers(dict.fromkeys(slow, 1), first_is_slow)) == 20
    assert len(first_is_slow.pairs) == 19


def test_answers_that_never_end_are_told_apart_by_a_real_verifier_within_its_limits() -> None:
    endless = {rf"\prod_{{k=1}}^{{10^8}} (k+{number})": 1 for number in range(6)}
    with Verifier(VerifierConfig(timeout_s=0.3)) as hasty:
        groups = same_answers({"1/2": 2, r"\frac12": 1} | endless, hasty.judge_many)
    assert ["1/2", r"\frac12"] in groups and len(groups) == 7


def test_told_again_the_answers_are_one_as_before_though_the_verifier_has_less_time(tmp_path: Path) -> None:
    made = {"p": attempts([(RIGHT, "9"), (WRONG, "x+x"), (WRONG, "2x"), (WRONG, "4")])}
    first = wrong_votes(made, (4,), None, Asked([("x+x", "2x")]), tmp_path / VOTES)
    assert sorted(first["p"]) == [1, 2]
    busy = Asked(slow=["x+x", "2x", "4"])
    assert wrong_votes(made, (3, 4), None, busy, tmp_path / VOTES) == first
    assert busy.pairs == []


def test_where_it_is_stopped_what_was_compared_before_is_kept(tmp_path: Path) -> None:
    said = [(RIGHT, "9"), (WRONG, "x+x"), (WRONG, "2x"), (WRONG, "4")]
    made = {name: attempts(said) for name in ("p", "q", "r")}
    equal, begun = [("x+x", "2x")], []

    def stop_at_the_third() -> None:
        begun.append(1)
        if len(begun) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wrong_votes(made, (4,), None, Asked(equal), tmp_path / VOTES, stop_at_the_third)
    again, only_r = Asked(equal), Asked(equal)
    found = wrong_votes(made, (4,), None, again, tmp_path / VOTES)
    assert found["p"] == found["q"] == found["r"] and sorted(found["r"]) == [1, 2]
    wrong_votes({"r": made["r"]}, (4,), None, only_r, tmp_path / "other.json")
    assert again.pairs == only_r.pairs


def test_other_answers_than_those_that_were_kept_are_compared_anew(tmp_path: Path) -> None:
    made = {"p": attempts([(RIGHT, "9"), (WRONG, "x+x"), (WRONG, "2x"), (WRONG, "4")])}
    wrong_votes(made, (4,), None, Asked(), tmp_path / VOTES)
    more = {"p": [*made["p"], *attempts([(WRONG, "5")])]}
    assert sorted(wrong_votes(more, (4,), None, Asked([("x+x", "2x")]), tmp_path / VOTES)["p"]) == [1, 1, 2]


@pytest.mark.parametrize("content", ["", "[]", '{"p": 3}', '{"p": ["x'])
def test_a_file_of_votes_that_is_broken_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / VOTES).write_text(content)
    with pytest.raises(UserError, match=r"votes\.json: .*delete it"):
        wrong_votes({}, (4,), None, Asked(), tmp_path / VOTES)


def test_an_answer_in_another_script_or_of_a_thousand_digits_is_kept_as_it_is(
    verifier: Verifier, tmp_path: Path
) -> None:
    huge = "9" * 1500
    said = [
        (RIGHT, "9"),
        (WRONG, "七"),
        (WRONG, "七"),
        (WRONG, huge),
        (WRONG, huge + ".0"),
        (WRONG, "\u2028"),
    ]
    made = {"p": attempts(said)}
    first = wrong_votes(made, (6,), None, verifier.judge_many, tmp_path / VOTES)
    assert sum(first["p"]) == 4
    kept = json.loads((tmp_path / VOTES).read_text())["p"]
    assert {answer for group in kept for answer in group} == {"七", huge, huge + ".0"}
    assert wrong_votes(made, (6,), None, Asked(), tmp_path / VOTES) == first
