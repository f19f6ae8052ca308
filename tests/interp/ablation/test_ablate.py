"""Ablation equals plain hooked passes on every family; sets, controls, readouts by definition."""

import importlib

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import ROOT, tiny, tiny_hf, word_pairs, word_tokenizer
from whole_answers import Aliases, Edit, aliases_of, recorded

import interp
from interp.ablation import rows
from interp.ablation.readouts import WINDOW
from interp.ablation.replacement import Replacement
from interp.data.token_batch import laid_out
from interp.errors import OutOfMemory, PlanError
from interp.model.components import (
    SITE_OF,
    Component,
    ComponentSet,
    all_but,
    as_sets,
    components_of,
    cumulative,
    everything,
    nested,
    singles,
)
from interp.model.model import Model
from interp.model.sites import SITES

ablating = importlib.import_module("interp.ablation.ablate")
budget = importlib.import_module("interp.forward.budget")

CAPITALS = ROOT / "datasets" / "country_capitals.jsonl"
REFERENCE = ["w1 w2 w3 w4 w20", "w50 w51 w52", "w8 w7 w6 w5 w4 w3 w2 w1 w0"]
ALIGNED = ["w50 w51 w52 w53", "w8 w7 w6 w5"]
TEXT = " ".join(f"w{(7 * i * i + 3 * i) % 90}" for i in range(3 * WINDOW + 9))
ONE_PAIR = {"clean": "w7 w8 w10 w11", "corrupt": "w7 w8 w12 w11", "answer": "w30"}
PAIR = ONE_PAIR | {"wrong_answer": "w31"}


def mean_of(model: Model, site: str, layer: int, by_position: bool) -> torch.Tensor:
    prompts = [model.encode(text) for text in (ALIGNED if by_position else REFERENCE)]
    each = [recorded(model, ids, site, layer) for ids in prompts]
    return torch.stack(each).mean(0) if by_position else torch.cat(each).mean(0)


def hooks(one: Aliases, alias, components, kind: str, by_position: bool = False) -> list[Edit]:
    """What replaces components, by a hook each, at every token of an alias behind the prompt."""
    model = one.model

    def edit(part: Component) -> Edit:
        site = SITE_OF[part.kind]
        each = model.width(SITES[site]) // model.n_units(SITES[site])
        own = slice(part.unit * each, (part.unit + 1) * each)
        if kind == "resample":
            return one.patched(alias, site, part.layer, own)
        value = torch.zeros(model.width(SITES[site]))
        if kind == "mean":
            value = mean_of(model, site, part.layer, by_position)

        def change(activation):
            activation[0, :, own] = value[..., own]

        return site, part.layer, change

    return [edit(part) for part in components]


def naive(one: Aliases, components, kind: str, by_position: bool = False) -> dict[str, float]:
    """Every metric of a clean prompt with components replaced."""
    with torch.no_grad():
        found = one.metrics(lambda alias: hooks(one, alias, components, kind, by_position))
    return {name: float(value) for name, value in found.items()}


def mixed_sets(model: Model) -> dict[str, ComponentSet]:
    sets = {
        "head": "a1.h2",
        "mlp": "m1",
        "neurons": "m0.n3,m2.n0,m2.n40",
        "set": ["a0.h1", "a2.h0", "a2.h3", "m2", "m1.n7"],
        "layer": "a1",
    }
    return as_sets(model, sets) | all_but(model, {"kept": ["a0.h1", "a2.h3", "m1"]})


# --- exactness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
def test_ablation_equals_plain_hooked_passes(tiny_model: Model, kind: str):
    sets, reference = mixed_sets(tiny_model), REFERENCE if kind == "mean" else None
    result = interp.ablate(
        tiny_model, word_pairs(), sets, kind, n_random=0, reference=reference
    ).reading("logit_diff")
    for i, one in enumerate(aliases_of(tiny_model, word_pairs())):
        want = naive(one, (), kind)["logit_diff"]
        assert result["baseline"].values[i] == pytest.approx(want, abs=1e-4)
        for j, (name, chosen) in enumerate(sets.items()):
            want = naive(one, chosen.ablated(tiny_model), kind)["logit_diff"]
            assert result["ablated"].values[i, j] == pytest.approx(want, abs=1e-4), (name, i)


