"""Run as `python engine_job.py FOLDER OUT`, with the stand-in for Transformer Engine on the path: the same
model from both specs, compared with each other and with transformers; prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from paced_megatron.models.families import model_shape
from paced_megatron.models.folder import hugging_face_tensors, load_weights, save_folder
from paced_megatron.models.gpt import HiddenStatesModel, build_chunks, parameters_by_name
from paced_megatron.models.packed import packed_texts
from paced_megatron.runtime.cpu import CPU, megatron_on_cpu
from paced_megatron.runtime.world import parallel_groups
from paced_megatron.training.checkpoints.blocks import STUDENT, model_entries

SPECS = ("local", "transformer_engine")
LENGTHS = (7, 1, 12, 4)


def hidden(model: HiddenStatesModel, tokens: torch.Tensor, lengths: tuple[int, ...] = ()) -> torch.Tensor:
    """[b, s, H]; with lengths the row's texts are packed ones."""
    packed = None
    if lengths:
        cuts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        packed = packed_texts(cuts, CPU, model.config)
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    return model(tokens, positions, None, packed_seq_params=packed).transpose(0, 1)


def largest(pairs) -> float:
    return max((ours - theirs).abs().max().item() for ours, theirs in pairs)


def gradient(model: HiddenStatesModel, tokens: torch.Tensor) -> torch.Tensor:
    (hidden(model, tokens, LENGTHS) @ model.head.t()).logsumexp(-1).sum().backward()
    return hidden(model, tokens, LENGTHS)


def main(folder: Path, out: Path) -> dict[str, object]:
    torch.manual_seed(31)
    tokens = torch.randint(0, 301, (2, 24))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    found: dict[str, object] = {}
    with megatron_on_cpu():
        groups, shape = parallel_groups(1, seed=1), model_shape(folder)
        models = {}
        for spec in SPECS:
            # float32 beside transformers, float64 beside each other.
            for dtype in (torch.float32, torch.float64):
                (model,) = build_chunks(shape, groups, dtype, transformer_impl=spec)
                load_weights(model, shape, folder, groups)
                models[spec, dtype] = model
        truth = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            theirs = truth(tokens).logits
            for spec in SPECS:
                model = models[spec, torch.float32]
                found[f"{spec}: logits"] = largest([(hidden(model, tokens) @ model.head.t(), theirs)])
        of_spec = {spec: models[spec, torch.float64] for spec in SPECS}
        row, gradients = tokens[:1], {}
        packed = {spec: gradient(model, row) for spec, model in of_spec.items()}
        found["packed"] = largest([(packed["local"], packed["transformer_engine"])])
        texts = [hidden(of_spec["local"], text) for text in row.split(LENGTHS, dim=1)]
        found["packed beside one by one"] = largest([(packed["local"], torch.cat(texts, dim=1))])
        for spec, model in of_spec.items():
            grads = {name: parameter.grad for name, parameter in parameters_by_name(model).items()}
            gradients[spec] = dict(hugging_face_tensors(grads, shape, groups))
        found["gradients"] = largest(
            (gradients["local"][name], gradients["transformer_engine"][name]) for name in gradients["local"]
        )
        found["gradient's size"] = max(grad.abs().max().item() for grad in gradients["local"].values())
        found["names"] = {
            spec: sorted(name for name, _ in m.named_parameters()) for spec, m in of_spec.items()
        }
        found["by name"] = {spec: sorted(parameters_by_name(model)) for spec, model in of_spec.items()}
        keys, cut = {}, {}
        for spec, model in of_spec.items():
            entries, _ = model_entries(STUDENT, [model])
            keys[spec] = sorted(part.key for parts in entries.values() for part in parts)
            named = parameters_by_name(model).items()
            cut[spec] = sorted(
                (name, weight.partition_dim)
                for name, weight in named
                if getattr(weight, "tensor_model_parallel", False)
            )
        found["checkpoint keys"], found["cut"] = keys, cut
        save_folder(
            models["transformer_engine", torch.float32], shape, groups, source=folder, out=out, dtype=None
        )
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
