"""Break the package on purpose, and see the named test fail: the tests that guard the loop can fail, and do.

Each mutant is one edit of the source, applied to a copy of the repository; then the test that has to notice
is run there, in a process of its own. The unmutated copy passes the same tests first. A time-out or an error
before the test's own assertion doesn't count as noticed.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from mutants.warm import run_pytest

ROOT = Path(__file__).resolve().parents[2]
GRADIENT = "tests/parallel/test_gradient.py::test_gradient_at_tp1_and_tp2_is_that_of_transformers_in_float64"

FUSED, SPECIAL = "tests/divergence/test_fused.py", "tests/divergence/test_special.py"
REFERENCE = "tests/divergence/test_reference.py"
CONFORMS = f"{FUSED}::test_value_by_products_and_gradients_equal_the_reference"
OTHER_GROUPS = (
    f"{FUSED}::test_a_group_of_ranks_1_and_3_is_right_while_ranks_0_and_2_run_another_batch[forward_kl]"
)
PARITY = (
    "tests/parallel/test_layouts.py::test_the_gradient_of_every_parameter_is_that_of_transformers_in_float64"
)
LOGITS = "tests/models/test_logits.py::test_logits_on_one_process_are_those_of_transformers"


@dataclass(frozen=True)
class Mutant:
    """One edit, and the test that fails because of it."""

    name: str
    file: str
    old: str
    new: str
    caught_by: str


MUTANTS = [
    Mutant(
        "the mask is shifted by one token",
        "paced_megatron/training/batches.py",
        "first = start + len(prompt) - 1",
        "first = start + len(prompt) - 2",
        "tests/training/test_batches.py"
        "::test_positions_are_those_before_each_response_token_in_the_flattened_hidden_states",
    ),
    Mutant(
        "the student's hidden states are off by one",
        "paced_megatron/training/step.py",
        "at_positions(output, item.micro_batch.student)",
        "at_positions(output, item.micro_batch.student).roll(1, 0)",
        f"{GRADIENT}[1.0-forward_kl]",
    ),
    Mutant(
        "weights are ignored when examples are made",
        "paced_megatron/training/examples.py",
        "weight=weights[response.problem_id]",
        "weight=1.0",
        "tests/training/test_examples.py::test_an_example_carries_the_weight_of_its_problem_and_both_prompts",
    ),
    Mutant(
        "weights are ignored in the loss",
        "paced_megatron/training/batches.py",
        "[example.weight / (global_batch_size * len(example.response))",
        "[1.0 / (global_batch_size * len(example.response))",
        "tests/training/test_batches.py"
        "::test_a_mean_over_problems_divides_by_the_configured_number_and_by_the_length",
    ),
    Mutant(
        "the hidden gradient is not reduced over the vocabulary's ranks",
        "paced_megatron/divergence/vocabulary.py",
        "dist.all_reduce(gradient, group=self.group)",
        "pass",
        f"{GRADIENT}[1.0-forward_kl]",
    ),
    Mutant(
        "a KV group's key and value are swapped",
        "paced_megatron/models/mapping.py",
        "torch.cat([query, key, value], dim=1)",
        "torch.cat([query, value, key], dim=1)",
        "tests/models/test_mapping.py::test_each_rank_holds_whole_groups_its_queries_then_key_then_value",
    ),
    Mutant(
        "KV groups are put in the opposite order",
        "paced_megatron/models/mapping.py",
        "torch.cat([query, key, value], dim=1).flatten(0, 2)",
        "torch.cat([query, key, value], dim=1).flip(0).flatten(0, 2)",
        "tests/models/test_folder.py"
        "::test_logits_are_those_of_transformers_and_the_export_is_the_import[1-False]",
    ),
    Mutant(
        "the loss is divided by the micro-batch's own size",
        "paced_megatron/training/batches.py",
        "_collate(cut, batching, shape) for cut in cuts",
        "_collate([(e, c / len(cut)) for e, c in cut], batching, shape) for cut in cuts",
        "tests/parallel/test_gradient.py"
        "::test_7_another_micro_batch_split_or_data_parallel_size_gives_the_same_gradient",
    ),
    Mutant(
        "tied embeddings on two pipeline stages have a gradient each",
        "paced_megatron/training/student.py",
        "finalize_model_grads(model, None, **groups)",
        "[chunk.finish_grad_sync() for chunk in model]",
        f"{PARITY}[PP-2-tied]",
    ),
    Mutant(
        "the gradient of gathered tokens is summed over ranks that have it whole",
        "paced_megatron/training/forward.py",
        "tensor_parallel_output_grad=False",
        "tensor_parallel_output_grad=True",
        f"{PARITY}[TP-2-SP-packed]",
    ),
    Mutant(
        "token weights are made of one replica's numbers",
        "paced_megatron/training/token_pass.py",
        "for group in (student.groups.dp, student.groups.pp):",
        "for group in (student.groups.pp,):",
        "tests/parallel/test_token_weights.py"
        "::test_the_gradient_is_that_of_transformers_with_the_weights_worked_out_by_hand[DP-2-overlapped]",
    ),
    Mutant(
        "nobody waits for the head to be gathered",
        "paced_megatron/training/head.py",
        "hook(chunk.output_layer, ())",
        "pass",
        "tests/parallel/test_layouts.py"
        "::test_ten_plain_steps_end_at_the_weights_and_gradient_of_one_process_and_begin_with_its_norm[DP-2-overlapped]",
    ),
    Mutant(
        "the hidden gradient is multiplied by the number of ranks",
        "paced_megatron/divergence/vocabulary.py",
        "dist.all_reduce(gradient, group=self.group)",
        "dist.all_reduce(gradient.mul_(self.world_size), group=self.group)",
        OTHER_GROUPS,
    ),
    Mutant(
        "sums are not brought to a block's higher maximum",
        "paced_megatron/divergence/kernels/measure.py",
        "return scale * sum_exp + e,",
        "return sum_exp + e,",
        "tests/divergence/test_kernels.py"
        "::test_sums_values_and_gradient_are_those_of_torch[forward_kl-None-2999]",
    ),
    Mutant(
        "with tensor cores the gradient lacks the temperature",
        "paced_megatron/divergence/walk.py",
        "[block] / self.products.temperature",
        "[block]",
        "tests/divergence/test_tensor_cores.py"
        "::test_the_gradient_of_bf16_models_is_right_to_its_rounding_at_any_kl[forward_kl-None-1.0]",
    ),
    Mutant(
        "the next chunk's logits overwrite this one's",
        "paced_megatron/divergence/walk.py",
        "logits[number % 2]",
        "logits[0]",
        "tests/divergence/test_pipelined.py"
        "::test_numbers_and_gradients_are_those_of_the_plain_walk_to_the_last_digit[2]",
    ),
    Mutant(
        "the maxima are not shared between shards",
        "paced_megatron/divergence/statistics.py",
        "(of[0] - of[0].amax(0) for of in (student, teacher))",
        "(of[0] - of[0] for of in (student, teacher))",
        OTHER_GROUPS,
    ),
    Mutant(
        "the student's logits are rounded to bf16",
        "paced_megatron/divergence/statistics.py",
        "    student_max, teacher_max = _subtract_max",
        "    student_logits.copy_(student_logits.bfloat16())\n    student_max, teacher_max = _subtract_max",
        f"{CONFORMS}[forward_kl-None-bfloat16-0.0066-1]",
    ),
    Mutant(
        "padding of the vocabulary is left in",
        "paced_megatron/divergence/vocabulary.py",
        "min(max(vocab_size - start, 0), rows)",
        "rows",
        f"{CONFORMS}[forward_kl-None-float64-1.0-1]",
    ),
    Mutant(
        "teacher and student are swapped",
        "paced_megatron/divergence/table.py",
        '"forward_kl": Divergence(_forward_kl)',
        '"forward_kl": Divergence(_reverse_kl)',
        f"{CONFORMS}[forward_kl-None-float64-1.0-1]",
    ),
    Mutant(
        "the temperature is forgotten in the hidden gradient",
        "paced_megatron/divergence/matmul.py",
        "return hidden.div_(self.divisor)",
        "return hidden",
        f"{CONFORMS}[forward_kl-None-float64-1.0-1]",
    ),
    Mutant(
        "the weight is squared in the gradient",
        "paced_megatron/divergence/fused.py",
        "Gradients.of(scaled, ",
        "Gradients.of(scaled.square(), ",
        f"{SPECIAL}::test_a_gradient_from_upstream_multiplies_both_gradients[1]",
    ),
    Mutant(
        "a chunk overwrites the head's gradient of those before it",
        "paced_megatron/divergence/walk.py",
        "first = chunk.tokens.start == 0",
        "first = True",
        f"{CONFORMS}[forward_kl-None-float64-1.0-1]",
    ),
    Mutant(
        "a mixture's exponent is not clamped",
        "paced_megatron/divergence/mixtures.py",
        "log_ratio.clamp_(max=LARGEST).expm1_()",
        "log_ratio.expm1_()",
        f"{SPECIAL}::test_logits_of_ten_thousand_are_finite_and_right[1]",
    ),
    Mutant(
        "beta of jsd is on the student",
        "paced_megatron/divergence/mixtures.py",
        "value = beta * of_teacher + (1 - beta) * of_student",
        "value = (1 - beta) * of_teacher + beta * of_student",
        f"{REFERENCE}::test_jsd_goes_to_the_forward_kl_at_beta_0_and_to_the_reverse_kl_at_beta_1",
    ),
    Mutant(
        "head and tail of akl are swapped",
        "paced_megatron/divergence/adaptive.py",
        "teacher > threshold.unsqueeze(-1)",
        "teacher <= threshold.unsqueeze(-1)",
        f"{REFERENCE}"
        "::test_akl_parts_head_and_tail_by_the_official_rule_and_keeps_ties_together[fused_share]",
    ),
    Mutant(
        "llama's stretched rope is left out",
        "paced_megatron/models/gpt.py",
        "if shape.rope_scaling is not None:",
        "if False:",
        f"{LOGITS}[False-llama]",
    ),
    Mutant(
        "the norms of query and key are swapped",
        "paced_megatron/models/mapping.py",
        """        {"self_attn.q_norm.weight": "head"},
        "replicated",
        where="qk_layernorm",
    ),
    _Row(
        "self_attention.k_layernorm.weight",
        {"self_attn.k_norm.weight": "head"},""",
        """        {"self_attn.k_norm.weight": "head"},
        "replicated",
        where="qk_layernorm",
    ),
    _Row(
        "self_attention.k_layernorm.weight",
        {"self_attn.q_norm.weight": "head"},""",
        f"{LOGITS}[False-qwen3]",
    ),
    Mutant(
        "gate and up are swapped",
        "paced_megatron/models/mapping.py",
        '{"mlp.gate_proj.weight": "ffn hidden", "mlp.up_proj.weight": "ffn hidden"}',
        '{"mlp.up_proj.weight": "ffn hidden", "mlp.gate_proj.weight": "ffn hidden"}',
        f"{LOGITS}[False-llama]",
    ),
    Mutant(
        "the teacher's hidden states are handed over in another order",
        "paced_megatron/training/teacher_handover.py",
        "made[parcel.index].contiguous()",
        "made[parcel.index].flip(0).contiguous()",
        "tests/parallel/test_teacher_layouts.py"
        "::test_the_gradient_of_every_parameter_is_that_of_transformers_in_float64"
        "[tied-teacher-PP-2-student-TP-2-DP-2]",
    ),
    Mutant(
        "numbers from the teacher's cache are not checked",
        "paced_megatron/training/teacher_cache.py",
        "return states if metadata == expected else None",
        "return states",
        "tests/training/test_teacher_cache.py::test_another_texts_file_under_its_name_is_noticed",
    ),
    Mutant(
        "query heads are dealt to the KV groups in turn",
        "paced_megatron/models/mapping.py",
        "_rows(tensor, cut, rank).unflatten(0, (groups, -1, dim))",
        "_rows(tensor, cut, rank).unflatten(0, (-1, groups, dim)).transpose(0, 1)",
        f"{LOGITS}[False-llama]",
    ),
    Mutant(
        "the bias of query, key and value is dropped",
        "paced_megatron/models/folder.py",
        "parameter.copy_(part)",
        'parameter.copy_(torch.zeros_like(part) if name.endswith("bias") else part)',
        f"{LOGITS}[False-qwen2]",
    ),
    Mutant(
        "a tied head is a parameter of its own",
        "paced_megatron/models/gpt.py",
        "share_embeddings_and_output_weights=shape.tied",
        "share_embeddings_and_output_weights=False",
        "tests/models/test_logits.py"
        "::test_a_tied_head_is_the_embedding_itself_and_an_untied_one_is_not[qwen3]",
    ),
    Mutant(
        "every pipeline stage takes its layers for the model's first",
        "paced_megatron/models/gpt.py",
        "{layer.layer_number - 1}",
        "{here}",
        "tests/models/test_real_sizes.py"
        "::test_every_megatron_parameter_of_every_stage_is_filled_and_none_twice[Qwen2.5-0.5B-Instruct]",
    ),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The package, its tests and their settings, apart from the repository."""
    folder = tmp_path_factory.mktemp("mutants")
    for name in ("paced_megatron", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run_tests(folder: Path, tests: list[str]) -> tuple[int | None, str]:
    """(pytest's exit code, None after 240 s; its output). The copy's package comes before the installed
    one."""
    return run_pytest(folder, ["-x", "-q", "-W", "ignore", "-p", "no:cacheprovider", *tests], timeout=240)


def test_the_unmutated_copy_passes_all_of_these_tests(copy):
    code, output = run_tests(copy, sorted({mutant.caught_by for mutant in MUTANTS}))
    assert code == 0, output


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_the_mutant_is_caught_by_the_test_that_is_named_for_it(copy, mutant):
    file = copy / mutant.file
    source = file.read_text()
    assert source.count(mutant.old) == 1, f"{mutant.file} has changed: mend the mutant {mutant.name!r}"
    file.write_text(source.replace(mutant.old, mutant.new))
    try:
        code, output = run_tests(copy, [mutant.caught_by])
    finally:
        file.write_text(source)
    assert code == 1, output
    assert re.search(rf"^FAILED {re.escape(mutant.caught_by)}", output, re.M), output
    assert "AssertionError" in output or re.search(r"^E +assert ", output, re.M), output
    assert "not done after" not in output  # the pool's words for a time-out
