"""Models by their name on the Hugging Face hub: `org/name` becomes a folder of the local cache.

What is in the cache is used as it is, without asking the network: a run that is started again has to find the
weights that it began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from paced_megatron.config import HUB_ID
from paced_megatron.errors import UserError
from paced_megatron.models.weight_files import INDEX, SINGLE, indexed

# Weights as safetensors, configuration, tokenizer. Pickles and code stay where they are, and so does what is
# in sub-folders (the same weights in other formats).
ALLOWED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
IGNORED = ("*/*", "consolidated*")
# One of them makes a tokenizer (problems/tokenizer.py, which imports transformers: too slow for here).
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def is_hub_id(text: str) -> bool:
    """Whether this could be `org/name` on the hub: two parts, no path."""
    return HUB_ID.fullmatch(text) is not None


def local_folder(path: Path) -> Path:
    """The folder of a model: `path` itself where there is one, else the hub's model of that name, fetched
    into the local cache (`$HF_HOME`) where it isn't there yet.

    Raises:
        UserError: the hub has no such model, wants a login for it, or can't be reached; with what to do.
    """
    if path.is_dir() or path.is_absolute() or not is_hub_id(str(path)):
        return path
    name = str(path)
    cached = cached_folder(name)
    if cached is not None and any((cached / file).is_file() for file in TOKENIZER_FILES):
        return cached  # weights alone are what transformers' AutoModel leaves there
    folder = _fetched(name)
    if not _is_whole(folder):  # without a network an interrupted download comes back as it is
        raise UserError(
            f"{name}: only a part of it is in the local cache ({folder}), and the Hugging Face hub can't be "
            f"reached for the rest, or has no safetensors of it; {_elsewhere(name)}"
        )
    return folder


def _elsewhere(name: str) -> str:
    return f"run `hf download {name}` where there is a network and give the folder's path instead"


def _is_whole(folder: Path) -> bool:
    """Whether config.json and every file of weights is there; an interrupted download leaves a part."""
    wanted = {"config.json", SINGLE}
    if (folder / INDEX).is_file():
        wanted = {"config.json", *indexed(folder / INDEX).values()}
    return all((folder / file).is_file() for file in wanted)


def cached_folder(name: str) -> Path | None:
    """The hub's model `name` where all of it is in the local cache; the network is not asked."""
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if _is_whole(folder) else None


def _fetched(name: str, allowed: Sequence[str] = ALLOWED) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(allowed), ignore_patterns=list(IGNORED)))
    except GatedRepoError:
        raise UserError(
            f"{name}: the Hugging Face hub wants its licence accepted; do that on "
            f"https://huggingface.co/{name}, then run `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{name}: neither a folder here nor a model on the Hugging Face hub (or one that needs `hf auth "
            "login`); correct the name"
        ) from None
    except HFValidationError as error:
        raise UserError(f"{name}: no such folder, and no name on the Hugging Face hub ({error})") from None
    except OfflineModeIsEnabled:
        raise UserError(
            f"{name}: no such folder, not in the local cache, and HF_HUB_OFFLINE forbids fetching it; "
            f"{_elsewhere(name)}"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{name}: no such folder, and it can't be fetched from the Hugging Face hub ({reason[0]}); "
            f"{_elsewhere(name)}"
        ) from None


def config_folder(path: Path) -> Path:
    """A folder with the model's config.json, for those who need no weights: as `local_folder`, but of a model
    on the hub no more than config.json is fetched.

    Raises:
        UserError: as `local_folder`.
    """
    if path.is_dir() or path.is_absolute() or not is_hub_id(str(path)):
        return path
    return _fetched(str(path), allowed=("config.json",))
