"""The keys of `training` and of each stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from paced_megatron.config.budget import BudgetConfig
from paced_megatron.config.key import Key


@dataclass(frozen=True)
class TrainingConfig(BudgetConfig):
    """The weighted distillation: budget, batches, optimizer, schedule, loss, checkpoints. The budget is that
    of every stage that names none itself."""

    micro_batch_size: Annotated[int, Key("problems in one forward pass", at_least=1)] = 1
    global_batch_size: Annotated[
        int,
        Key("problems in one step; a multiple of micro_batch_size x data_parallel_size", at_least=1),
    ] = 32
    lr: Annotated[float, Key("AdamW's learning rate, at its peak", above=0)] = 1e-6
    min_lr: Annotated[float, Key("learning rate at the end of the decay, at most lr", at_least=0)] = 0.0
    lr_decay_style: Annotated[
        Literal["constant", "linear", "cosine"], Key("how the learning rate falls over a stage's budget")
    ] = "constant"
    lr_warmup_iters: Annotated[int, Key("steps over which the learning rate rises from 0", at_least=0)] = 0
    lr_warmup_fraction: Annotated[
        float,
        Key("the same as a share of a stage's budget; one of the two at most", at_least=0, below=1),
    ] = 0.0
    weight_decay: Annotated[float, Key("AdamW's weight decay", at_least=0)] = 0.1
    clip_grad: Annotated[float, Key("the gradient's norm is clipped to this; 0: never", at_least=0)] = 1.0
    adam_beta1: Annotated[float, Key("decay of AdamW's first moment", at_least=0, below=1)] = 0.9
    adam_beta2: Annotated[float, Key("decay of AdamW's second moment", at_least=0, below=1)] = 0.999
    adam_eps: Annotated[float, Key("AdamW's epsilon", above=0)] = 1e-8
    temperature: Annotated[
        float, Key("both models' logits are divided by this in the divergence", above=0)
    ] = 1.0
    normalization: Annotated[
        Literal["problems", "tokens"],
        Key("the loss is divided by global_batch_size, or by the batch's unweighted number of tokens"),
    ] = "problems"
    token_weights: Annotated[
        Literal["none", "tip"],
        Key("`tip`: of each text only the tokens that the student is unsure of or far off (method.md, 3)"),
    ] = "none"
    token_weights_kept: Annotated[
        float, Key("with `tip`: the share of each text's tokens that is kept", above=0, at_most=1)
    ] = 0.5
    params_dtype: Annotated[
        Literal["float32", "bfloat16"],
        Key("type of the weights in training; gradients and optimizer state are float32"),
    ] = "float32"
    transformer_impl: Annotated[
        Literal["auto", "local", "transformer_engine"],
        Key(
            "whose layers student and teacher are built from: `transformer_engine`, NVIDIA's, which needs a "
            "GPU and bfloat16; `local`, Megatron-Core's own with torch's attention; `auto`: the former where "
            "it is installed and fits, else the latter"
        ),
    ] = "auto"
    fp8: Annotated[
        Literal["e4m3", "hybrid"] | None,
        Key(
            "the student's matrix products in its layers are of 8-bit numbers: `e4m3` all of them, `hybrid` "
            "the gradients as e5m2; needs Transformer Engine, and `pack_length`; null: of params_dtype"
        ),
    ] = None
    fp8_recipe: Annotated[
        Literal["delayed", "tensorwise", "blockwise", "mxfp8"],
        Key("with `fp8`: how Transformer Engine scales these numbers; Megatron's names"),
    ] = "delayed"
    pack_length: Annotated[
        int | None,
        Key(
            "texts are packed, several in a row, into micro-batches of one row of this many tokens; needs "
            "micro_batch_size 1; null: every text has a row of its own, padded to the longest beside it",
            at_least=1,
        ),
    ] = None
    recompute_granularity: Annotated[
        Literal["full", "selective"] | None,
        Key(
            "what is computed again in the backward pass instead of kept: `full`, whole layers; `selective`, "
            "attention's inside; null: nothing"
        ),
    ] = None
    recompute_num_layers: Annotated[
        int, Key("with `full`: of this many layers in a row only the input is kept", at_least=1)
    ] = 1
    save_interval: Annotated[
        int, Key("steps between checkpoints; the last step is always saved", at_least=1)
    ] = 50
    keep_checkpoints: Annotated[
        int, Key("how many of the newest checkpoints are kept, beside the best", at_least=1)
    ] = 2
    loss_workspace_mb: Annotated[
        int | None,
        Key(
            "MiB that the loss may use for a chunk of logits; null: as much as the head's float32 gradient "
            "takes on a rank, at least 256; on a GPU at least what 1024 tokens need",
            at_least=1,
        ),
    ] = None
    loss_kernels: Annotated[
        Literal["auto", "torch", "triton"],
        Key(
            "what works on a chunk's logits: `triton`, kernels of two passes (not for akl, not in float64); "
            "`torch`, several passes; `auto`: Triton on a GPU where it can be"
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class StageConfig(BudgetConfig):
    """One stage; stages are trained one after the other. Without a budget of its own it has that of
    `training`."""

    text: Annotated[
        Literal["responses", "rollouts"],
        Key(
            "what is trained on: `responses`, stored text of the teacher; `rollouts`, the student's own "
            "attempts, made anew on the way (on-policy.md); goes with any divergence"
        ),
    ] = "responses"
    divergence: Annotated[
        Literal["forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl", "akl"],
        Key("`forward_kl`: KL(teacher || student); `reverse_kl`: the other way; the others: method.md, 2"),
    ] = "forward_kl"
    divergence_parameter: Annotated[
        float | None,
        Key(
            "beta of `jsd` (on the teacher: near 0 it is a forward KL), skew of the skew KLs, mu of `akl`; "
            "null: 0.5 for `akl`; the KLs take none",
            above=0,
            below=1,
        ),
    ] = None
    teacher: Annotated[
        Literal["model", "initial", "ema", "current"],
        Key(
            "who teaches: `model`, that of `teacher.path`; or the student itself: `initial`, as it was when "
            "the run began (in every stage), frozen; `ema`, the moving average of its weights since the "
            "stage began; `current`, as it is"
        ),
    ] = "model"
    ema_decay: Annotated[
        float | None,
        Key(
            "with `ema`: after each step the teacher is this much of itself and the rest of the student; "
            "null: 0.99",
            at_least=0,
            below=1,
        ),
    ] = None
    teacher_context: Annotated[
        str | None,
        Key(
            "what the teacher sees beside the problem: `none`, `answer`, `solution`, or its user turn as a "
            "text with the slots `{problem}` (the student's whole user turn), `{answer}`, `{solution}`, "
            "`{attempt}` (a correct attempt of the student's at the same problem, else the solution), "
            "`{feedback}` (correct or incorrect: the attempt that is scored); null: `answer` where the "
            "student teaches itself, `none` elsewhere"
        ),
    ] = None
    rollout_every: Annotated[
        int,
        Key("with `text: rollouts`: this many steps share the weights that make their attempts", at_least=1),
    ] = 1
    train_on: Annotated[
        Literal["all", "one"],
        Key("with `text: rollouts`: `all` K attempts of a problem, each with w/K, or `one` of them with w"),
    ] = "all"
    leave_one_out: Annotated[
        bool,
        Key(
            "with `text: rollouts`: an attempt's weight follows from the problem's other K-1 attempts "
            "(on-policy.md)"
        ),
    ] = False
