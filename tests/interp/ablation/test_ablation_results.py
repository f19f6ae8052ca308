"""Ablation studies: random sets, readouts by definition, results, folders and refusals."""

import dataclasses
import importlib
import json
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny, word_pairs
from patch_examples import same
from test_ablate import PAIR, TEXT, hooks
from whole_answers import aliases_of, plain, recorded

import interp
from interp.ablation.controls import matched_sets, write_norms
from interp.ablation.readouts import WINDOW, windows
from interp.data.pairs import tokenise
from interp.data.prompts import TokenPrompt, prompts_of
from interp.errors import DataError, InterpError, PlanError, RunFolderError, StatisticsError
from interp.forward.hooks import hooked
from interp.model.components import (
    ComponentSet,
    all_but,
    as_sets,
    components_of,
    cumulative,
    singles,
)
from interp.model.sites import SITES

ablating = importlib.import_module("interp.ablation.ablate")

# --- controls ----------------------------------------------------------------------------------


def test_random_sets_match_and_are_disjoint():
    model = tiny("llama")
    chosen = as_sets(model, {"s": "a0.h1,a2.h0,a2.h3,m1,m2.n4,m2.n5"})["s"]
    drawn = matched_sets(model, chosen, 50, 0)
    assert len({one.key for one in drawn}) == 50
    for one in drawn:
        assert not set(one.components) & set(chosen.components)
        for kind in ("head", "neuron"):
            layers = [
                sorted(c.layer for c in s.components if c.kind == kind) for s in (one, chosen)
            ]
            assert layers[0] == layers[1]
        assert sum(c.kind == "mlp" for c in one.components) == 1
    kept = matched_sets(model, ComponentSet(chosen.components, ("head",)), 3, 0)
    assert all(one.among == ("head",) for one in kept)


def test_there_are_no_more_controls_than_exist():
    model = tiny("llama")
    one = as_sets(model, {"s": "a0.h1"})["s"]
    assert len(matched_sets(model, one, 20, 0)) == 3
    two = as_sets(model, {"s": "a0.h1,m0"})["s"]
    assert len({s.key for s in matched_sets(model, two, 20, 0)}) == 6


def test_a_set_without_a_control_says_why():
    result = interp.ablate(tiny("llama"), word_pairs(), {"a1": "a1", "h": "a0.h0"}, n_random=5)
    assert list(result.uncontrolled) == ["a1"]
    assert "layer 1 has 4 units and 4 are chosen" in result.uncontrolled["a1"]
    table = result.table().set_index("set")
    assert np.isnan(table.loc["a1", "p"])
    assert table.loc["h", "n_random"] == 3
    assert not np.isnan(table.loc["h", "p_adjusted"])
    with pytest.raises(StatisticsError, match="leaves 0 for a control of 4"):
        matched_sets(tiny("llama"), result.sets["a1"], 5, 0)


def test_norms_are_those_of_what_is_written():
    model = tiny("gpt2")
    prompts = prompts_of(tokenise(model, word_pairs())[0])
    norms = write_norms(model, ("head", "mlp", "neuron"), prompts)
    assert set(norms) == {"head", "neuron"}
    block = model.blocks[1]
    z = torch.cat([recorded(model, p.ids, "z", 1) for p in prompts])
    one = z.clone()
    one[:, :16], one[:, 24:] = 0, 0
    want = (one @ block.attn.c_proj.weight).norm(dim=-1).mean()
    assert norms["head"][1, 2] == pytest.approx(float(want), rel=1e-4)
    post = torch.cat([recorded(model, p.ids, "mlp_post", 1) for p in prompts])
    want = (post[:, 5, None] * block.mlp.c_proj.weight[5]).norm(dim=-1).mean()
    assert norms["neuron"][1, 5] == pytest.approx(float(want), rel=1e-4)
    matched = interp.ablate(model, word_pairs(), "m1.n5", n_random=4, match_norms=True)
    size = norms["neuron"][1]
    near = np.argsort(abs(size.argsort().argsort() - size.argsort().argsort()[5]))[:40]
    assert {c.unit for one in matched.controls["m1.n5"] for c in one.components} <= set(near)


# --- readouts ----------------------------------------------------------------------------------


