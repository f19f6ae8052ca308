"""The published statistics, and the probe, on cases worked out by hand and tiny models."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, tiny, word_pairs
from planted_recall import planted, planted_data

from circuits.recall_reasoning.probes import knock_out
from circuits.recall_reasoning.published import (
    LastToken,
    Replication,
    cohens_d,
    head_table,
    last_token,
    layer_table,
    neuron_counts,
    of_heads,
    published_prompts,
    replicate,
)
from interp.data.pairs import PromptPairs, tokenise
from interp.errors import PlanError
from interp.interventions.plan import KnockOut
from interp.interventions.run import sweep_plans
from interp.statistics import bootstrap_mean, bootstrap_ratio


def test_cohens_d_by_hand():
    first, second = np.array([[1.0], [3.0]]), np.array([[4.0], [6.0]])
    assert cohens_d(first, second)[0] == pytest.approx(3)  # gap 3, both variances 1
    assert cohens_d(first, second, ddof=1)[0] == pytest.approx(3 / np.sqrt(2))
    assert cohens_d(np.ones((3, 1)), np.ones((3, 1)))[0] == 0


def test_shapes_of_attention_by_hand():
    found = of_heads(np.array([[[0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.0, 1.0]]]))
    assert np.allclose(found["entropy"], [[np.log(4), 0]], atol=1e-6)
    assert np.allclose(found["max_weight"], [[0.25, 1]])
    assert np.allclose(found["self_focus"], [[0.25, 1]])
    assert np.allclose(found["gini"], [[0, 0.75]], atol=1e-6)


def test_last_token_reads_what_the_model_computes():
    model = tiny("llama")
    found = last_token(model, ["w1 w2 w3", "w4 w5 w6 w7"])
    ids = torch.tensor([model.encode("w1 w2 w3")])
    with torch.no_grad():
        out = model.hf(ids, output_hidden_states=True)
    norms = [float(h[0, -1].norm()) for h in out.hidden_states[1:-1]]
    assert np.allclose(found.layers["norm"][0][:-1], norms, atol=1e-4)
    assert found.heads["entropy"].shape == (2, model.arch.n_layers, model.arch.n_heads)
    assert found.gates.shape == (2, model.arch.n_layers, model.arch.d_mlp)
    assert model.attention_implementation == "sdpa"


def test_model_without_gates_is_refused():
    with pytest.raises(PlanError, match="no gate projection"):
        last_token(tiny("gpt2"), ["w1 w2"])


def planted_features(gap: float, n: int = 30) -> tuple[LastToken, LastToken]:
    """Features of two layers, two heads and three neurons; all of the first differ by `gap`."""
    rng = np.random.default_rng(0)

    def draw(shift: float) -> LastToken:
        layers = {m: rng.normal(size=(n, 2)) for m in ("norm", "mean", "entropy")}
        layers |= {m: rng.normal(size=(n, 2)) for m in ("concentration", "gate", "sparsity")}
        names = ("entropy", "max_weight", "self_focus", "spread", "gini")
        heads = {m: rng.normal(size=(n, 2, 2)) for m in names}
        gates = rng.normal(size=(n, 2, 3))
        for values in layers.values():
            values[:, 0] += shift
        for values in heads.values():
            values[:, 0, 1] += shift
        gates[:, 0, 2] += shift
        return LastToken(layers, heads, gates, np.full(n, 7.0))

    return draw(0), draw(gap)


def test_planted_differences_are_labelled_and_nothing_else_is():
    recall, reasoning = planted_features(5)
    assert layer_table(recall, reasoning)["label"].tolist() == ["reasoning", "mixed"]
    heads = head_table(recall, reasoning)
    assert heads["specialised"].tolist() == [False, True, False, False]
    assert heads["label"][1] == "reasoning" and heads["effect"][1] == pytest.approx(5, abs=0.7)
    counts = neuron_counts(recall, reasoning)
    assert (counts["significant"], counts["reasoning"], counts["neurons"]) == (1, 1, 6)


def test_length_alone_separates_the_published_prompts(tmp_path):
    recall, reasoning = published_prompts(ROOT / "datasets/recall_facts.jsonl")
    assert recall[0] == "What is the capital of Afghanistan?"
    assert reasoning[0].endswith("and Afghanistan is in Asia, what continent is X in?")
    rows = [{"recall": a, "reasoning": b} for a, b in zip(recall, reasoning, strict=True)]
    released = tmp_path / "pairs.json"
    released.write_text(json.dumps(rows))
    assert published_prompts(released) == (recall, reasoning)
    matched = ["w1 w2 w3", "w4 w5 w6", "w7 w8 w9"], ["w11 w12 w13", "w14 w15 w16", "w17 w18 w19"]
    sets = {"published": (recall[:6], reasoning[:6]), "matched": matched}
    found = replicate(tiny("llama"), sets)
    assert found.confounds["length_auc"].tolist() == [1.0, 0.5]
    found.save(tmp_path / "run")
    again = Replication.load(tmp_path / "run")
    pd.testing.assert_frame_equal(again.confounds, found.confounds)
    pd.testing.assert_frame_equal(again.heads, found.heads)


# --- the probe ---------------------------------------------------------------------------------


def test_knock_out_of_the_land_removes_recall_in_the_planted_layer():
    model, data = planted(), planted_data()
    pairs = spanned(data.of("test", "A")[:8])
    table = knock_out(model, pairs, window=1)
    # the recall head of layer 1 reads the land; the copy head of layer 0 does not
    assert table["change"][1] < -0.9
    assert abs(table["change"][0]) < 0.05 and abs(table["change"][2]) < 0.05


def test_a_change_is_a_ratio_of_means():
    model, pairs = tiny("llama"), word_pairs()
    table = knock_out(model, pairs, window=1, span="s")
    plans = {"none": (), "cut": KnockOut(queries="generating", keys="s", layers=(1,))}
    p = sweep_plans(model, tokenise(model, pairs)[0], plans, metric="prob").values
    for how, same in ((bootstrap_ratio(p[:, 1] - p[:, 0], p[:, 0]), True),
                      (bootstrap_mean((p[:, 1] - p[:, 0]) / p[:, 0].mean()), False)):  # fmt: skip
        low = float(how.low) == pytest.approx(table["low"][1])
        assert float(how.value) == pytest.approx(table["change"][1]) and low == same


def spanned(pairs: PromptPairs) -> PromptPairs:
    """The planted pairs with their land as a span."""

    def land(text: str) -> tuple[int, int]:
        start = text.index(text.split()[3])
        return start, start + len(text.split()[3])

    spans = [{"subject": (land(pair.clean), land(pair.corrupt))} for pair in pairs]
    rows = (replace(pair, spans=own) for pair, own in zip(pairs, spans, strict=True))
    return PromptPairs(tuple(rows), pairs.source)