def test_aligned_prompts_have_a_mean_at_each_position():
    model = tiny("llama")
    (one,) = aliases_of(model, interp.PromptPairs.from_records([PAIR]))
    result = interp.ablate(model, [PAIR], "a1.h2,m2", "mean", reference=ALIGNED, n_random=0)
    assert result.mean_over == "each position of 2 reference prompts"
    want = naive(one, components_of(model, "a1.h2,m2"), "mean", by_position=True)["logit_diff"]
    assert float(result.reading()["ablated"][0, 0]) == pytest.approx(want, abs=1e-4)
    other = interp.ablate(model, word_pairs(), "a1.h2", "mean", reference=ALIGNED, n_random=0)
    assert other.mean_over == "all tokens of 2 reference prompts"


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_shared_batches_of_any_size_give_the_same(family: str, monkeypatch: pytest.MonkeyPatch):
    model = tiny(family)
    whole = interp.ablate(model, word_pairs(), singles(model), n_random=3)
    monkeypatch.setattr(budget, "CPU_TOKENS", 30)
    monkeypatch.setattr(ablating, "SETS_AT_ONCE", 5)
    monkeypatch.setattr(ablating, "EXAMPLES_AT_ONCE", 2)
    parts = interp.ablate(model, word_pairs(), singles(model), n_random=3)
    for name in whole.readings:
        xr.testing.assert_allclose(whole.readings[name], parts.readings[name], atol=1e-4)


def test_a_batch_that_does_not_fit_is_split(monkeypatch: pytest.MonkeyPatch):
    model, run_packed, asked = tiny("llama"), rows.run_packed, []

    def fits(limit: int):
        def walk(*arguments):
            asked.append(len(arguments[2].prompt))
            if asked[-1] > limit:
                raise torch.OutOfMemoryError("no more")
            return run_packed(*arguments)

        return walk

    whole = interp.ablate(model, word_pairs(), singles(model), n_random=0)
    monkeypatch.setattr(budget, "CPU_TOKENS", 300)
    monkeypatch.setattr(rows, "run_packed", fits(12))
    parts = interp.ablate(model, word_pairs(), singles(model), n_random=0)
    xr.testing.assert_allclose(parts.reading(), whole.reading(), atol=1e-4)
    assert max(asked) > 12
    monkeypatch.setattr(rows, "run_packed", fits(0))
    with pytest.raises(OutOfMemory, match="use a smaller dtype"):
        interp.ablate(model, word_pairs(), singles(model), n_random=0)


def test_noise_is_that_of_its_seed():
    def first(seed: int, kind: str = "noise") -> np.ndarray:
        found = interp.ablate(tiny("llama"), word_pairs(), "a1.h1", kind, seed=seed, n_random=0)
        return found.reading()["ablated"].values

    np.testing.assert_array_equal(first(1), first(1))
    assert abs(first(1) - first(2)).max() > 1e-3
    assert abs(first(1) - first(1, "zero")).max() > 1e-3
    tokens, layers = laid_out(tiny("llama"), [(5, 6)], [()], [(0, 0)]), {"z": [0], "attn_out": [0]}
    ours = [Replacement(tiny("llama"), "noise", layers, [], seed) for seed in (0, 16)]
    made = [one.of(tokens, tokens, [], at).values() for one in ours for at in (0, 16)]
    assert len({float(one.add[0, 0, 0] / one.add[0, 0, 1]) for own in made for one in own}) == 8


def test_nothing_is_the_baseline_and_all_but_everything_changes_nothing(tiny_model: Model):
    heads = everything(tiny_model, "head")
    sets = {"nothing": ComponentSet(())} | all_but(tiny_model, {"all kept": heads})
    data = interp.ablate(tiny_model, word_pairs(), sets, "zero", n_random=0).reading()
    for name in sets:
        np.testing.assert_array_equal(data["ablated"].sel(set=name), data["baseline"])


def test_an_empty_complement_is_everything():
    model = tiny("llama")
    together = {"all": [*everything(model, "head"), *everything(model, "mlp")]}
    kept = all_but(model, {"none": []}, among=("head", "mlp"))
    data = interp.ablate(model, word_pairs(), as_sets(model, together) | kept, n_random=0).reading()
    np.testing.assert_allclose(data["ablated"][:, 0], data["ablated"][:, 1], atol=1e-5)
    assert float(abs(data["ablated"] - data["baseline"]).max()) > 0.1


def planted() -> Model:
    """A model of which one head alone, a1.h2, writes anything but the MLPs."""
    hf = tiny_hf("llama")
    with torch.no_grad():
        for layer, block in enumerate(hf.model.layers):
            block.mlp.down_proj.weight.zero_()
            kept = block.self_attn.o_proj.weight[:, 16:24].clone()
            block.self_attn.o_proj.weight.zero_()
            if layer == 1:
                block.self_attn.o_proj.weight[:, 16:24] = kept
    return interp.load_model(hf, tokenizer=word_tokenizer())