def test_kl_by_its_definition():
    model = tiny("llama")
    result = interp.ablate(model, word_pairs(), "a1.h2,m2", readouts=("kl",), n_random=0)
    for i, one in enumerate(aliases_of(model, word_pairs())):
        edits = hooks(one, one.pair.answers[0][0], components_of(model, "a1.h2,m2"), "resample")
        with torch.no_grad():
            clean, ablated = (plain(model, one.pair.clean, some)[-1] for some in ((), edits))
        kl = float((clean.exp() * (clean - ablated)).sum())
        assert float(result.reading("kl")["ablated"][i, 0]) == pytest.approx(kl, abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gptj"])
def test_perplexity_is_the_models_own_loss(family: str):
    model = tiny(family)
    cut = windows(model, TEXT)
    assert len(cut) == 3
    assert all(len(window.ids) == WINDOW for window in cut)
    ids = torch.tensor([window.ids for window in cut])
    result = interp.ablate(model, [PAIR], {"h": "a0.h1,m2"}, "zero", neutral=TEXT, n_random=2)
    with torch.no_grad():
        plain = float(model.hf(ids, labels=ids).loss)
        edits = [
            (SITES["z"], 0, lambda a: a[..., 8:16].zero_()),
            (SITES["mlp_out"], 2, lambda a: a.zero_()),
        ]
        with hooked(model, edits):
            ablated = float(model.hf(ids, labels=ids).loss)
    nll = result.reading("nll")
    assert nll["ablated"].dims == ("window", "set")
    assert float(nll["baseline"].mean()) == pytest.approx(plain, abs=1e-4)
    assert float(nll["ablated"].mean()) == pytest.approx(ablated, abs=1e-4)
    row = result.perplexity().iloc[0]
    assert row["baseline"] == pytest.approx(np.exp(plain), rel=1e-4)
    assert row["factor"] == pytest.approx(np.exp(ablated - plain), rel=1e-4)
    assert row["low"] <= row["factor"] <= row["high"]


def test_neutral_text_is_resampled_from_the_next_window():
    model = tiny("llama")
    cut = windows(model, TEXT)
    nll = interp.ablate(model, [PAIR], "a1.h2", neutral=TEXT, n_random=0).reading("nll")
    for i, (window, other) in enumerate(zip(cut, [*cut[1:], cut[0]], strict=True)):
        value = recorded(model, other.ids, "z", 1)

        def put(activation, value=value):
            activation[0, :, 16:24] = value[:, 16:24]

        with torch.no_grad():
            log_p = plain(model, window.ids, [("z", 1, put)])
        want = torch.nn.functional.nll_loss(log_p[:-1], torch.tensor(window.ids[1:]))
        assert float(nll["ablated"][i, 0]) == pytest.approx(float(want), abs=1e-4)


# --- results -----------------------------------------------------------------------------------


def full(**options) -> interp.AblationResult:
    model = tiny("llama")
    sets = cumulative(model, "a0.h1,m1,a2.h0,m2.n3")
    options = {"neutral": TEXT, "cluster_by": "s", "n_random": 4} | options
    return interp.ablate(model, word_pairs(), sets, **options)


def test_the_table_is_that_of_the_values():
    result = full()
    data, table = result.reading(), result.table()
    effect = (data["ablated"] - data["baseline"]).mean("pair").values
    np.testing.assert_allclose(table["effect"], effect)
    null = (data["random"] - data["baseline"]).mean("pair").values
    for i, row in enumerate(table.itertuples()):
        larger = int((abs(null[i]) >= abs(effect[i])).sum())
        assert row.p == pytest.approx((1 + larger) / (1 + row.n_random))
        assert row.random == pytest.approx(np.nanmean(null[i]))
        assert row.low <= row.effect <= row.high
    assert (table["p_adjusted"] >= table["p"]).all()
    assert list(data["size"].values) == [1, 2, 4]
    assert data.attrs["unit"] == "logits"
    assert result.clusters == ("w1", "w8 w10", "w7 w8 w9 w10")
    frame = result.to_frame()
    assert len(frame) == 3 * (2 * 3 + 3)
    assert set(frame["readout"]) == {"logit_diff", "accuracy", "nll"}
    assert "3 pairs, 0 excluded" in repr(result)
    assert "<table" in result._repr_html_()
    json.dumps(result.summary())


def test_pairs_of_one_entity_are_resampled_together():
    many = [dict(PAIR, id=str(i), clean=f"w{i} w8 w10 w11", corrupt=f"w{i} w8 w12 w11")
            for i in range(8)]  # fmt: skip
    one = interp.ablate(tiny("llama"), many, "a1", n_random=0, cluster_by=lambda pair: "all")
    apart = interp.ablate(tiny("llama"), many, "a1", n_random=0)
    assert one.table()["high"][0] == np.inf
    assert np.isfinite(apart.table()["high"][0])
    with pytest.raises(DataError, match="no span 'subject'.*give it in each row"):
        interp.ablate(tiny("llama"), many, "a1", cluster_by="subject")


def test_a_run_folder_loads_back_exactly(tmp_path: Path):
    result = full()
    result.save(tmp_path / "run")
    same(interp.AblationResult.load(tmp_path / "run"), result)
    assert interp.AblationResult.load(tmp_path / "run").seconds == result.seconds
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["kind"] == "ablation"
    bare = interp.ablate(tiny("llama"), [PAIR], "a0.h1", n_random=0)
    same(interp.AblationResult.load(bare.save(tmp_path / "bare")), bare)
    with pytest.raises(RunFolderError, match="'ablation' run, not patch"):
        interp.PatchResult.load(tmp_path / "run")


def test_a_stopped_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ablating, "EXAMPLES_AT_ONCE", 2)
    monkeypatch.setattr(ablating, "SETS_AT_ONCE", 4)
    whole, out, ran, said = full(), tmp_path / "run", [], []
    run_sets = ablating.run_sets

    def stops(*arguments):
        ran.append(1)
        if len(ran) == 4:
            raise KeyboardInterrupt
        return run_sets(*arguments)

    monkeypatch.setattr(ablating, "run_sets", stops)
    with pytest.raises(KeyboardInterrupt):
        full(out=out)
    same(full(out=out, progress=lambda *done: said.append(done)), whole, "seconds")
    assert said[0] == (0, said[-1][1]) and said[-1][0] == said[-1][1]
    assert len(ran) == len(said)  # one of them died, and the first report is before the work
    same(full(out=out), whole, "seconds")
    assert len(ran) == len(said)
    others = {
        "seed=0 (this one: 1)": {"seed": 1},
        "kind='resample' (this one: 'zero')": {"kind": "zero"},
        "n_random=4 (this one: 3)": {"n_random": 3},
        "other neutral": {"neutral": None},
    }
    for says, other in others.items():
        with pytest.raises(RunFolderError, match=re.escape(f"holds an ablate run with {says}")):
            full(out=out, **other)


