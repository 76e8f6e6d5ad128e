"""Every field of a config.json accounted for: translated, known to be harmless, or refused by its name.

`families.py` translates. Here is what may stand beside that, and why; a field that is in no table and is set
to something is refused, since nobody can say that the model's arithmetic doesn't hang on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError

# What `families.py` and `rope.py` put into the Megatron configuration.
TRANSLATED = frozenset(
    {
        "model_type",
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "rope_theta",
        "rope_parameters",
        "rope_scaling",
    }
)


@dataclass(frozen=True)
class Allowed:
    """The only values of a field under which Megatron computes the same, and why others are refused."""

    holds: Callable[[Any], bool]
    why: str


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in values
    )


_OFF = _is(False)

CHECKED: dict[str, Allowed] = {
    "architectures": Allowed(
        lambda names: isinstance(names, list) and all(str(name).endswith("ForCausalLM") for name in names),
        "only language models with a head over the vocabulary are",
    ),
    "hidden_act": Allowed(_is("silu"), "only silu is"),
    "attention_bias": Allowed(_OFF, "published models of this family have none"),
    "mlp_bias": Allowed(_OFF, "published models of this family have none"),
    "attention_dropout": Allowed(_is(0.0, 0), "distillation runs without dropout"),
    "use_sliding_window": Allowed(_OFF, "attention is over the whole text"),
    "layer_types": Allowed(
        lambda kinds: isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds),
        "attention is over the whole text in every layer",
    ),
    "partial_rotary_factor": Allowed(_is(1.0, 1), "the whole head turns"),
    # transformers', MLX's, an older one of compressed-tensors
    **dict.fromkeys(
        ("quantization_config", "quantization", "compression_config"),
        Allowed(lambda value: False, "bring unquantised weights"),
    ),
    "auto_map": Allowed(lambda value: False, "a model with code of its own may compute anything"),
    "is_encoder_decoder": Allowed(_OFF, "only decoders are"),
    "add_cross_attention": Allowed(_OFF, "only decoders are"),
    "pruned_heads": Allowed(_is({}), "every layer has all heads"),
}

_GENERATION = "a setting of text generation; the rollout engine has its own"
_BOOKKEEPING = "says how the file was made or is stored"
_OUTPUTS = "says what transformers hands out, not what it computes"
_TASKS = "belongs to heads for other tasks"

HARMLESS: dict[str, str] = {
    "initializer_range": "weights are read, not drawn",
    "pretraining_tp": "how the pretraining job cut its matrices; the product is the same",
    "max_window_layers": "read only where use_sliding_window is true",
    "sliding_window": "read only where use_sliding_window is true",
    "use_cache": "a cache of keys and values for generation",
    "chunk_size_feed_forward": "memory against time; the result is the same",
    **dict.fromkeys(
        ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id"), "the tokenizer's affair"
    ),
    **dict.fromkeys(("tokenizer_class", "prefix", "decoder_start_token_id"), "the tokenizer's affair"),
    **dict.fromkeys(("torch_dtype", "dtype"), "how weights are stored; training.params_dtype decides here"),
    **dict.fromkeys(("transformers_version", "_name_or_path", "name_or_path", "_commit_hash"), _BOOKKEEPING),
    **dict.fromkeys(("unsloth_version", "unsloth_fixed", "use_bfloat16"), _BOOKKEEPING),
    **dict.fromkeys(
        ("_attn_implementation_autoset", "_attn_implementation", "attn_implementation"), _OUTPUTS
    ),
    **dict.fromkeys(("output_attentions", "output_hidden_states", "return_dict", "torchscript"), _OUTPUTS),
    **dict.fromkeys(("id2label", "label2id", "num_labels", "problem_type"), _TASKS),
    **dict.fromkeys(("finetuning_task", "task_specific_params", "tf_legacy_loss"), _TASKS),
    **dict.fromkeys(("is_decoder", "tie_encoder_decoder", "cross_attention_hidden_size"), _TASKS),
    **dict.fromkeys(
        ("max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping"), _GENERATION
    ),
    **dict.fromkeys(("num_beams", "num_beam_groups", "diversity_penalty", "temperature"), _GENERATION),
    **dict.fromkeys(("top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"), _GENERATION),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"), _GENERATION),
    **dict.fromkeys(("num_return_sequences", "output_scores", "return_dict_in_generate"), _GENERATION),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"), _GENERATION),
    **dict.fromkeys(("exponential_decay_length_penalty", "suppress_tokens"), _GENERATION),
    **dict.fromkeys(("begin_suppress_tokens",), _GENERATION),
}


def check_fields(config: Mapping[str, Any], path: Path) -> None:
    """
    Raises:
        UserError: a field would change what the model computes, or nobody knows whether it would; by name.
    """
    for name, value in config.items():
        if name in TRANSLATED or name in HARMLESS or value is None:
            continue
        if name in CHECKED:
            if not CHECKED[name].holds(value):
                shown = "{...}" if isinstance(value, dict) and value else repr(value)
                raise UserError(f"{path}: {name}={shown} is not supported ({CHECKED[name].why})")
        elif value not in (False, "", [], {}):
            raise UserError(
                f"{path}: {name}={value!r} is not known, and may change what the model computes; if it "
                "doesn't, take it out of the file, or name it in models/config_fields.py"
            )
