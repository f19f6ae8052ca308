"""Devices: misspelt or absent ones are told in a sentence, whatever is loaded."""

import subprocess
import sys

import pytest
import torch
from conftest import tiny_hf, word_tokenizer

import interp
from circuits.cli.app import run
from interp.errors import ModelError
from interp.loading.devices import check_spelling, usable

KINDS = ("smollm2-135m", "tracr-hist", "an object")


def load(kind: str, device: object):
    if kind == "an object":
        return interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer(), device=device)
    return interp.load_model(kind, device=device)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", ["gpu", "", "CUDA", "cuda:x", "meta", "cpu\n", 0])
def test_an_unknown_device_is_refused(kind: str, device: object):
    with pytest.raises(ModelError, match=r"^unknown device .*; give cpu, cuda, cuda:1") as said:
        load(kind, device)
    assert "\n" not in str(said.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", ["cuda", torch.device("cuda:1")])
def test_a_gpu_that_is_not_there_is_refused(kind: str, device: object):
    with pytest.raises(ModelError, match="was asked for, but torch sees no GPU; use 'cpu'"):
        load(kind, device)


def test_a_device_that_torch_was_not_built_for_is_refused():
    if torch.xpu.is_available():
        pytest.skip("there is one")
    with pytest.raises(ModelError, match=r"'xpu' was asked for, but torch cannot use it here"):
        usable("xpu")


def test_devices_that_are_there():
    assert usable("cpu") == torch.device("cpu")
    assert usable(torch.device("cpu")) == torch.device("cpu")
    assert [check_spelling(name) for name in ("cuda:12", "mps")] == ["cuda:12", "mps"]


def test_the_command_line_refuses_before_anything_runs(capsys):
    assert run(["validate", "tracr-hist", "--device", "gpu"]) == 2
    said = capsys.readouterr().err
    assert "unknown device 'gpu'" in " ".join(said.split())
    code = (
        "import sys; from circuits.cli.app import run; "
        "code = run(['validate', 'tracr-hist', '--device', 'gpu']); "
        "sys.exit(0 if code == 2 and 'torch' not in sys.modules else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
