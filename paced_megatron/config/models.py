"""The keys of `student`, `teacher` and `parallel`: which models, laid out over which processes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from paced_megatron.config.key import Key

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
class TeacherConfig:
    """The model to learn from, and how a teacher shares the job with the student."""

    path: Annotated[
        Path | None,
        Key(
            "as student.path; its tokenizer is the student's. null: there is no other model, and every stage "
            "has `text: rollouts` and another `teacher` than `model`"
        ),
    ] = None
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
        Key("the teacher has processes of its own, behind the student's; false: it shares the student's"),
    ] = False
    data_parallel_size: Annotated[
        int,
        Key(
            "copies of a teacher on `own_ranks`, which share its work; where it shares the student's "
            "processes, as many as fit",
            at_least=1,
        ),
    ] = 1
    offload: Annotated[
        bool,
        Key(
            "the teacher's weights stay in host memory while it isn't computing, and free the GPU's; those "
            "of an `ema` teacher only during rollouts"
        ),
    ] = False
    cache: Annotated[
        bool,
        Key(
            "keep the teacher's hidden states on disk in the first epoch over a stage's responses and read "
            "them from then on; hidden size x bytes per number for each response token"
        ),
    ] = False

    def own_processes(self, parallel: ParallelConfig) -> int:
        """How many processes the teacher has beside the student's; 0 where it shares them."""
        tp = self.tensor_model_parallel_size or parallel.tensor_model_parallel_size
        pp = self.pipeline_model_parallel_size or parallel.pipeline_model_parallel_size
        return tp * pp * self.data_parallel_size if self.own_ranks else 0


@dataclass(frozen=True)
class ParallelConfig:
    """How the student's processes are laid out; their number is the product of the sizes."""

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
        """The number of the student's processes; `Config.world_size` is that of the job."""
        return (
            self.tensor_model_parallel_size
            * self.pipeline_model_parallel_size
            * self.context_parallel_size
            * self.data_parallel_size
        )
