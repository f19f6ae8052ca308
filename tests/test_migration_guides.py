"""Both columns of the migration guides run, and what they assign to one name is the same."""

import ast
import copy
import linecache
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny

import interp
from interp.data.prompts import TokenPrompt
from interp.model.adapters import bridge
from interp.model.sites import SITES

ROW = re.compile(r"^\| (`.*`) \| (`.*`) \|$", re.M)


def code_of(cell: str) -> str:
    """A cell's code: one span per line."""
    return "\n".join(part.strip().strip("`") for part in cell.split("<br>"))


def assigned(code: str) -> set[str]:
    """The names that a piece of code assigns."""
    nodes = ast.walk(ast.parse(code))
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def run(code: str, names: dict[str, Any], number: int) -> None:
    """Execute a cell; nnsight reads the source of its ``with`` blocks."""
    file = f"<cell {number}>"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    exec(compile(code, file, "exec"), names)


def plain(value: Any) -> np.ndarray | None:
    """Numbers or texts to compare; ``None`` for anything else."""
    if isinstance(value, torch.Tensor):
        value = value.detach().float().numpy()
    elif hasattr(value, "values") and hasattr(value, "dims"):
        value = value.values
    array = np.asarray(None if callable(value) or hasattr(value, "keys") else value)
    return None if array.dtype == object else np.squeeze(array)


def compare(page: Path, left: dict[str, Any], right: dict[str, Any], loops: bool) -> dict[str, Any]:
    """Run every row of a page; the largest difference of each name, relative to its size.

    Without `loops`, other libraries' loops over hundreds of forward passes are left out.
    """
    found: dict[str, Any] = {}
    for number, cells in enumerate(ROW.findall(page.read_text())):
        theirs, ours = map(code_of, cells)
        long = "get_act_patch" in theirs or "stream[" in theirs
        run(ours, right, -number - 1)
        if long and not loops:
            continue
        run(theirs, left, number)
        for name in sorted(assigned(theirs) & assigned(ours)):
            want, got = plain(left[name]), plain(right[name])
            if want is None or got is None:
                continue
            assert want.shape == got.shape, (name, want.shape, got.shape)
            if want.dtype.kind in "US":
                assert want.tolist() == got.tolist(), name
            else:
                found[name] = float(abs(want - got).max() / max(1.0, abs(want).max()))
    return found


def setup(page: Path) -> dict[str, Any]:
    """What the page's first block defines."""
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[0], names)
    return names


class Bridges:
    """Stands in for `TransformerBridge`, which would fetch its weights from the Hub."""

    def __init__(self, model: interp.Model):
        self.model = model

    def boot_transformers(self, name: str) -> Any:
        assert name == "HuggingFaceTB/SmolLM2-135M-Instruct"
        hf = copy.deepcopy(self.model.hf).requires_grad_(True)
        return bridge(hf, tokenizer=self.model.tokenizer)


LOOPS = [False, pytest.param(True, marks=pytest.mark.slow)]


@pytest.mark.parametrize("loops", LOOPS)
def test_transformer_lens_and_interp_agree_line_by_line(smollm: interp.Model, loops: bool):
    # nnsight, once imported, makes `with ...: x.backward()` on one line its own trace.
    pytest.importorskip("nnsight")
    page = ROOT / "docs" / "from_transformerlens.md"
    theirs = setup(page) | {"TransformerBridge": Bridges(smollm)}
    found = compare(page, theirs, setup(page), loops)
    assert len(found) >= 20 + 2 * loops
    assert max(found.values()) < 2e-5, found


@pytest.mark.parametrize("loops", LOOPS)
def test_nnsight_and_interp_agree_line_by_line(smollm: interp.Model, loops: bool, monkeypatch):
    nnsight = pytest.importorskip("nnsight")
    made = nnsight.LanguageModel

    def language_model(name: str) -> Any:
        assert name == "HuggingFaceTB/SmolLM2-135M-Instruct"
        hf = copy.deepcopy(smollm.hf).requires_grad_(True)
        return made(hf, tokenizer=smollm.tokenizer)

    monkeypatch.setattr(nnsight, "LanguageModel", language_model)
    page = ROOT / "docs" / "from_nnsight.md"
    found = compare(page, setup(page) | {"nnsight": nnsight}, setup(page), loops)
    assert len(found) >= 13 + loops
    assert max(found.values()) < 2e-5, found


OFF = dict.fromkeys(
    ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"), False
)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@pytest.mark.parametrize("option", OFF)
def test_what_foldings_change_in_numbers(option: str):
    """What the guide's table of options says, on a model with LayerNorms and biases."""
    model = tiny("gpt2")
    folded = bridge(copy.deepcopy(model.hf))
    folded.enable_compatibility_mode(disable_warnings=True, **(OFF | {option: True}))
    with torch.no_grad():
        logits, theirs = folded.run_with_cache(IDS)
    ours = interp.activations(model, TokenPrompt(tuple(IDS[0].tolist())), ["all", "logits"])
    shift = logits.numpy() - ours["logits"].values
    np.testing.assert_allclose(shift, shift.mean(-1, keepdims=True).repeat(97, -1), atol=1e-5)
    assert (abs(shift).max() > 1e-3) == (option == "center_unembed")
    changed: set[str] = set()
    for site in model.arch.sites:
        difference = theirs[SITES[site].at(1)].numpy() - ours[site].sel(layer=1).values
        if abs(difference).max() > 1e-4:
            changed.add(site)
        if option == "center_writing_weights":  # at each position one number in all features
            assert difference.std(-1).max() < 1e-5, site
    streams = {"resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"}
    want = {"center_writing_weights": streams, "fold_value_biases": {"v", "z"}}
    assert changed == want.get(option, set())