def test_a_mean_of_prompts_with_other_spans_is_another_run(tmp_path: Path):
    options = {"kind": "mean", "n_random": 0, "out": tmp_path / "run"}
    for at in (0, 1):
        reference = [TokenPrompt((3, 4, 5, 6), {"s": (at,)})]
        with pytest.raises(RunFolderError, match="other reference") if at else nullcontext():
            interp.ablate(tiny("llama"), [PAIR], "a0.h1", reference=reference, **options)


def test_figures_are_curves_of_nested_sets_and_bars_of_others():
    curve = full().plot()
    assert {trace.type for trace in curve.data} == {"scatter"}
    assert [trace.name for trace in curve.data if trace.name] == ["random sets", "ablated"]
    assert list(curve.data[-1].x) == [1, 2, 4]
    model = tiny("llama")
    bars = interp.ablate(model, word_pairs(), singles(model)).plot("accuracy")
    assert bars.data[0].type == "bar"
    assert len(bars.data[0].x) == 12
    kept = interp.ablate(model, word_pairs(), all_but(model, cumulative(model, "a0.h1,a1.h0")))
    assert "kept" in kept.plot().layout.xaxis.title.text


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"kind": "zeros"}, PlanError, "unknown kind of ablation 'zeros'. Did you mean 'zero'"),
        ({"kind": "mean"}, PlanError, "needs reference prompts to take the mean over"),
        ({"readouts": ["acuracy"]}, PlanError, "Did you mean 'accuracy'"),
        ({"readouts": []}, PlanError, "there is nothing to read"),
        ({"readouts": ["nll"]}, PlanError, "unknown readout 'nll'"),
        ({"sets": {}}, PlanError, "there are no sets"),
        ({"candidates": ["w30"]}, DataError, "answer 'w20' is not among the 1 candidates"),
        ({"neutral": "w1 w2"}, PlanError, "neutral text has 2 tokens; give at least 128"),
    ],
)
def test_what_cannot_be_ablated_is_named(options: dict, error: type[InterpError], says: str):
    arguments = {"sets": "a0.h1"} | options
    with pytest.raises(error, match=says):
        interp.ablate(tiny("llama"), word_pairs(), **arguments)


def test_a_readout_that_was_not_read_is_named():
    result = interp.ablate(tiny("llama"), [PAIR], "a0.h1", n_random=0)
    with pytest.raises(PlanError, match="'nll' was not read"):
        result.perplexity()


def test_models_without_a_next_token_are_refused():
    model = tiny("llama")
    model = dataclasses.replace(model, arch=dataclasses.replace(model.arch, causal=False))
    with pytest.raises(PlanError, match="attends in both directions"):
        interp.ablate(model, [PAIR], "a0.h1")
