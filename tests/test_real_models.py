"""Regression figures on the built-in models' real weights, and equality with plain passes."""

import numpy as np
import pytest
import torch
from conftest import ROOT

import interp
from circuits.editing import moments
from circuits.editing.layer_selection import selection_for
from interp.bench.baselines import sweep_with_hooks
from interp.data.pairs import tokenise

CAPITALS = ROOT / "datasets" / "country_capitals.jsonl"
ONE = [
    {
        "clean": "The capital of France is",
        "corrupt": "The capital of Italy is",
        "answer": "Paris",
        "wrong_answer": "Rome",
        "subject": ["France", "Italy"],
    }
]


@pytest.mark.parametrize(
    ("name", "over", "site"),
    [
        ("smollm", ("layer", "pos"), "resid_pre"),
        ("smollm", ("layer", "head"), "z"),
        ("gemma", ("layer", "pos"), "resid_pre"),
    ],
)
def test_a_sweep_equals_plain_passes(name: str, over: tuple[str, str], site: str, request):
    model, pairs = request.getfixturevalue(name), interp.PromptPairs.from_records(ONE)
    layers = [0, 5, model.arch.n_layers - 1]
    ours = interp.patch(model, pairs, site=site, over=over, layers=layers)
    plain = sweep_with_hooks(model, tokenise(model, pairs)[0][0], site, over, layers=layers)
    np.testing.assert_allclose(ours.values.values[0], plain, atol=1e-4)


@pytest.mark.parametrize("name", ["smollm", "gemma"])
def test_the_fact_moves_from_the_subject_to_the_last_token(name: str, request):
    model = request.getfixturevalue(name)
    result = interp.patch(model, interp.load_pairs(CAPITALS)[:8], over=("layer", "pos"))
    carriers = result.carriers()
    subject, last = carriers.iloc[0], carriers.iloc[-1]
    assert subject["token"] == "⟨subject⟩"
    assert subject["first"] == 0
    assert last["pos"] == result.values.sizes["pos"] - 1
    assert last["last"] == model.arch.n_layers - 1
    assert subject["last"] < last["peak"]
    depth = subject["last"] / model.arch.n_layers
    assert 0.5 < depth < 0.9


def test_smollm_known_figure(smollm):
    result = interp.patch(smollm, ONE, layers=[10])
    assert float(result.clean[0]) == pytest.approx(7.313, abs=2e-3)
    assert float(result.corrupt[0]) == pytest.approx(-6.020, abs=2e-3)
    assert float(result.values.sel(layer=10, pos=3)[0]) == pytest.approx(7.556, abs=5e-3)


@pytest.mark.parametrize("name", ["smollm", "gemma"])
def test_built_in_models_conform(name: str, request):
    failed = [c for c in interp.validate(request.getfixturevalue(name)) if not c.holds]
    assert not failed


@pytest.mark.parametrize("name", ["smollm", "gemma"])
def test_the_shipped_layer_selections_are_of_these_weights_and_whole(name: str, request):
    model = request.getfixturevalue(name)
    at = selection_for(model, None, "ace")
    assert at is not None and max(at.query) < min(at.value) < model.arch.n_layers
    assert at.threshold is not None and 0.1 <= at.threshold < 1.0
    assert set(at.moments) == {("gate", layer) for layer in (*at.query, *at.value)}
    for moment in at.moments.values():
        assert moment.shape == (model.arch.d_model,) * 2
        np.testing.assert_allclose(moment, moment.T, atol=1e-6)
        assert float(np.linalg.eigvalsh(moment.numpy())[0]) > 0


@pytest.mark.parametrize("name", ["smollm", "gemma"])
def test_the_first_moments_read_shipped_text_that_the_model_drew(
    name: str, request, tmp_path, monkeypatch
):
    model, place = request.getfixturevalue(name), ("mlp_post", 0)
    read = []
    stub = lambda model, places, rows, report: read.extend(rows) or {place: torch.eye(2)}  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(moments, "_streamed", stub)
        patched.setattr(moments, "own_samples", None)
        moments.second_moments(model, [place], cache=tmp_path)
    assert len(read) == 157 and {len(row.ids) for row in read} == {129}
    monkeypatch.setattr(moments, "WINDOW", 3)
    drawn = moments._sampled(model, 128, torch.Generator().manual_seed(0), lambda n: None)
    same = [row.ids == kept.ids[:4] for row, kept in zip(drawn, read[:128], strict=True)]
    assert sum(same) >= 126  # rounding may move a draw
