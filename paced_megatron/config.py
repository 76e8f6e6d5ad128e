"""The whole configuration, as dataclasses: every key, its type, its default, its range, its meaning.

This is the one source: `config_io.py` reads YAML files and checks them against it, and
`tools/write_config_reference.py` writes docs/configuration.md from it. A new setting is one line here. Where
Megatron has a name for a thing, the key has that name. Nothing is read, and no path is looked at, in this
file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class Key:
    """What is known about a key beside its type and default; the bounds are for numbers, `keys` for dicts."""

    doc: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    off: float | None = None  # one value outside the bounds that is allowed, and means "off"
    keys: tuple[str, ...] | None = None


@dataclass(frozen=True)
class PromptConfig:
    """How a problem becomes the tokens that student and teacher continue."""

    system_prompt: Annotated[str | None, Key("text of the system message; null: none")] = None
    template: Annotated[str, Key("the user message; `{problem}` stands for the problem's text")] = "{problem}"
    chat_template: Annotated[
        Path | None, Key("a Jinja file to use instead of the tokenizer's chat template")
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any], Key("arguments passed on to the chat template, e.g. `enable_thinking: false`")
    ] = field(default_factory=dict)


@dataclass(frozen=True)
class VerifierConfig:
    """How an attempt is scored."""

    kind: Annotated[
        Literal["math", "exact"], Key("`math`: math-verify, equal in value; `exact`: equal as text")
    ] = "math"
    answer_marker: Annotated[
        str | None,
        Key('the answer is what follows the last such text, e.g. `"####"` (in quotes); null: none'),
    ] = None
    timeout_s: Annotated[float, Key("seconds after which scoring one attempt ends as timed out", above=0)] = (
        5.0
    )


@dataclass(frozen=True)
class ProblemsConfig:
    """The problems to train on, and those held out."""

    train: Annotated[Path, Key("JSONL file of the problems to train on: id, problem, answer on each line")]
    test: Annotated[
        Path | None, Key("JSONL file of held-out problems, for evaluation; null: no evaluation")
    ] = None
    forgetting: Annotated[
        Path | None,
        Key(
            "JSONL file of problems of another skill, evaluated beside `test` to see what is forgotten; "
            "null: none"
        ),
    ] = None
    fields: Annotated[
        dict[str, str],
        Key(
            "the files' own column names, e.g. `{problem: question, id: unique_id}`",
            keys=("id", "problem", "answer", "solution", "level"),
        ),
    ] = field(default_factory=dict)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # org/name: two parts, no path


@dataclass(frozen=True)
class ModelPathConfig:
    """A model on disk, or on the Hugging Face hub."""

    path: Annotated[
        Path,
        Key(
            "Hugging Face folder: config.json, *.safetensors and the tokenizer's files; where there is none, "
            "a model's name on the hub, e.g. `Qwen/Qwen3-0.6B`"
        ),
    ]


@dataclass(frozen=True)
class TeacherConfig(ModelPathConfig):
    """The model to learn from, and how it shares the job with the student."""

    tensor_model_parallel_size: Annotated[
        int | None,
        Key("processes that share each of the teacher's layers; null: as the student's", at_least=1),
    ] = None
    pipeline_model_parallel_size: Annotated[
        int | None,
        Key("stages that the teacher's layers are spread over; null: as the student's", at_least=1),
    ] = None
    own_ranks: Annotated[
        bool,
        Key("processes that hold no part of the student; only false: Megatron's groups take the whole job"),
    ] = False
    offload: Annotated[
        bool,
        Key("the teacher's weights stay in host memory while it isn't computing, and free the GPU's"),
    ] = False
    cache: Annotated[
        bool,
        Key(
            "keep the teacher's hidden states on disk in the first epoch over a stage's responses and read "
            "them from then on; hidden size x bytes per number for each response token"
        ),
    ] = False


@dataclass(frozen=True)
class ParallelConfig:
    """How the job's processes are laid out; their number is the product of the sizes."""

    tensor_model_parallel_size: Annotated[int, Key("processes that share each layer", at_least=1)] = 1
    pipeline_model_parallel_size: Annotated[
        int, Key("pipeline stages: processes that share the layers between them", at_least=1)
    ] = 1
    virtual_pipeline_model_parallel_size: Annotated[
        int | None,
        Key(
            "chunks of layers on each pipeline stage, interleaved to shorten the bubble; null: one",
            at_least=2,
        ),
    ] = None
    context_parallel_size: Annotated[
        int,
        Key("processes that share each text; only 1: no attention here can do more", at_least=1),
    ] = 1
    data_parallel_size: Annotated[
        int, Key("copies of the model, each with its part of the batch", at_least=1)
    ] = 1
    sequence_parallel: Annotated[
        bool,
        Key("the tensor-parallel processes share the tokens between the layers' matmuls, to save memory"),
    ] = False
    use_distributed_optimizer: Annotated[
        bool, Key("the copies of the model share the optimizer's state between them (ZeRO 1)")
    ] = False
    overlap_grad_reduce: Annotated[
        bool, Key("gradients are summed over the copies while the backward pass goes on")
    ] = False
    overlap_param_gather: Annotated[
        bool,
        Key("new weights are gathered while the next forward pass goes on; needs use_distributed_optimizer"),
    ] = False
    ddp_bucket_size: Annotated[
        int | None,
        Key(
            "parameters that are reduced or gathered at once while overlapping; null: Megatron's choice",
            at_least=1,
        ),
    ] = None

    @property
    def world_size(self) -> int:
        """The number of the job's processes."""
        return (
            self.tensor_model_parallel_size
            * self.pipeline_model_parallel_size
            * self.context_parallel_size
            * self.data_parallel_size
        )


