"""The parity table's rows: a name, the configuration's keys, and which models they are run on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from paced_megatron.config import ParallelConfig, TrainingConfig
from parallel.step_ranks import Case


@dataclass(frozen=True)
class Row:
    """A layout of the parity table.

    Attributes:
        parallel, training: keys that differ from the defaults.
        teacher: keyword arguments of `place_teacher`: a layout of its own.
        models: a row of `MODELS`.
        quick: it is part of `make test`.
    """

    name: str
    parallel: dict[str, int | bool] = field(default_factory=dict)
    training: dict[str, int | str] = field(default_factory=dict)
    teacher: dict[str, int] = field(default_factory=dict)
    models: str = "untied"
    quick: bool = False

    def __str__(self) -> str:
        return self.name.replace(", ", "-").replace(" ", "-")

    @property
    def world_size(self) -> int:
        return ParallelConfig(**self.parallel).world_size

    def case(self, **changes) -> Case:
        training = {"micro_batch_size": 2, "global_batch_size": 8, "lr": 1.0} | self.training
        plain = Case(ParallelConfig(**self.parallel), TrainingConfig(**training), teacher=self.teacher)
        return dataclasses.replace(plain, **changes)


TP, PP, VPP, DP = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "virtual_pipeline_model_parallel_size",
    "data_parallel_size",
)
SP, ZERO = {"sequence_parallel": True}, {"use_distributed_optimizer": True}
# Small buckets, so that the tiny models have several: in one alone the head would never be stale.
OVERLAP = {**ZERO, "overlap_grad_reduce": True, "overlap_param_gather": True, "ddp_bucket_size": 5000}
ONE = {"micro_batch_size": 1}
PACKED = {"micro_batch_size": 1, "pack_length": 32}  # the longest text has 20 tokens

ROWS = [
    Row("micro batches of 1", training=ONE),
    Row("micro batches of 4", training={"micro_batch_size": 4}),
    Row("packed", training=PACKED),
    Row("recomputed, all of it", training={"recompute_granularity": "full", "recompute_num_layers": 2}),
    Row("recomputed, attention", training={"recompute_granularity": "selective"}),
    Row("TP 2", {TP: 2}),
    Row("TP 4", {TP: 4}),
    Row("TP 2, SP, packed", {TP: 2, **SP}, PACKED, quick=True),
    Row("TP 4, SP", {TP: 4, **SP}),
    Row("TP 2, tied", {TP: 2, **SP}, models="tied"),
    Row("PP 2", {PP: 2}, quick=True),
    Row("PP 2, micro batches of 1", {PP: 2}, ONE),
    Row("PP 2, packed, recomputed", {PP: 2}, {**PACKED, "recompute_granularity": "full"}),
    Row("PP 2, tied", {PP: 2}, models="tied", quick=True),
    Row("PP 2, tied, teacher tied too", {PP: 2}, models="both tied"),
    Row("PP 4", {PP: 4}),
    Row("PP 2, VPP 2", {PP: 2, VPP: 2}, quick=True),
    Row("PP 2, VPP 2, packed, tied", {PP: 2, VPP: 2}, PACKED, models="tied"),
    Row("PP 3, VPP 2", {PP: 3, VPP: 2}, models="six layers"),
    Row("DP 2", {DP: 2}),
    Row("DP 4, packed", {DP: 4}, PACKED),
    Row("DP 2, distributed optimizer", {DP: 2, **ZERO}),
    Row("DP 2, overlapped", {DP: 2, **OVERLAP}, ONE, quick=True),
    Row("DP 2, overlapped, tied", {DP: 2, **OVERLAP}, ONE, models="tied"),
    Row("PP 2, DP 2, overlapped, tied", {PP: 2, DP: 2, **OVERLAP}, ONE, models="tied"),
    Row("PP 2, VPP 2, DP 2, overlapped", {PP: 2, VPP: 2, DP: 2, **OVERLAP}, ONE),
    Row("TP 2, PP 2", {TP: 2, PP: 2}),
    Row("TP 2, SP, PP 2, tied", {TP: 2, PP: 2, **SP}, models="tied", quick=True),
    Row("TP 2, SP, PP 2, VPP 2, packed", {TP: 2, PP: 2, VPP: 2, **SP}, PACKED),
    Row("TP 2, SP, DP 2, overlapped, packed", {TP: 2, DP: 2, **SP, **OVERLAP}, PACKED, quick=True),
]
