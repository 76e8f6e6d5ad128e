"""Rules about the layers that need no device: rows of `rules.RULES`. What a device forbids is in
`models/layer_choice.py`."""

from __future__ import annotations

from paced_megatron.config import Config, TrainingConfig
from paced_megatron.config.layouts import Rule

FP8_UNIT = 32  # mxfp8 scales so many numbers together; the other recipes want multiples of 16


def _engine_has_narrow_weights(config: Config) -> str | None:
    training = config.training
    if training.params_dtype == "bfloat16":
        return None
    for key, asks in (("transformer_impl", "transformer_engine"), ("fp8", training.fp8)):
        if asks is not None and getattr(training, key) == asks:
            return (
                f"training.{key}={asks} needs training.params_dtype=bfloat16, not {training.params_dtype}: "
                "Transformer Engine's fused attention takes no other here; set that, or leave it out"
            )
    return None


def _fp8_has_whole_rows(config: Config) -> str | None:
    training, tp = config.training, config.parallel.tensor_model_parallel_size
    unit = FP8_UNIT * tp
    if training.fp8 is None or (training.pack_length is not None and training.pack_length % unit == 0):
        return None
    return (
        f"training.fp8={training.fp8} needs training.pack_length to be a multiple of {FP8_UNIT} x "
        f"parallel.tensor_model_parallel_size = {unit}, not {training.pack_length}: its matrix products take "
        "whole blocks of tokens"
    )


def _fp8_has_the_engines_layers(config: Config) -> str | None:
    training = config.training
    if training.fp8 is not None and training.transformer_impl == "local":
        return (
            f"training.fp8={training.fp8} needs Transformer Engine's layers, not "
            "training.transformer_impl=local; leave one out"
        )
    if training.fp8 is None and training.fp8_recipe != TrainingConfig.fp8_recipe:
        return f"training.fp8_recipe={training.fp8_recipe} is for training.fp8, and that is null"
    return None


LAYER_RULES: list[Rule] = [
    (
        "training.transformer_impl",
        "`transformer_engine` needs `params_dtype: bfloat16`, as does `fp8`",
        _engine_has_narrow_weights,
    ),
    (
        "training.fp8",
        "needs `pack_length` in multiples of 32 x `tensor_model_parallel_size`",
        _fp8_has_whole_rows,
    ),
    (
        "training.fp8_recipe",
        "is for `fp8`, which is not for `transformer_impl: local`",
        _fp8_has_the_engines_layers,
    ),
]
