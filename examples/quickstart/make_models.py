"""Make the quickstart's two models and its problem files, from nothing, on the CPU:

    python examples/quickstart/make_models.py --out examples/quickstart --seed 1

Writes teacher/ and student/ (Hugging Face folders: config.json, model.safetensors, tokenizer), train.jsonl,
test.jsonl and forgetting.jsonl, and prints how often each model is right. It needs torch and transformers,
and one core for two to three minutes. On one machine the same seed gives the same bytes; on another the
problem files are the same and the weights differ by rounding, and by what training makes of it.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lexicon import BANDS, LETTERS, Problem, draw_lexicon, draw_sort, make_lexicon, make_problem_sets
from measure import prompt_ids, summary
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

SPECIAL_TOKENS = ["<pad>", "<eos>", "<unk>"]
CHARACTERS = "0123456789" + LETTERS + "+-*/=#,;:.()>< |"
MAX_POSITIONS = 64

# The user's turn becomes "ab cd:", and the response follows at once. A system turn, if any, goes before it.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
  {%- if message.role == "system" -%}{{- message.content + " " -}}
  {%- elif message.role == "user" -%}{{- message.content -}}
  {%- else -%}{{- ":" + message.content + eos_token -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ":" -}}{%- endif -%}
"""


@dataclass(frozen=True)
class Recipe:
    """What tells one model from the other. Heads are 4, key-value heads 2, layers 3 in both."""

    hidden_size: int
    steps: int
    lr: float
    band_weights: tuple[float, ...]  # how often band b is drawn, relative to the others
    sort_share: float  # part of the problems that is sorting instead
    batch_size: int = 32
    warmup: int = 50


RECIPES = {
    "teacher": Recipe(128, steps=1000, lr=2e-3, band_weights=(1.0,) * BANDS, sort_share=0.0),
    # Each band half as often as the one before, the last two never: frontier and out of reach come from that.
    "student": Recipe(
        64, steps=1200, lr=3e-3, band_weights=(*(0.5**b for b in range(8)), 0.0, 0.0), sort_share=0.4
    ),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; <pad> 0, <eos> 1, <unk> 2; nothing is put before or after a text."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()  # without it, decoding would put a space between characters
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,  # padded, as published models are
        hidden_size=recipe.hidden_size,
        intermediate_size=2 * recipe.hidden_size,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=recipe.hidden_size // 4,
        max_position_embeddings=MAX_POSITIONS,
        max_window_layers=3,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        dtype=torch.float32,
        **special,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(**special)
    return model


def training_batch(
    tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem]
) -> dict[str, torch.Tensor]:
    """input_ids and labels, int64 [problems, longest]; response and <eos> are learnt, the rest is -100."""
    rows, labels = [], []
    for problem in problems:
        prompt = prompt_ids(tokenizer, problem)
        response = [*tokenizer.encode(problem.solution, add_special_tokens=False), tokenizer.eos_token_id]
        rows.append(torch.tensor(prompt + response))
        labels.append(torch.tensor([-100] * len(prompt) + response))
    # Padding is on the right and attention looks to the left, so it needs no mask.
    return {
        "input_ids": pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def train(
    name: str, model: Qwen3ForCausalLM, recipe: Recipe, next_batch: Callable[[], dict[str, torch.Tensor]]
) -> None:
    """AdamW, a short warm-up, then a cosine to zero; prints the loss, the time spent and the time left."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = LinearLR(optimizer, 1 / recipe.warmup, total_iters=recipe.warmup)
    cosine = CosineAnnealingLR(optimizer, recipe.steps - recipe.warmup)
    schedule = SequentialLR(optimizer, [warmup, cosine], [recipe.warmup])
    start = time.monotonic()
    model.train()
    for step in range(1, recipe.steps + 1):
        loss = model(**next_batch(), use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            spent = time.monotonic() - start
            left = spent / step * (recipe.steps - step)
            _say(f"{name} step {step}/{recipe.steps}  loss {loss:.4f}  {spent:.0f} s, {left:.0f} s left")
    model.eval()


def save(folder: Path, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers 5 writes a class name that version 4 does not know; both know this one.
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def write_jsonl(path: Path, lines: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make(out: Path, seed: int) -> None:
    lexicon = make_lexicon(seed)
    sets = make_problem_sets(seed, lexicon)
    held_out = sets.held_out()
    out.mkdir(parents=True, exist_ok=True)
    for file_name, lines in sets.files().items():
        write_jsonl(out / file_name, lines)

    tokenizer = make_tokenizer()
    for name, recipe in RECIPES.items():
        rng = random.Random(f"{seed}/{name}")
        torch.manual_seed(rng.getrandbits(32))

        def next_batch(recipe: Recipe = recipe, rng: random.Random = rng) -> dict[str, torch.Tensor]:
            drawn = []
            for band in rng.choices(range(BANDS), recipe.band_weights, k=recipe.batch_size):
                sorting = rng.random() < recipe.sort_share
                drawn.append(
                    draw_sort(rng, held_out) if sorting else draw_lexicon(rng, lexicon, band, held_out)
                )
            return training_batch(tokenizer, drawn)

        model = new_model(recipe, tokenizer)
        _say(f"{name}: {model.num_parameters():,} parameters")
        train(name, model, recipe, next_batch)
        save(out / name, model, tokenizer)
        for line in summary(name, model, tokenizer, sets):
            _say(line)


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder; files of the same name are replaced")
    parser.add_argument("--seed", type=int, default=1, help="everything follows from it (default: 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order whatever the number of cores, hence the same bytes each time
    logging.disable_progress_bar()
    start = time.monotonic()
    make(arguments.out, arguments.seed)
    _say(f"done in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