def test_a_planted_head_is_found_and_random_heads_do_nothing():
    model = planted()
    result = interp.ablate(model, word_pairs(), singles(model), n_random=20)
    table = result.table().set_index("set")
    assert result.top(1)["set"][0] == "a1.h2"
    assert abs(table.loc["a1.h2", "effect"]) > 0.1
    assert (table.drop("a1.h2")["effect"].abs() < 1e-5).all()
    assert table.loc["a1.h2", "random"] == pytest.approx(0, abs=1e-5)
    assert table.loc["a1.h2", "n_random"] == 3
    assert table.loc["a1.h2", "p"] == 1 / 4
    circuit = interp.ablate(model, word_pairs(), all_but(model, "a1.h2"), n_random=3)
    row = circuit.table().iloc[0]
    assert row["effect"] == pytest.approx(0, abs=1e-5)
    assert abs(row["random"]) > 0.1
    assert row["p"] == 1 / 4


# --- components and sets -----------------------------------------------------------------------


def test_components_come_in_many_forms():
    model = tiny("llama")
    named = [Component(1, "head", 2), Component(0, "head", 3)]
    scores = np.full((3, 4), np.nan)
    scores[1, 2], scores[0, 3] = -5.0, 2.0
    assert components_of(model, "a1.h2, a0.h3") == named
    assert components_of(model, scores) == named
    assert components_of(model, torch.tensor(scores)) == named
    assert components_of(model, np.isfinite(scores)) == sorted(named)
    heads = interp.patch(model, word_pairs(), site="z", over="layer,head").top(2)
    assert [str(c) for c in components_of(model, heads)] == [
        f"a{row.layer}.h{row.head}" for row in heads.itertuples()
    ]
    table = interp.ablate(model, word_pairs(), singles(model), n_random=0).top(3)
    named = components_of(model, table["set"])
    assert components_of(model, table.rename(columns={"set": "component"})) == named
    assert [str(c) for c in components_of(model, "a1")] == ["a1.h0", "a1.h1", "a1.h2", "a1.h3"]
    neurons = components_of(model, np.eye(3, 56, dtype=bool))
    assert [str(c) for c in neurons] == ["m0.n0", "m1.n1", "m2.n2"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("h3", "no component 'h3': write 'a3.h1' or 'L3H1' for a head"),
        ("", "no component ''"),
        ("a9.h0", "no component 'a9.h0': .* has layers 0 to 2"),
        ("a0.h4", "heads 0 to 3"),
        ("m1.n56", "neurons 0 to 55"),
        ("m3", "no component 'm3': .* layers 0 to 2"),
        ("a1,a1.h0", "'a1.h0' is named twice"),
        ([0.5], "no component '0.5'"),
        (np.zeros((2, 4)), r"shape \(2, 4\) names no components"),
        ([Component(1, "neuron", -1)], "neurons 0 to 55"),
        (pd.DataFrame({"layer": [0], "effect": [1.0]}), "names no components; give 'component'"),
        (pd.DataFrame({"layer": [0, 1], "head": [2, np.nan]}), "'head' is not a whole number"),
    ],
)
def test_other_components_are_refused(given, says: str):
    with pytest.raises(PlanError, match=says):
        components_of(tiny("llama"), given)


def test_cumulative_sets_grow():
    model = tiny("llama")
    ranked = ["a0.h1", "m1", "a2.h0", "a1.h1", "m0"]
    sets = cumulative(model, ranked)
    assert list(sets) == ["1", "2", "4", "5"]
    assert [list(map(str, one.components)) for one in sets.values()][1] == ["a0.h1", "m1"]
    assert nested(sets)
    assert nested(all_but(model, sets))
    assert not nested(singles(model, ranked))
    assert list(cumulative(model, ranked, sizes=[3, 0])) == ["0", "3"]
    with pytest.raises(PlanError, match="give numbers from 0 to 5"):
        cumulative(model, ranked, sizes=[6])


def test_all_but_keeps_to_the_kinds_named():
    model = tiny("llama")
    heads = all_but(model, "a0.h1")
    assert list(heads) == ["all but a0.h1"]
    ablated = next(iter(heads.values())).ablated(model)
    assert len(ablated) == 11
    assert Component(0, "head", 1) not in ablated
    both = next(iter(all_but(model, "a0.h1", among=("head", "mlp")).values()))
    assert len(both.ablated(model)) == 14
    for kept, among in (([], None), ("a0.h1", ("heads",))):
        with pytest.raises(PlanError, match="name some of head, mlp, neuron"):
            all_but(model, kept, among)


# --- real weights ------------------------------------------------------------------------------


def test_smollm_reads_capitals_with_head_23_4(smollm: Model):
    heads = singles(smollm, "a23,a29.h1")
    result = interp.ablate(smollm, interp.load_pairs(CAPITALS)[:4], heads, n_random=8)
    table = result.table().set_index("set")
    assert result.top(1)["set"][0] == "a23.h4"
    assert table.loc["a23.h4", "effect"] == pytest.approx(-14.331, abs=0.02)
    assert table.loc["a23.h4", "p"] == 1 / 9
    assert abs(table.loc["a23.h4", "random"]) < 2
