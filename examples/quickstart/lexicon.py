"""The lexicon task: made-up words with made-up codes, in bands from frequent to never seen.

A problem names two words, `ab cd`. The worked response gives their codes and then joins them, `37,45#3745`,
so that the answer is what follows `#`. A code cannot be worked out, only known, and how well a model knows
it depends on how often it met the word. That is what makes some problems mastered, some out of reach, and
some neither.

The second skill is sorting letters, in the same form: `hbca` gives `abch#abch`. Nothing trains it once the
student is made, so it shows what distillation makes a student forget.

This file knows nothing of models. Every draw comes from a `random.Random`, passed in or seeded by name.
"""

from __future__ import annotations

import random
import string
from collections.abc import Collection
from dataclasses import asdict, dataclass
from itertools import combinations, product

LETTERS = string.ascii_lowercase
BANDS, WORDS_PER_BAND = 10, 30
SORT_LENGTHS = range(3, 8)  # letters; seven make a response of 16 tokens with <eos>: the run's max_new_tokens


@dataclass(frozen=True)
class Problem:
    """One line of a problem file. `level` is the band (lexicon) or the number of letters (sort)."""

    id: str
    problem: str
    answer: str
    solution: str
    level: str


def lexicon_problem(problem_id: str, band: int, words: tuple[str, str], codes: dict[str, str]) -> Problem:
    first, second = (codes[word] for word in words)
    joined = first + second
    return Problem(problem_id, " ".join(words), joined, f"{first},{second}#{joined}", str(band))


def sort_problem(problem_id: str, letters: str) -> Problem:
    ordered = "".join(sorted(letters))
    return Problem(problem_id, letters, ordered, f"{ordered}#{ordered}", str(len(letters)))


@dataclass(frozen=True)
class Lexicon:
    """`bands[b]` are the words of band b, the most frequent band first; `codes` gives a word's two digits."""

    bands: tuple[tuple[str, ...], ...]
    codes: dict[str, str]


def make_lexicon(seed: int) -> Lexicon:
    """300 different two-letter words; codes are drawn independently, so two words may share one."""
    rng = random.Random(f"{seed}/lexicon")
    words = rng.sample(["".join(pair) for pair in product(LETTERS, repeat=2)], BANDS * WORDS_PER_BAND)
    bands = tuple(tuple(words[b * WORDS_PER_BAND : (b + 1) * WORDS_PER_BAND]) for b in range(BANDS))
    return Lexicon(bands, {word: f"{rng.randrange(100):02d}" for word in words})


@dataclass(frozen=True)
class ProblemSets:
    """`train`: 60 a band; `test`: 40 a band, other pairs of the same words; `forgetting`: 20 sorts each"""

    train: list[Problem]
    test: list[Problem]
    forgetting: list[Problem]

    def files(self) -> dict[str, list[dict[str, str]]]:
        """File name -> its lines."""
        return {f"{name}.jsonl": [asdict(p) for p in problems] for name, problems in vars(self).items()}

    def held_out(self) -> set[str]:
        """Texts that no model meets while it is made: test pairs, in both orders, and the sort problems."""
        pairs = {p.problem for p in self.test}
        swapped = {" ".join(reversed(pair.split())) for pair in pairs}
        return pairs | swapped | {p.problem for p in self.forgetting}


def make_problem_sets(seed: int, lexicon: Lexicon) -> ProblemSets:
    """Both words of a pair are of one band, so that a problem is as hard as its band.

    A pair counts as one in either order: no training pair comes back in the test with its words swapped.
    """
    rng = random.Random(f"{seed}/problems")
    sets = ProblemSets([], [], [])
    for band, words in enumerate(lexicon.bands):
        pairs = [
            pair if rng.random() < 0.5 else pair[::-1] for pair in rng.sample([*combinations(words, 2)], 100)
        ]
        for name, target, chosen in (("train", sets.train, pairs[:60]), ("test", sets.test, pairs[60:])):
            for i, (first, second) in enumerate(chosen):
                target.append(lexicon_problem(f"{name}-{band}-{i:02d}", band, (first, second), lexicon.codes))
    for length in SORT_LENGTHS:
        chosen_letters: dict[str, None] = {}  # a set that keeps its order
        while len(chosen_letters) < 20:
            chosen_letters["".join(rng.sample(LETTERS, length))] = None
        sets.forgetting.extend(
            sort_problem(f"sort-{length}-{i:02d}", letters) for i, letters in enumerate(chosen_letters)
        )
    return sets


def draw_lexicon(rng: random.Random, lexicon: Lexicon, band: int, held_out: Collection[str]) -> Problem:
    """A random problem of this band that is not held out."""
    while True:
        first, second = rng.sample(lexicon.bands[band], 2)
        drawn = lexicon_problem("drawn", band, (first, second), lexicon.codes)
        if drawn.problem not in held_out:
            return drawn


def draw_sort(rng: random.Random, held_out: Collection[str]) -> Problem:
    """A random sort problem that is not held out; its letters are all different."""
    while True:
        drawn = sort_problem("drawn", "".join(rng.sample(LETTERS, rng.choice(SORT_LENGTHS))))
        if drawn.problem not in held_out:
            return drawn
