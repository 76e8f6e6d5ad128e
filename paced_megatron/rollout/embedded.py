"""The embedded engine: transformers' generation inside this process, in fixed batches, with a KV cache."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging as transformers_logging

from paced_megatron.errors import UserError
from paced_megatron.models.weight_files import INDEX, WeightFiles
from paced_megatron.problems.tokenizer import load_tokenizer
from paced_megatron.rollout.checks import check_requests, end_ids
from paced_megatron.rollout.engine import Completion, Key, Request, Sampling


@dataclass(frozen=True)
class _Loaded:
    """A model, and what its folder says about token ids."""

    folder: Path
    model: Any
    eos_ids: tuple[int, ...]
    forbidden_ids: tuple[int, ...]  # rows of the head that stand for no token
    settings: dict[str, bytes]  # what the folder has beside its weights


class EmbeddedEngine:
    """A RolloutEngine that holds the model itself.

    It computes in float32 on the CPU, and on a GPU in the type that the folder's config.json names.

    All requests of a phase are cut into the same batches of `batch_size` every time, done or not, and a batch
    draws from a random state of its own. Floating-point sums depend on what shares a batch, so this is what
    lets a restart give the same tokens bit for bit.
    """

    def __init__(self, batch_size: int, device: str | torch.device = "cpu") -> None:
        self.weight_version = ""
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._loaded: _Loaded | None = None

    def load_weights(self, folder: Path, version: str) -> None:
        """Load a Hugging Face folder (config.json, safetensors, tokenizer); its weights are `version`. Where
        all but the weights is as in the folder before, they are copied into the model that is there.

        Raises UserError where it is no such folder, weights are missing or no end-of-sequence token is named.
        """
        folder, loaded = Path(folder), self._loaded
        self.close()  # before loading: two models need not fit
        if loaded is not None and loaded.settings == _settings(folder) and _copied(loaded.model, folder):
            loaded.model.to(self._device)
            self._loaded = replace(loaded, folder=folder)
        else:
            del loaded
            self._loaded = _load(folder, self._device)
        self.weight_version = version

    def check_weights(self, folder: Path) -> None:
        """Compare every weight with the folder's file.

        Raises UserError where one is another.
        """
        if self._loaded is None:
            raise RuntimeError("load_weights has to come before check_weights")
        files = WeightFiles(Path(folder))
        for name, held in self._loaded.model.named_parameters():
            if name in files.names() and not torch.equal(held.cpu(), files[name].to(held.dtype)):
                raise UserError(
                    f"the embedded engine says that it has the weights {self.weight_version!r} of {folder}, "
                    f"and its {name} is another: it draws from other weights"
                )

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, skip: Collection[Key] = ()
    ) -> Iterator[list[Completion]]:
        """Yield one batch of completions at a time; batches wholly in `skip` are passed over.

        Raises UserError, before anything is generated, for a prompt that is empty, has no room for the answer
        in the model's context, or holds an id that the model does not have.
        """
        if self._loaded is None:
            raise RuntimeError("load_weights has to come before generate")
        loaded = self._loaded
        check_requests(
            requests,
            sampling.max_new_tokens,
            rows=loaded.model.get_input_embeddings().num_embeddings,
            context=loaded.model.config.max_position_embeddings,
            model=loaded.folder,
        )
        starts = range(0, len(requests), self._batch_size)
        batches = [requests[start : start + self._batch_size] for start in starts]
        left = [batch for batch in batches if any(request.key not in skip for request in batch)]
        # A generator of its own, so that the checks above are made now and not at the first batch.
        return (self._generate_batch(batch, sampling) for batch in left)

    def sleep(self) -> None:
        """Keep the model in host memory alone, so that training has the device's."""
        if self._loaded is not None:
            self._loaded.model.to("cpu")

    def close(self) -> None:
        """Forget the model."""
        self._loaded = None
        self.weight_version = ""

    def _generate_batch(self, batch: Sequence[Request], sampling: Sampling) -> list[Completion]:
        if self._loaded is None:
            raise RuntimeError("the engine was closed while it generated")
        ids, mask = _left_padded([request.prompt_ids for request in batch], pad_id=self._loaded.eos_ids[0])
        seed = batch[0].seed
        with _seeded(self._device, seed):
            output = self._loaded.model.generate(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device),
                generation_config=_generation_config(sampling, self._loaded),
            )
        rows = output[:, ids.shape[1] :].tolist()
        return [
            Completion(request, *_cut(row, self._loaded.eos_ids), seed, self.weight_version)
            for request, row in zip(batch, rows, strict=True)
        ]