@dataclass(frozen=True)
class LaunchConfig:
    """An SGLang server that the job starts and ends; for `rollout.engine: sglang` without `rollout.urls`."""

    python: Annotated[
        Path | None,
        Key("interpreter of the environment that has SGLang; null: no server is started"),
    ] = None
    args: Annotated[
        str, Key("arguments of `sglang.launch_server` beside model, host and port, as in a shell")
    ] = ""
    env: Annotated[
        dict[str, str], Key("environment variables of the server beside ours, e.g. which GPU it sees")
    ] = field(default_factory=dict)
    host: Annotated[
        str, Key("address it listens on; one that is not loopback needs SGLANG_API_KEY in the environment")
    ] = "127.0.0.1"
    timeout_s: Annotated[float, Key("seconds that a start may take", above=0)] = 600.0


@dataclass(frozen=True)
class RolloutConfig:
    """How the student's attempts, and the teacher's responses, are sampled."""

    engine: Annotated[
        Literal["embedded", "sglang"],
        Key("`embedded`: inside this job, batched, with a KV cache; `sglang`: SGLang servers (rollouts.md)"),
    ] = "embedded"
    attempts: Annotated[int, Key("attempts per problem, K; one alone tells no frontier", at_least=2)] = 8
    temperature: Annotated[float, Key("sampling temperature; 0: greedy", at_least=0)] = 1.0
    top_p: Annotated[
        float, Key("nucleus sampling keeps this much probability; 1: all", above=0, at_most=1)
    ] = 1.0
    top_k: Annotated[int, Key("sample among the k likeliest tokens; -1: all", at_least=1, off=-1)] = -1
    max_new_tokens: Annotated[int, Key("tokens after which an attempt is truncated", at_least=1)] = 1024
    batch_size: Annotated[
        int, Key("attempts generated together, and redone together, by the embedded engine", at_least=1)
    ] = 64
    urls: Annotated[
        list[str], Key("SGLang servers that run, started on the student, e.g. `[http://gpu7:30000]`")
    ] = field(default_factory=list)
    teacher_urls: Annotated[
        list[str],
        Key("servers beside `urls` that were started on the teacher; a teacher of other sizes needs them"),
    ] = field(default_factory=list)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    colocate: Annotated[
        bool, Key("the servers share the trainer's GPUs: they release their memory while it trains")
    ] = False
    concurrency: Annotated[
        int | None,
        Key("attempts asked of each server at a time; null: as many as it says that it runs", at_least=1),
    ] = None
    request_timeout_s: Annotated[
        float, Key("seconds after which a request to a server is given up and made again", above=0)
    ] = 3600.0
    respond_to: Annotated[
        Literal["kept", "all"],
        Key(
            "the teacher answers the problems that are kept, or `all`: then its text does not depend on "
            "pacing, and the arms of an experiment share it"
        ),
    ] = "kept"


