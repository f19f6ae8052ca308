"""GGUF files are de-quantised once and kept; a conversion is never another file's, or damaged."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from gguf_examples import tiny_gguf

import interp
from interp.errors import ModelError
from interp.loading import builtin, load


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """A GGUF file of one's own, older than its conversion, and an empty cache."""
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    path = tiny_gguf(tmp_path / "mine.gguf")
    time.sleep(0.15)
    return path


@pytest.fixture
def conversions(monkeypatch) -> list[str]:
    """The GGUF files that were de-quantised."""
    read, plain = [], load._from_pretrained

    def counted(source, ref, how, gguf=None, local_files_only=False):
        read.extend([] if gguf is None else [gguf["gguf_file"]])
        return plain(source, ref, how, gguf, local_files_only)

    monkeypatch.setattr(load, "_from_pretrained", counted)
    return read


def directly(file: Path, dtype: torch.dtype = torch.float32):
    read = {"gguf_file": file.name, "dtype": dtype}
    read["quantization_config"] = transformers.GgufConfig(dequantize=True)
    return (
        transformers.AutoModelForCausalLM.from_pretrained(file.parent, **read),
        transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name),
    )


def cached() -> Path:
    (folder,) = (builtin.cache_dir() / "converted").glob("[!.]*/")
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gguf_file_is_converted_once(mine, conversions, capsys, dtype: str):
    loaded = [interp.load_model(mine, device="cpu", dtype=dtype) for _ in range(3)]
    assert conversions == ["mine.gguf"]
    said = [line for line in capsys.readouterr().err.splitlines() if "mine.gguf" in line]
    once = f"converting mine.gguf to safetensors once, kept in {cached()}"
    assert said == [once, *[f"loading mine.gguf from {cached()} (0.0 GB)"] * 3]
    (row,) = builtin.conversions()
    assert (row["file"], row["folder"]) == (str(mine), str(cached()))
    assert row["gb"] == sum(file.stat().st_size for file in cached().iterdir()) / 1e9
    plain = interp.load_model(directly(mine, load.DTYPES[dtype]))
    for model in loaded:
        assert model.name == str(mine)
        assert model.weights_hash == plain.weights_hash
        assert model.config_hash() == plain.config_hash()
        assert model.tokenizer_hash() == plain.tokenizer_hash()


def test_a_changed_gguf_file_is_converted_anew(mine, conversions):
    """Also where size and times are put back, and where it comes back to what it was."""
    before, data = mine.stat(), mine.read_bytes()
    first = interp.load_model(mine, device="cpu").weights_hash
    changed = bytearray(data)
    changed[-2] ^= 0x40
    mine.write_bytes(changed)
    os.utime(mine, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (mine.stat().st_size, mine.stat().st_mtime_ns) == (len(data), before.st_mtime_ns)
    other = interp.load_model(mine, device="cpu").weights_hash
    assert other != first
    assert other == interp.load_model(directly(mine)).weights_hash
    mine.write_bytes(data)
    assert interp.load_model(mine, device="cpu").weights_hash == first
    elsewhere = mine.with_name("copy.gguf")
    elsewhere.write_bytes(data)
    assert interp.load_model(elsewhere, device="cpu").weights_hash == first
    assert conversions == ["mine.gguf"] * 2


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_conversion_is_made_again(mine, conversions, capsys, name: str, how: str):
    first = interp.load_model(mine, device="cpu")
    hashes = first.weights_hash, first.tokenizer_hash()
    file = cached() / name
    old, data = file.stat(), bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink() if how == "gone" else file.write_bytes(data[: -9 if how == "cut" else None])
    if how == "flipped":
        os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    again = interp.load_model(mine, device="cpu")
    assert (again.weights_hash, again.tokenizer_hash()) == hashes
    assert conversions == ["mine.gguf"] * 2
    assert re.search(
        rf"{name} is (damaged|missing).*, so it is made again", capsys.readouterr().err
    )


def test_a_conversion_by_other_versions_is_not_used(mine, conversions, monkeypatch):
    interp.load_model(mine, device="cpu")
    monkeypatch.setattr("interp.loading.conversions.metadata.version", lambda name: "99")
    interp.load_model(mine, device="cpu")
    assert conversions == ["mine.gguf"] * 2


def test_without_room_in_the_cache_a_gguf_file_loads_all_the_same(
    mine, conversions, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert interp.load_model(mine, device="cpu").arch.n_layers == 2
    assert "(No space left on device), so each load converts it" in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "file"))
    assert interp.load_model(mine, device="cpu").arch.n_layers == 2
    assert "(Not a directory), so each load converts it" in capsys.readouterr().err
    assert conversions == ["mine.gguf"] * 2


def test_what_does_not_load_again_as_it_was_is_not_kept(mine, conversions, capsys, monkeypatch):
    monkeypatch.setattr("interp.loading.conversions._identity", lambda loaded: str(id(loaded)))
    interp.load_model(mine, device="cpu")
    assert "does not load from safetensors as it does itself" in capsys.readouterr().err
    assert not list((builtin.cache_dir() / "converted").glob("[!.]*"))
    assert conversions == ["mine.gguf"] * 2


def test_two_processes_convert_a_gguf_file_once(mine):
    code = f"import interp; interp.load_model({str(mine)!r}, device='cpu')"
    command, root = [sys.executable, "-c", code], Path(__file__).parents[3]
    both = [
        subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("converting mine.gguf to" in text for text in said) == [False, True]
    assert all(f"loading mine.gguf from {cached()}" in text for text in said)


def test_a_gguf_header_with_fewer_blocks_than_tensors_is_refused(mine):
    data = mine.read_bytes()
    at = data.index(b"llama.block_count") + len("llama.block_count") + 4
    assert data[at : at + 4] == (2).to_bytes(4, "little")
    mine.write_bytes(data[:at] + (1).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(ModelError, match="it claims 1 layers and has the tensors of 2"):
        interp.load_model(mine, device="cpu")
