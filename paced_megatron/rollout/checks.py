"""What every engine checks of its requests before it generates anything, and where a model's text ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, GenerationConfig

from paced_megatron.errors import UserError
from paced_megatron.rollout.engine import Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_requests(
    requests: Sequence[Request], max_new_tokens: int, *, rows: int, context: int, model: object
) -> None:
    """Every prompt has tokens, ids that the model has, and room for the answer.

    Args:
        rows: of the model's embedding; ids are 0 to rows - 1.
        context: tokens of prompt and answer together.
        model: what to call the model: its folder, or its server.

    Raises:
        UserError: the first prompt that does not fit, by its problem.
    """
    for request in requests:
        length = len(request.prompt_ids)
        if length == 0:
            raise UserError(f"problem {request.problem_id}: its prompt has no tokens; check problems.prompts")
        if length + max_new_tokens > context:
            raise UserError(
                f"problem {request.problem_id}: a prompt of {length} tokens and max_new_tokens "
                f"{max_new_tokens} exceed the context of {context} tokens of {model}: lower "
                "max_new_tokens or leave the problem out"
            )
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < rows:
            raise UserError(
                f"problem {request.problem_id}: its prompt holds a token id that {model} does not have (0 to "
                f"{rows - 1}): was it made with another model's tokenizer?"
            )


def end_ids(folder: Path, sources: Iterable[Any], token_ids: set[int], rows: int) -> tuple[int, ...]:
    """All ids that any of a folder's files calls the end of a sequence; Qwen's chat models have two.

    Args:
        sources: the folder's generation config, config and tokenizer, each with an `eos_token_id` perhaps.
        token_ids: those of the tokenizer; `rows`: of the head. Only what is in both can be drawn.

    Raises:
        UserError: there is none.
    """
    ids: set[int] = set()
    for source in sources:
        named = getattr(source, "eos_token_id", None)
        ids.update(named if isinstance(named, list | tuple) else [] if named is None else [named])
    usable = sorted(ids & token_ids & set(range(rows)))
    if not usable:
        raise UserError(
            f"{folder} names no end-of-sequence token that its tokenizer has: set eos_token_id in config.json"
        )
    return tuple(usable)


def folder_end_ids(folder: Path, tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[int, ...]:
    """`end_ids` of a folder whose model is not loaded; `tokenizer` is its own.

    Raises:
        UserError: there is none, or generation_config.json can't be read.
    """
    generation, path = None, folder / "generation_config.json"
    if path.is_file():
        try:
            generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, TypeError) as error:  # not JSON, JSON of another kind
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{path}: can't be read ({reason}); copy the model's own, or remove it"
            ) from error
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return end_ids(folder, (generation, config, tokenizer), set(tokenizer.get_vocab().values()), rows)


def end_warnings(
    student: Path,
    teacher: Path,
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    rows: int,
) -> list[str]:
    """What to know where the teacher ends a reply with a token that does not end the student's.

    A base model's folder often names <|endoftext|> alone, where its chat template, and a teacher that has
    been taught to chat, end with <|im_end|>. Ends that the student's chat template doesn't write are left
    out: a teacher's folder may name its padding, too. Of a folder that doesn't say where a text ends nothing
    is warned: the engine refuses it where it is sampled from, and a teacher may never be.
    """
    try:
        known = folder_end_ids(student, student_tokenizer, rows)
        taught = folder_end_ids(teacher, teacher_tokenizer, rows)
    except UserError:
        return []
    template = student_tokenizer.get_chat_template()
    warnings = []
    for end in taught:
        text = str(student_tokenizer.convert_ids_to_tokens(end))
        if end not in known and text in template:
            warnings.append(
                f"{teacher} ends a reply with token {end} ({text}), and {student} does not: a student that "
                "has learnt it would write on after it until it is truncated; add it to eos_token_id in the "
                "student's generation_config.json"
            )
    return warnings