@dataclass(frozen=True)
class PacingConfig:
    """How a pass rate p becomes a problem's weight."""

    kernel: Annotated[
        Literal["beta", "uniform"], Key("`beta`: p^alpha (1-p)^beta; `uniform`: 1 for every problem kept")
    ] = "beta"
    alpha: Annotated[float, Key("exponent of p in the beta kernel", at_least=0)] = 1.0
    beta: Annotated[float, Key("exponent of 1-p in the beta kernel", at_least=0)] = 1.0
    keep: Annotated[
        Literal["frontier", "solvable", "unmastered", "all"],
        Key(
            "which problems are trained on, k of K attempts being correct: `frontier` 0 < k < K; `solvable` "
            "k > 0; `unmastered` k < K; `all`"
        ),
    ] = "frontier"
    permute: Annotated[
        bool,
        Key("a control: the weights are dealt out anew, at random, among the problems kept (follows seed)"),
    ] = False


@dataclass(frozen=True)
class TrainingConfig:
    """The weighted distillation: batches, optimizer, schedule, loss, checkpoints."""

    micro_batch_size: Annotated[int, Key("problems in one forward pass", at_least=1)] = 1
    global_batch_size: Annotated[
        int,
        Key("problems in one step; a multiple of micro_batch_size x data_parallel_size", at_least=1),
    ] = 32
    lr: Annotated[float, Key("AdamW's learning rate, at its peak", above=0)] = 1e-6
    min_lr: Annotated[float, Key("learning rate at the end of the decay, at most lr", at_least=0)] = 0.0
    lr_decay_style: Annotated[
        Literal["constant", "linear", "cosine"], Key("how the learning rate falls over a stage's train_iters")
    ] = "constant"
    lr_warmup_iters: Annotated[int, Key("steps over which the learning rate rises from 0", at_least=0)] = 0
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
    params_dtype: Annotated[
        Literal["float32", "bfloat16"],
        Key("type of the weights in training; gradients and optimizer state are float32"),
    ] = "float32"
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
    loss_workspace_mb: Annotated[
        int | None,
        Key(
            "MiB that the loss may use for a chunk of logits; null: as much as the head's float32 gradient "
            "takes on a rank, at least 256",
            at_least=1,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage; stages are trained one after the other."""

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
    train_iters: Annotated[int, Key("optimizer steps of this stage", at_least=1)]


@dataclass(frozen=True)
class EvaluationConfig:
    """Accuracy on the held-out problems: before, after, and in between."""

    every: Annotated[
        int, Key("steps between evaluations during training; 0: only before and after", at_least=0)
    ] = 0
    attempts: Annotated[int, Key("attempts per held-out problem; accuracy is their mean", at_least=1)] = 1
    temperature: Annotated[float, Key("sampling temperature; 0: greedy", at_least=0)] = 0.7
    top_p: Annotated[
        float, Key("nucleus sampling keeps this much probability; 1: all", above=0, at_most=1)
    ] = 0.8
    top_k: Annotated[int, Key("sample among the k likeliest tokens; -1: all", at_least=1, off=-1)] = 20
    max_new_tokens: Annotated[
        int | None,
        Key("tokens after which an attempt is truncated; null: rollout.max_new_tokens", at_least=1),
    ] = None
    greedy: Annotated[
        bool, Key("also measure the accuracy of greedy decoding, with one attempt a problem")
    ] = False
    strata_attempts: Annotated[
        int,
        Key(
            "attempts of the initial student at each held-out problem, which tell those that it never, "
            "sometimes or always solves apart; 0: no such strata",
            at_least=2,
            off=0,
        ),
    ] = 0
    pass_rates_after: Annotated[
        bool,
        Key("the trained student attempts the training problems K times too, to show which have moved"),
    ] = False


@dataclass(frozen=True)
class LoggingConfig:
    """Where the numbers of each step go beside metrics.jsonl."""

    tensorboard: Annotated[
        bool, Key("also to TensorBoard, in the folder's `stage-N/tensorboard`; needs its package")
    ] = False
    wandb_project: Annotated[
        str | None, Key("also to this project of Weights & Biases; needs its package; null: not")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run: its seed, its folder, and a section for everything else."""

    seed: Annotated[int, Key("every random choice of the run follows from it", at_least=0)] = 1234
    run_dir: Annotated[Path, Key("the run's folder; made if absent, continued if it holds the same run")]
    problems: ProblemsConfig
    student: ModelPathConfig
    teacher: TeacherConfig
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    pacing: PacingConfig = field(default_factory=PacingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    stages: list[StageConfig]
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    @property
    def end(self) -> tuple[int, int]:
        """(stage, step) with which training ends: the key of the run's last measurements."""
        return (len(self.stages), self.stages[-1].train_iters)