def _generation_config(sampling: Sampling, loaded: _Loaded) -> GenerationConfig:
    """Everything that decides what is drawn, written out.

    transformers fills whatever is None from the model's own generation config, and that from defaults such as
    top_k 50; `_load` has emptied the former, and what has a default of consequence is given here.
    """
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=sampling.temperature > 0,
        eos_token_id=list(loaded.eos_ids),
        pad_token_id=loaded.eos_ids[0],
        # Among the processors that come before top_k and top_p, so those count tokens that exist.
        suppress_tokens=list(loaded.forbidden_ids) or None,
        use_cache=True,
    )
    if sampling.temperature > 0:
        config.temperature = float(sampling.temperature)
        config.top_p = float(sampling.top_p)
        config.top_k = max(sampling.top_k, 0)  # 0 is transformers' "off"
    return config


def _left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both int64 [batch, longest prompt]; a prompt ends at the right edge."""
    ids = torch.full((len(prompts), max(map(len, prompts))), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt) :] = torch.tensor(prompt)
        mask[row, -len(prompt) :] = 1
    return ids, mask


def _cut(row: Sequence[int], eos_ids: Collection[int]) -> tuple[tuple[int, ...], str]:
    """The tokens up to and including the first end-of-sequence token, and the finish reason."""
    for position, token in enumerate(row):
        if token in eos_ids:
            return tuple(row[: position + 1]), "stop"
    return tuple(row), "length"


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Draw from `seed` inside, and leave the surrounding random state as it was.

    Only the device's own generator is seeded: torch.manual_seed would also reseed GPUs that training draws
    from.
    """
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        yield


def _load(folder: Path, device: torch.device) -> _Loaded:
    tokenizer = load_tokenizer(folder)
    model = _load_model(folder, device)
    token_ids = set(tokenizer.get_vocab().values())
    rows = model.get_output_embeddings().weight.shape[0]
    eos_ids = end_ids(folder, (model.generation_config, model.config, tokenizer), token_ids, rows)
    model.generation_config = GenerationConfig()  # the folder's own would fill in what we leave unset
    forbidden_ids = tuple(sorted(set(range(rows)) - token_ids))
    return _Loaded(folder, model, eos_ids, forbidden_ids, _settings(folder))


def _settings(folder: Path) -> dict[str, bytes]:
    """The content of a folder's files that say what the model is, and where a text ends."""
    return {path.name: path.read_bytes() for path in folder.glob("*.json") if path.name != INDEX}


@torch.no_grad()
def _copied(model: Any, folder: Path) -> bool:
    """Copy the folder's weights into a model of its kind; False, and nothing touched, where one has a weight
    that the other lacks (transformers renames some, as of fused experts)."""
    files, held = WeightFiles(folder), dict(model.named_parameters())
    if any(name not in files.names() or files.part_of(name).shape != held[name].shape for name in held):
        return False
    for name, parameter in held.items():
        parameter.copy_(files[name])
    return True


def _load_model(folder: Path, device: torch.device) -> Any:
    auto: Any = AutoModelForCausalLM  # its type doesn't know output_loading_info
    with _no_progress_bar():
        try:
            model, info = auto.from_pretrained(
                folder,
                dtype=torch.float32 if device.type == "cpu" else "auto",
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:  # transformers and safetensors raise a dozen kinds for a broken folder
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{folder}: its model cannot be loaded ({reason}); copy or export it anew"
            ) from error
    if info["missing_keys"]:  # transformers would go on with random numbers in their place
        missing = sorted(info["missing_keys"])
        raise UserError(f"{folder}: {len(missing)} weights are missing, as {missing[0]}; export it anew")
    return model.to(device).eval()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Our own line shows progress; transformers' bars would run through it."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
