"""What is planned: two models, a layout, and the texts of one optimizer step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from paced_megatron.models.families import ModelShape
from paced_megatron.plan.rollouts import Rollouts

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Layout:
    """How the processes share the models; Megatron's names."""

    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    data_parallel_size: int = 1
    virtual_pipeline_model_parallel_size: int | None = None
    sequence_parallel: bool = False
    use_distributed_optimizer: bool = False
    recompute_granularity: str | None = None
    recompute_num_layers: int = 1
    teacher_tensor_model_parallel_size: int = 1
    teacher_pipeline_model_parallel_size: int = 1
    teacher_own_copies: int = 0  # of a teacher on processes of its own; 0: it is on the student's

    @property
    def world_size(self) -> int:
        """Processes of the student."""
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size * self.data_parallel_size

    @property
    def teacher_is_alike(self) -> bool:
        """Whether it is cut as the student is."""
        return (self.teacher_tensor_model_parallel_size, self.teacher_pipeline_model_parallel_size) == (
            self.tensor_model_parallel_size,
            self.pipeline_model_parallel_size,
        )

    @property
    def chunks(self) -> int:
        """Parts of the model on each rank."""
        return self.virtual_pipeline_model_parallel_size or 1


@dataclass(frozen=True)
class Work:
    """One optimizer step, as it is planned.

    Attributes:
        params_dtype: a key of BYTES.
        prompt_tokens, response_tokens: of every text: the longest ones, since memory is what they take.
        pack_length: tokens of a packed bin that takes the place of a padded text; None: not packed.
        texts_per_problem: 1, or the K attempts of an on-policy step, if every problem has weight.
        teacher_kind: `teacher` of the stage; `teacher` is the student's shape for all but `model`.
        teacher_cache: its hidden states at the responses are kept on disk.
        teacher_offload: the teacher's weights are on the host while it doesn't compute.
        offload: `teacher.offload`, whoever teaches: what sleeps between steps, while the student is sampled.
        device: "cuda" or "cpu"; they differ in what the loss and AdamW work in.
        divergence, loss_kernels: the stage's, and who works on the logits; they decide about buffers.
        fused: attention, norms and SwiGLU are torch's fused kernels or Transformer Engine's, as on a GPU:
            attention of padded texts never makes all scores [heads, s, s], as that of packed ones never does.
        token_statistics: the student runs forward once more, for token weights.
        rollouts: the engine inside the job; None: it runs elsewhere.
    """

    student: ModelShape
    teacher: ModelShape
    layout: Layout
    params_dtype: str
    micro_batch_size: int
    global_batch_size: int
    prompt_tokens: int
    response_tokens: int
    pack_length: int | None = None
    texts_per_problem: int = 1
    teacher_kind: str = "model"
    teacher_offload: bool = False
    offload: bool = False
    teacher_cache: bool = False
    loss_workspace_mb: float | None = None
    loss_kernels: str = "auto"
    divergence: str = "forward_kl"
    device: str = "cuda"
    fused: bool = False
    token_statistics: bool = False
    rollouts: Rollouts | None = None

    @property
    def element(self) -> int:
        """Bytes of a weight and of an activation."""
        return BYTES[self.params_dtype]

    @property
    def accurate(self) -> int:
        """Bytes of a gradient, and of what is computed in float32 or wider."""
        return max(self.element, BYTES["float32"])

    @property
    def makes_scores(self) -> bool:
        """Whether attention has all of [heads, s, s] at once."""
        return self.pack_length is None and not self.fused

    @property
    def text_tokens(self) -> int:
        """Tokens of one row of a micro-batch."""
        return self.pack_length or self.prompt_tokens + self.response_tokens

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch, s x b."""
        return self.text_tokens * self.micro_batch_size

    @property
    def response_share(self) -> float:
        """Of a text's tokens those that the loss is taken on."""
        return self.response_tokens / (self.prompt_tokens + self.response_tokens)

    @property
    def loss_tokens(self) -> int:
        """Tokens of one micro-batch that the loss is taken on, M."""
        return round(self.tokens * self.response_share)

    @property
    def cache_bytes(self) -> int:
        """On disk for one response, where the teacher's hidden states are kept there; else 0."""
        return self.response_tokens * self.teacher.hidden_size * self.element if self.teacher_cache else 0

    @property
    def micro_batches(self) -> int:
        """Of one data-parallel rank in one step, at least 1."""
        texts = -(-self.global_batch_size * self.texts_per_problem // self.layout.data_parallel_size)
        per_micro_batch = self.micro_batch_size
        if self.pack_length is not None:
            per_micro_batch *= max(self.pack_length // (self.prompt_tokens + self.response_tokens), 1)
        return max(-(-texts // per_micro_batch), 1)

    def at(self, layout: Layout, **changes: int) -> Work:
        """The same step at another layout."""
        return replace(self, layout=layout, **changes)  # type: ignore[arg-type]
