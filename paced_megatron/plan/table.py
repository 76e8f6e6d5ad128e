"""A plan in the terminal: a column for each pipeline stage, what does not fit in red."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from paced_megatron.plan.memory import StageMemory
from paced_megatron.plan.plan import Plan
from paced_megatron.plan.remedies import in_words
from paced_megatron.plan.rollouts import APART_FROM_TRAINING
from paced_megatron.plan.search import LARGEST_WORLD
from paced_megatron.plan.work import Layout

SHOWN_STAGES = 8  # of a longer pipeline the first ones and the last


def layout_in_words(layout: Layout) -> str:
    """As the configuration's keys: `tensor_model_parallel_size 2, data_parallel_size 4, ...`."""
    sizes = {
        "tensor_model_parallel_size": layout.tensor_model_parallel_size,
        "pipeline_model_parallel_size": layout.pipeline_model_parallel_size,
        "virtual_pipeline_model_parallel_size": layout.virtual_pipeline_model_parallel_size or 1,
        "data_parallel_size": layout.data_parallel_size,
    }
    words = [f"{name} {size}" for name, size in sizes.items() if size > 1]
    words += [name for name in ("sequence_parallel", "use_distributed_optimizer") if getattr(layout, name)]
    if layout.teacher_own_copies:
        tp, pp = layout.teacher_tensor_model_parallel_size, layout.teacher_pipeline_model_parallel_size
        words.append(f"{tp * pp * layout.teacher_own_copies} more of the teacher alone")
    elif not layout.teacher_is_alike:
        words += [
            f"teacher.tensor_model_parallel_size {layout.teacher_tensor_model_parallel_size}",
            f"teacher.pipeline_model_parallel_size {layout.teacher_pipeline_model_parallel_size}",
        ]
    if layout.recompute_granularity:
        words.append(f"recompute_granularity {layout.recompute_granularity}")
    return ", ".join(words) or "one process"


def proposed_in_words(layout: Layout, instead_of: Layout) -> str:
    """A layout that would fit, with the teacher's sizes where the configuration has its own: they change
    too."""
    words = layout_in_words(layout)
    if instead_of.teacher_is_alike or not layout.teacher_is_alike:
        return words
    return (
        f"{words}, and teacher.tensor_model_parallel_size and pipeline_model_parallel_size as the student's"
    )


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Print it."""
    console = console or Console()
    work = plan.work
    console.print(
        f"{work.layout.world_size} processes ({layout_in_words(work.layout)}), {work.params_dtype}; texts of "
        f"{work.prompt_tokens} + {work.response_tokens} tokens, {work.micro_batches} micro-batches of "
        f"{work.micro_batch_size} on each rank"
    )
    console.print(_memory(plan))
    console.print(_matmuls(plan))
    if work.layout.pipeline_model_parallel_size > 1:
        console.print(f"A pipeline stage waits {plan.idle_share:.0%} of the student's passes.")
    if work.cache_bytes:
        console.print(
            f"teacher.cache keeps up to {work.cache_bytes / 2**20:,.1f} MB (2^20 bytes) of each response on "
            "disk, in the run's folder."
        )
    for number, budget in enumerate(plan.budgets, start=1):
        console.print(f"Stage {number} is trained for {budget} ({budget.key}).")
    console.print(_verdict(plan))


def _shown(stages: list[StageMemory]) -> list[StageMemory]:
    return stages if len(stages) <= SHOWN_STAGES else [*stages[: SHOWN_STAGES - 1], stages[-1]]


def _memory(plan: Plan) -> Table:
    stages = _shown(plan.stages)
    table = Table(title="GB (2^30 bytes) on a rank", title_justify="left")
    table.add_column("part")
    for stage in stages:
        table.add_column(_name(stage, len(plan.stages)), justify="right")
    lasting = [{**stage.outside, **stage.lasting} for stage in stages]
    for part in dict.fromkeys(part for parts in lasting for part in parts):
        table.add_row(part, *(_gb(parts.get(part)) for parts in lasting))
    for turn in dict.fromkeys(turn for stage in stages for turn in stage.turns):
        table.add_section()
        parts = dict.fromkeys(part for stage in stages for part in stage.turns.get(turn, {}))
        for part in parts:
            table.add_row(f"{turn}: {part}", *(_gb(stage.turns.get(turn, {}).get(part)) for stage in stages))
    table.add_section()
    table.add_row("most at once", *(_peak(stage, plan.limit) for stage in stages))
    table.add_row("in the turn of", *(stage.largest_turn for stage in stages))
    return table


def _name(stage: StageMemory, stages: int) -> str:
    if stage.stage is None:
        return "teacher's own"
    return f"stage {stage.stage}" if stages > 1 else "each rank"


def _gb(size: float | None) -> str:
    return "" if not size else f"{size / 2**30:.2f}"


def _peak(stage: StageMemory, limit: float | None) -> str:
    shown = _gb(stage.peak)
    if limit is None:
        return shown
    return f"[red]{shown}[/red]" if stage.peak > limit else f"[green]{shown}[/green]"


def _matmuls(plan: Plan) -> Table:
    table = Table(title="matrix products of one step, all ranks together", title_justify="left")
    for name in ("part", "TFLOP", "share"):
        table.add_column(name, justify="left" if name == "part" else "right")
    total = sum(plan.flops.values())
    for part, flops in plan.flops.items():
        if flops:
            table.add_row(part, f"{flops / 1e12:,.3g}", f"{flops / total:.1%}")
    table.add_row("in all", f"{total / 1e12:,.3g}", "")
    return table


def _why_never(plan: Plan) -> str:
    first = plan.stages[0]
    engine = max((first.in_turn(turn) for turn in APART_FROM_TRAINING if turn in first.turns), default=0.0)
    if plan.limit is not None and engine > plan.limit:
        return (
            "nor does any layout: the rollout engine has a whole model on rank 0; lower rollout.batch_size "
            "or rollout.max_new_tokens, or take an engine outside of the job"
        )
    return f"nor does any layout of up to {LARGEST_WORLD} processes; lower training.micro_batch_size"


def _verdict(plan: Plan) -> str:
    if plan.limit is None:
        return "No GPU here to compare with; give --gpu or --memory-gb."
    limit = f"{plan.limit / 2**30:.1f} GB"
    if plan.fits:
        return f"[green]It fits into {limit}.[/green]"
    keys = f" {in_words(plan.remedies)} would do." if plan.remedies else ""
    if plan.would_fit is None:
        return f"[red]It does not fit into {limit}[/red]; {_why_never(plan)}.{keys}"
    processes = plan.would_fit.world_size
    return (
        f"[red]It does not fit into {limit}.[/red]{keys} This layout would, with {processes} processes: "
        f"{proposed_in_words(plan.would_fit, plan.work.layout)}."
    )
