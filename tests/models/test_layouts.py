"""Every family at every layout: the export is the import bit by bit, and the logits are transformers'.

With PACED_FULL_CONVERTER=1 every dtype of every model, and layouts of up to eight processes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from models.family_models import OWN, TEXT_LENGTH, Variant, make_model
from models.layout_job import run_job
from models.layout_ranks import At, Work, gradients, load_compute_save
from paced_megatron.models.weight_files import WeightFiles
from pool import MAX_WORLD_SIZE

pytestmark = pytest.mark.parallel

FULL = os.environ.get("PACED_FULL_CONVERTER") == "1"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Each layout reads what the one before it wrote, so that models go in and out at different layouts.
LAYOUTS = [At(4), At(1, 2, 2), At(2, 2), At(1), At(2), At(1, 2)]
if FULL:  # the last two have a job of eight processes each
    LAYOUTS += [At(2, 2, 2), At(1, 4), At(4, 2), At(4, 2, 2)]

VARIANTS = [
    Variant(family, tied, dtype, sharded=(number + tied + (dtype == torch.bfloat16)) % 2 == 0)
    for number, family in enumerate(sorted(OWN))
    for tied in (False, True)
    for dtype in (DTYPES if FULL else (torch.float32, DTYPES[1 + (number + tied) % 2]))
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[Variant, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return {
        variant: make_model(folder / variant.name, variant, seed=11 + seed)
        for seed, variant in enumerate(VARIANTS)
    }


def texts() -> Tensor:
    return torch.randint(0, 301, (2, TEXT_LENGTH), generator=torch.Generator().manual_seed(6))


class Relay:
    """The models' way through the layouts, each run when it is first asked for and only once."""

    def __init__(self, pool, sources: dict[Variant, Path], folder: Path) -> None:
        self.pool, self.sources, self.folder = pool, sources, folder
        self.logits: dict[At, dict[Variant, Tensor]] = {}

    def out(self, at: At, variant: Variant) -> Path:
        return self.folder / str(at) / variant.name

    def run(self, at: At) -> dict[Variant, Tensor]:
        """The logits at this layout, of the models in float32; the exports are in `out`."""
        if at in self.logits:
            return self.logits[at]
        before = LAYOUTS.index(at) - 1
        if before >= 0:
            self.run(LAYOUTS[before])
        (self.folder / str(at)).mkdir()
        works = [
            Work(
                source=self.out(LAYOUTS[before], variant) if before >= 0 else source,
                out=self.out(at, variant),
                dtype=variant.dtype,
                tokens=texts() if variant.dtype == torch.float32 else None,
            )
            for variant, source in self.sources.items()
        ]
        if at.world_size > MAX_WORLD_SIZE:
            ranks = run_job(self.folder / f"{at}-job", at, works)
        else:
            ranks = self.pool.run(load_compute_save, at.world_size, at, works, timeout=240)
        self.logits[at] = {
            variant: torch.cat([rank[index] for rank in ranks if rank[index] is not None], dim=-1)[..., :301]
            for index, variant in enumerate(self.sources)
            if works[index].tokens is not None
        }
        return self.logits[at]


@pytest.fixture(scope="module")
def relay(pool, sources, tmp_path_factory) -> Relay:
    return Relay(pool, sources, tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="module")
def truths(sources) -> dict[Variant, Tensor]:
    """transformers' logits in float32."""
    found = {}
    for variant, source in sources.items():
        if variant.dtype == torch.float32:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
            with torch.no_grad():
                found[variant] = model(texts()).logits
    return found


@pytest.mark.parametrize("at", LAYOUTS, ids=str)
def test_the_export_is_the_import_bit_by_bit(relay, sources, at):
    relay.run(at)
    for variant, source in sources.items():
        before, after = WeightFiles(source), WeightFiles(relay.out(at, variant))
        assert before.names() == after.names(), variant.name
        for name in before.names():
            assert after[name].dtype == variant.dtype
            assert torch.equal(before[name], after[name]), f"{variant.name}: {name}"


@pytest.mark.parametrize("at", LAYOUTS, ids=str)
def test_the_logits_are_those_of_transformers(relay, truths, at):
    for variant, logits in relay.run(at).items():
        truth = truths[variant]
        assert truth.std() > 0.5, variant.name  # the model does tell tokens apart
        assert (logits - truth).abs().max() <= 1e-4, variant.name


@pytest.mark.parametrize("at", [At(1, 2, 2), At(1, 2)], ids=str)
def test_gradients_from_a_pipeline_are_those_of_transformers(pool, sources, at):
    variant = next(v for v in VARIANTS if v.family == "llama" and not v.tied and v.dtype == torch.float32)
    tokens = torch.cat([texts(), texts().flip(0, 1)])
    ours, *_ = pool.run(gradients, at.world_size, at, sources[variant], tokens)
    model = AutoModelForCausalLM.from_pretrained(sources[variant], dtype=torch.float32)
    model(tokens).logits.logsumexp(-1).sum().backward()
    theirs = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, truth in theirs.items():
        assert (ours[name] - truth).norm() <= 1e-4 * truth.norm(), name


def test_transformers_opens_an_export_and_misses_nothing(relay, sources, truths):
    at = At(2, 2)
    relay.run(at)
    for variant, truth in truths.items():
        model, told = AutoModelForCausalLM.from_pretrained(
            relay.out(at, variant), dtype=torch.float32, output_loading_info=True
        )
        assert not any(told.values()), (variant.name, told)
        with torch.no_grad():
            assert torch.equal(model(texts()).logits, truth), variant.name
