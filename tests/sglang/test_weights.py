"""Fresh weights into a real server: what is wrong with a folder is found before it is offered, and what is
wrong with a server after; the server lives, and doesn't get the version's name."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from paced_megatron.errors import UserError
from paced_megatron.rollout.sglang import probe, weights
from paced_megatron.rollout.sglang.client import ServerClient, ServerError
from paced_megatron.rollout.sglang.weights import check_server, sync_weights
from paced_megatron.runtime.launch import free_port
from sglang_server import STARTUP_S
from tiny_models import make_tiny_qwen3

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(STARTUP_S + 120)]

MODEL = "model.safetensors"
TEXT = torch.randint(0, 256, (40,), generator=torch.Generator().manual_seed(30)).tolist()


class Noting(ServerClient):
    """Notes what is posted, and may change it on the way: a server that lies, or sees other disks."""

    def __init__(self, url: str, change: Callable[[str, dict[str, Any]], Any] | None = None) -> None:
        super().__init__(url)
        self.posted: list[str] = []
        self._change = change

    def post(self, path: str, body: Any, timeout_s: float | None = None, *, tries: int = 4) -> Any:
        self.posted.append(path)
        answer = self._change(path, dict(body)) if self._change else None
        return super().post(path, body, timeout_s, tries=tries) if answer is None else answer


@pytest.fixture(scope="module")
def second(tiny_server, tmp_path_factory) -> Path:
    """Other weights of the same shapes."""
    return make_tiny_qwen3(tmp_path_factory.mktemp("weights") / "second", seed=32)


@pytest.fixture
def client(tiny_server) -> Iterator[Noting]:
    """A client of a server that has its own weights, and gets them back."""
    noting = Noting(tiny_server.url)
    sync_weights([noting], tiny_server.folder, "default")
    noting.posted.clear()
    yield noting
    sync_weights([noting], tiny_server.folder, "default")
    noting.close()


def changed(source: Path, out: Path, **tensors: torch.Tensor | None) -> Path:
    """A copy of a folder with other tensors; None takes one out."""
    if out != source:
        shutil.copytree(source, out, dirs_exist_ok=True)
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    whole = load_file(source / MODEL) | named
    save_file({name: tensor for name, tensor in whole.items() if tensor is not None}, out / MODEL)
    return out


def version(client: ServerClient) -> str:
    return client.get("/model_info")["weight_version"]


def check_text(client: ServerClient, folder: Path) -> None:
    """The server's log-probabilities of a text are transformers' on the folder, loaded in its own way."""
    body = {"input_ids": TEXT, "sampling_params": {"max_new_tokens": 1}, "return_logprob": True}
    entries = client.post("/generate", body | {"logprob_start_len": 0})["meta_info"]["input_token_logprobs"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([TEXT])).logits[0, :-1]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(TEXT[1:])[:, None])[:, 0]
    assert (torch.tensor([entry[0] for entry in entries[1:]]) - expected).abs().max() <= 1e-4


def test_a_server_that_was_given_weights_has_them_and_their_name(client, second, tiny_server):
    check_text(client, tiny_server.folder)
    sync_weights([client], second, "7")
    assert version(client) == "7"
    check_text(client, second)
    check_server(client, second, "7")
    with pytest.raises(ServerError, match=r"calls its weights '7', not '8'"):
        check_server(client, second, "8")


def truncate(folder: Path) -> None:
    (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:-100])


def add_file(folder: Path) -> None:
    save_file({"model.norm.weight": torch.ones(48)}, folder / "model-00002-of-00002.safetensors")


def other_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing tensor": (
        lambda folder: changed(folder, folder, model__layers__1__mlp__up_proj__weight=None),
        r"tensor model\.layers\.1\.mlp\.up_proj\.weight is missing",
    ),
    "wrong shape": (
        lambda folder: changed(folder, folder, model__norm__weight=torch.ones(50)),
        r"tensor model\.norm\.weight has shape \[50\], but config\.json says \[48\]",
    ),
    "truncated": (truncate, r"model\.safetensors: can't be read.*truncated"),
    "one file too many": (add_file, r"model-00002-of-00002\.safetensors: not one of the model's files"),
    "another config": (other_config, r"tensor .*_proj\.weight has shape"),
    "no numbers": (
        lambda folder: changed(folder, folder, model__norm__weight=torch.full((48,), torch.nan)),
        "did training diverge",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_not_offered_and_the_server_lives_with_its_weights(
    client, second, tiny_server, tmp_path, damage
):
    spoil, message = DAMAGES[damage]
    folder = tmp_path / "damaged"
    shutil.copytree(second, folder)
    spoil(folder)
    with pytest.raises(UserError, match=message):
        sync_weights([client], folder, "7")
    assert client.posted == []
    check_server(client, tiny_server.folder, "default")
    check_text(client, tiny_server.folder)


def test_whichever_tensor_was_not_taken_the_server_is_found_out(client, second, tiny_server, tmp_path):
    names = [name for name in load_file(second / MODEL) if "layers" not in name or ".layers.1." in name]
    assert len(names) == 11 + 3
    for name in names:
        mixed = changed(second, tmp_path / "mixed", **{name.replace(".", "__"): None})
        body = {"model_path": str(mixed), "weight_version": "7"}
        assert client.post("/update_weights_from_disk", body)["success"]  # without a word
        with pytest.raises(ServerError, match="its weights, or its cache, are others"):
            check_server(client, second, "7")
        body = {"model_path": str(tiny_server.folder), "weight_version": "default"}
        assert client.post("/update_weights_from_disk", body)["success"]


def test_a_server_whose_weights_are_no_numbers_is_found_out_and_can_be_given_others(client, second, tmp_path):
    broken = changed(second, tmp_path / "broken", model__norm__weight=torch.full((48,), torch.nan))
    body = {"model_path": str(broken), "weight_version": "7"}
    assert client.post("/update_weights_from_disk", body)["success"]
    with pytest.raises(ServerError, match="its weights, or its cache, are others"):
        check_server(client, second, "7")
    sync_weights([client], second, "8")
    check_text(client, second)


def test_weights_of_another_seed_under_the_right_name_are_found_out(client, second, tiny_server):
    sync_weights([client], second, "7")
    with pytest.raises(ServerError, match="its weights, or its cache, are others"):
        check_server(client, tiny_server.folder, "7")


def test_a_cache_that_is_older_than_the_weights_is_found_out(client, second):
    body = {"model_path": str(second), "weight_version": "7", "flush_cache": False}
    assert client.post("/update_weights_from_disk", body)["success"]
    with pytest.raises(ServerError, match="its weights, or its cache, are others"):
        check_server(client, second, "7")
    assert httpx.post(client.url + "/flush_cache", trust_env=False).status_code == 200
    check_server(client, second, "7")


def takes_nothing(client: ServerClient) -> Callable[[str, dict[str, Any]], Any]:
    """A server that says yes and keeps what it has."""

    def change(path: str, body: dict[str, Any]) -> Any:
        if path != "/update_weights_from_disk":
            return None
        client.post("/update_weight_version", {"new_version": body["weight_version"]})
        return {"success": True}

    return change


@pytest.mark.parametrize(
    ("tolerance", "message"),
    [(1e-4, "its weights, or its cache, are others"), (1e3, "answers as before, to the last bit")],
)
def test_a_server_that_kept_its_weights_does_not_get_the_name_however_rough_its_arithmetic(
    client, second, monkeypatch, tolerance, message
):
    monkeypatch.setitem(probe.TOLERANCES, "float32", tolerance)  # as that of bfloat16, which hides a step
    liar = Noting(client.url, takes_nothing(client))
    with pytest.raises(ServerError, match=message):
        sync_weights([liar], second, "7")
    assert version(client) == "7" + weights.UNCHECKED


def test_a_folder_that_the_server_can_t_read_is_the_user_s_affair(client, second, tiny_server):
    def elsewhere(path: str, body: dict[str, Any]) -> Any:
        if path == "/update_weights_from_disk":
            return client.post(path, body | {"model_path": "/nowhere"})
        return None

    with pytest.raises(UserError, match=r"does the server see .*second under the same path"):
        sync_weights([Noting(client.url, elsewhere)], second, "7")
    check_server(client, tiny_server.folder, "default")


def test_a_server_that_is_at_something_is_asked_again_until_it_is_done(client, second):
    """A long request of somebody else's; the server takes the weights, keeps its cache and says 400."""
    body = {"input_ids": TEXT, "sampling_params": {"max_new_tokens": 400, "ignore_eos": True}}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ServerClient(client.url).post, "/generate", body)
        time.sleep(0.2)
        client.post("/pause_generation", {"mode": "in_place"})  # or the server would wait for it by itself
        going_on = threading.Timer(1.0, lambda: ServerClient(client.url).post("/continue_generation", {}))
        going_on.start()
        try:
            weights._offer(client, second, "7")
        finally:
            going_on.join()
        running.result()
    assert client.posted.count("/update_weights_from_disk") > 1
    check_server(client, second, "7")


def test_a_server_that_is_gone_is_named_and_the_others_have_the_weights(client, second):
    gone = ServerClient(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ServerError, match=gone.url):
        sync_weights([gone, client], second, "7")
    check_server(client, second, "7")
