"""How often a model is right, in plain transformers: what make_models.py prints about what it made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from lexicon import Problem, ProblemSets
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

MAX_NEW_TOKENS = 16
GREEDY = 0  # for `attempts`: one attempt, the likeliest token each time


def prompt_ids(tokenizer: PreTrainedTokenizerFast, problem: Problem) -> list[int]:
    messages = [{"role": "user", "content": problem.problem}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=False)


@torch.inference_mode()
def count_correct(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem], attempts: int
) -> dict[str, int]:
    """Problem id -> how many of its attempts are correct, sampled at temperature 1 without top-k and top-p.

    An attempt that has not ended with <eos> after MAX_NEW_TOKENS is not correct.
    """
    sampling = {"do_sample": True, "num_return_sequences": attempts, "top_k": 0}
    how = {"do_sample": False} if attempts == GREEDY else sampling
    correct: Counter[str] = Counter()
    # Prompts of one length go together, so that none needs padding.
    for _, group in groupby(sorted(problems, key=lambda p: len(p.problem)), key=lambda p: len(p.problem)):
        batch = list(group)
        prompts = torch.tensor([prompt_ids(tokenizer, problem) for problem in batch])
        mask = torch.ones_like(prompts)
        output = model.generate(prompts, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, **how)
        texts = tokenizer.batch_decode(output[:, prompts.shape[1] :])
        for index, text in enumerate(texts):
            problem = batch[index * len(batch) // len(texts)]  # a problem's attempts follow one another
            response, eos, _ = text.partition(tokenizer.eos_token)
            correct[problem.id] += bool(eos) and response.partition("#")[2] == problem.answer
    return dict(correct)


def summary(
    name: str, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, sets: ProblemSets
) -> Iterator[str]:
    """The lines that say what a model can do before anything is distilled."""
    correct = count_correct(model, tokenizer, sets.train, attempts=8)
    histogram = Counter(correct.values())
    yield f"{name}, train, pass rate of 8 attempts by band: {_by_level(correct, sets.train, 8)}"
    yield f"{name}, train, problems with k = 0 to 8 correct: {' '.join(str(histogram[k]) for k in range(9))}"
    correct = count_correct(model, tokenizer, sets.test, attempts=4)
    yield f"{name}, test, pass rate of 4 attempts by band: {_by_level(correct, sets.test, 4)}"
    correct = count_correct(model, tokenizer, sets.test, GREEDY)
    yield f"{name}, test, greedy accuracy by band: {_by_level(correct, sets.test, 1)}"
    correct = count_correct(model, tokenizer, sets.forgetting, attempts=4)
    yield f"{name}, sort, pass rate of 4 attempts by letters: {_by_level(correct, sets.forgetting, 4)}"


def _by_level(correct: dict[str, int], problems: Sequence[Problem], attempts: int) -> str:
    rates: dict[str, list[float]] = {}
    for problem in problems:
        rates.setdefault(problem.level, []).append(correct[problem.id] / attempts)
    everything = [rate for level in rates.values() for rate in level]
    by_level = " ".join(f"{sum(level) / len(level):.2f}" for level in rates.values())
    return f"{by_level}, all {sum(everything) / len(everything):.3f}"
