"""Hub ids: the cache first, then one question without retrying, and nothing for a typo."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import tiny, tiny_hf, word_tokenizer
from huggingface_hub import constants

import interp
from interp.errors import ModelError
from interp.loading import hub

IDS = torch.tensor([[5, 6, 7]])


def online(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Have the Hub's client ask a port of this machine."""
    home = f"http://127.0.0.1:{port}"
    template = home + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "ENDPOINT", home)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A Hub that is out of order; what it was asked."""
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(f"{self.command} {self.path}")
            self.send_error(503)

        do_GET = do_HEAD

        def log_message(self, *_: object):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    online(monkeypatch, server.server_port)
    yield asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """GPT-2's folder in a cache, laid out as huggingface_hub keeps it."""
    commit = "0" * 40
    home = tmp_path / "models--gpt2"
    snapshot = home / "snapshots" / commit
    tiny_hf("gpt2").save_pretrained(snapshot)
    word_tokenizer().save_pretrained(snapshot)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    return snapshot


def test_the_hub_is_asked_once(answering: list[str]):
    with pytest.raises(ModelError, match=r"Hugging Face Hub \(HfHubHTTPError: .*503"):
        interp.load_model("owner/name")
    assert answering == ["HEAD /owner/name/resolve/main/config.json"]


def test_a_refused_connection_is_told_at_once(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        online(monkeypatch, free.getsockname()[1])
        start = time.monotonic()
        with pytest.raises(ModelError, match="could not be fetched: no connection"):
            interp.load_model("owner/name")
    assert time.monotonic() - start < 1.5


def test_a_network_that_does_not_answer_is_waited_for_once(monkeypatch):
    assert hub.TIMEOUT == 5
    monkeypatch.setattr(hub, "TIMEOUT", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        online(monkeypatch, silent.getsockname()[1])
        start = time.monotonic()
        with pytest.raises(ModelError, match="could not be fetched: no connection"):
            interp.load_model("owner/name")
    assert 0.4 < time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("smolm2-135m", "smollm2-135m"),
        ("gemma3-270m", "gemma-3-270m"),
        ("Tracr-hist", "tracr-hist"),
        ("two-hop-organisms", "two-hop-organism"),
    ],
)
def test_a_mistyped_name_of_ours_is_not_asked_for(typo: str, meant: str, answering: list[str]):
    with pytest.raises(ModelError, match=f"unknown model '{typo}'. Did you mean '{meant}'"):
        interp.load_model(typo)
    assert answering == []


def test_a_cached_model_loads_without_asking(cached: Path, answering: list[str]):
    model = interp.load_model("gpt2", device="cpu")
    torch.testing.assert_close(model.hf(IDS).logits, tiny("gpt2").hf(IDS).logits)
    assert answering == []


def test_a_half_cached_model_is_looked_for(cached: Path, answering: list[str]):
    (cached / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot load 'gpt2'"):
        interp.load_model("gpt2", device="cpu")
    assert answering == ["HEAD /gpt2/resolve/main/config.json"]


def test_a_damaged_cached_model_is_said_to_be_that(cached: Path, answering: list[str]):
    config = json.loads((cached / "config.json").read_text())
    (cached / "config.json").write_text(json.dumps(config | {"n_layer": 10**9}))
    with pytest.raises(ModelError, match="claims 1000000000 layers"):
        interp.load_model("gpt2", device="cpu")
    assert answering == []


def test_nobody_is_asked_whether_to_run_code_from_the_files(tmp_path: Path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "n")
    tiny_hf("llama").save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    config |= {"model_type": "own", "auto_map": own}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="must be a causal language model") as said:
        interp.load_model(str(tmp_path))
    assert asked == []
    assert "\n" not in str(said.value)
