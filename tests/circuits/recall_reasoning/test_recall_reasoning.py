"""The study on models whose circuits are planted, and its parts on cases worked out by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from chat_examples import chat_model
from conftest import tiny
from planted_recall import COPY, RECALL, agreeing_data, planted, planted_data

from circuits.recall_reasoning import RecallReasoning, StudySettings, study
from circuits.recall_reasoning.designs import DESIGNS, Ability
from circuits.recall_reasoning.diagnostics import firing_table, relations_table
from circuits.recall_reasoning.dissociation import doubles_table, singles_table
from circuits.recall_reasoning.losses import Losses, pooled
from circuits.recall_reasoning.published import last_token
from circuits.recall_reasoning.scores import RULES, AbilityCircuit, circuits_of
from interp.data.pairs import PromptPairs
from interp.errors import DataError, InterpError, RunFolderError
from interp.model.components import Component

RECALLING, COPYING = DESIGNS["A-C"].abilities
QUICK = StudySettings(
    design="A-C",
    sizes=(1,),
    rules=("absolute",),
    ablations=("resample",),
    n_select=20,
    n_validate=20,
    n_test=40,
    n_control=20,
    n_random=10,
    seeds=(0, 1),
)


# --- planted circuits --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def separate(tmp_path_factory):
    out = tmp_path_factory.mktemp("planted") / "run"
    return out, study(planted(), QUICK, out, data=planted_data)


def test_planted_heads_are_found_exactly(separate):
    found = separate[1].tables["circuits"].groupby("ability")["component"].agg(set).to_dict()
    assert found == {
        "recall": {f"a{RECALL[0]}.h{RECALL[1]}"},
        "copying": {f"a{COPY[0]}.h{COPY[1]}"},
    }


def test_planted_heads_dissociate_in_every_seed(separate):
    result = separate[1]
    assert result.chosen["holds"].all()
    assert result.tables["doubles"]["holds"].tolist() == [True, True]
    assert np.allclose(result.chosen["own_effect"], 1, atol=0.05)
    assert np.allclose(result.chosen["other_effect"], 0, atol=0.05)
    assert result.verdict[0].startswith("There is a double dissociation of recall and copying")
    assert result.overlap()["jaccard"].tolist() == [1, 1]


def test_saved_study_reads_back_and_is_not_run_again(separate):
    out, result = separate
    again = study(planted(), QUICK, out, data=planted_data)
    assert again.verdict == result.verdict
    for name, table in result.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name])
    assert again.scores["head"].equals(RecallReasoning.load(out).scores["head"])
    with pytest.raises(RunFolderError, match=r"n_random=10 \(this one: 9\)"):
        study(planted(), QUICK.but(n_random=9), out, data=planted_data)
    with pytest.raises(RunFolderError, match="recall-reasoning run with other data"):
        study(planted(), QUICK, out, data=lambda seed: planted_data(seed + 2))


def test_summary_and_page_hold_what_was_found(separate):
    result = separate[1]
    keys = {"model", "cells", "circuits", "single_dissociations", "double_dissociation"}
    assert keys | {"random_control", "verdict"} <= set(result.summary())
    page = replace(result, model="A < B").report().html()
    assert (
        "<h1>Recall versus reasoning on A &lt; B</h1>" in page
        and "There is a double dissociation" in page
    )
    heat = result.plot_scores().data[0].z
    assert np.unravel_index(np.argmax(heat), heat.shape) == RECALL
    assert len(result.plot_control().data) == 3


def test_circuits_of_one_relation_are_tested_on_each(tmp_path):
    model, data = planted(), planted_data()
    # the second half of the lands is asked for something else, by the same head
    data = replace(data, relation={i: str(int(b[1:]) // 9) for i, b in data.bridge.items()})
    selection = {cell: data.of("selection", cell)[:20] for cell in "AC"}
    head = Component(RECALL[0], "head", RECALL[1])
    whole = AbilityCircuit(RECALLING, "head", "absolute", (head,), (1.0,))
    table = relations_table(model, data, selection, [whole], "resample", tmp_path, most=20)
    assert list(zip(table["found_on"], table["cell"], table["relation"], strict=True)) == [
        (found, cell, tested) for found in "01" for cell in "AC" for tested in "01"
    ]
    assert (table["jaccard"] == 1).all()
    assert table.groupby(["found_on", "cell"])["n"].sum().tolist() == [20] * 4
    assert np.allclose(table["accuracy"], table["cell"] == "A")
    assert np.allclose(table["effect"], table["cell"] == "A", atol=0.2)
    # a cell without relations counts for the circuit of each; without pairs of one, it has none
    for copied, expected in (
        ("", [(found, *at) for found in "01" for at in (("A", "0"), ("A", "1"), ("C", ""))]),
        ("1", [("0", None, None), ("1", "A", "0"), ("1", "A", "1"), ("1", "C", "1")]),
    ):
        relation = {i: copied if i.endswith("C") else one for i, one in data.relation.items()}
        other = replace(data, relation=relation)
        out = tmp_path / f"copied-{copied}"
        table = relations_table(model, other, selection, [whole], "resample", out, most=20)
        rows = table[["found_on", "cell", "relation"]].astype(object).where(table.notna(), None)
        assert list(rows.itertuples(index=False, name=None)) == expected
        assert (table["n"] > 0).equals(table["cell"].notna())


def test_firing_is_read_at_the_last_token():
    model, data = planted(), planted_data()
    cells = {cell: data.of("test", cell)[:6] for cell in "AC"}
    pair = (Component(0, "neuron", 3), Component(2, "neuron", 7))
    heads = AbilityCircuit(RECALLING, "head", "absolute", (Component(0, "head", 0),), (1.0,))
    neurons = AbilityCircuit(COPYING, "neuron", "absolute", pair, (0.5, 0.25))
    table = firing_table(model, [heads, neurons], cells)
    assert table["neuron"].tolist() == [str(one) for one in pair]
    assert table["score"].tolist() == [0.5, 0.25]
    for side, cell in (("own", "C"), ("other", "A")):
        gates = last_token(model, [p.clean for p in cells[cell]]).gates
        assert table[side].tolist() == [(gates[:, 0, 3] > 0).mean(), (gates[:, 2, 7] > 0).mean()]
    assert np.allclose(table["specificity"], table["own"] - table["other"])
    assert firing_table(model, [heads], cells).empty


def test_firing_in_a_chat_is_read_behind_its_template():
    model = chat_model("chatml")
    row = {"clean": "Say a", "corrupt": "Say b", "answer": "a", "wrong_answer": "b"}
    chats = PromptPairs.from_records([row]).as_chat()
    every = tuple(Component(0, "neuron", unit) for unit in range(model.arch.d_mlp))
    circuit = AbilityCircuit(RECALLING, "neuron", "absolute", every, (1.0,) * len(every))
    fires = firing_table(model, [circuit], {"A": chats, "C": chats})["own"].to_numpy()
    written, plain = (
        last_token(model, [text]).gates[0, 0] > 0
        for text in (chats.rendered(model)[0].clean, row["clean"])
    )
    assert (fires == written).all() and (written != plain).any()


def test_one_head_for_both_is_no_dissociation(tmp_path):
    result = study(planted(separate=False), QUICK, tmp_path / "run", data=planted_data)
    assert not result.chosen["holds"].any()
    assert not result.tables["doubles"]["holds"].any()
    assert result.verdict[0].startswith("No double dissociation")


@pytest.mark.parametrize("n", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_false_positives_are_rare_where_cells_are_alike(n, tmp_path):
    """Both cells are random prompts of one kind, so that a dissociation would be false."""
    settings = QUICK.but(seeds=tuple(range(n)), sizes=(1, 2), n_select=12, n_validate=12, n_test=24)
    model = tiny("llama")
    result = study(model, settings, tmp_path / "run", data=lambda seed: agreeing_data(model, seed))
    assert result.tables["doubles"]["holds"].sum() == 0
    assert result.chosen["holds"].mean() <= 0.05  # two single dissociations a seed


def test_cell_that_the_model_cannot_do_is_refused(tmp_path):
    def wrong(seed):
        data = planted_data(seed)
        return agreeing_data(None, seed, data)

    with pytest.raises(InterpError, match="cell A is not feasible"):
        study(planted(), QUICK, tmp_path / "run", data=wrong)


# --- parts -------------------------------------------------------------------------------------


def test_rules_by_hand():
    own, other = np.array([0.5, 0.5, -0.2]), np.array([0.1, -0.3, -0.4])
    assert np.allclose(RULES["difference"](own, other), [0.4, 0.8, 0.2])
    assert np.allclose(RULES["clipped"](own, other), [0.4, 0.5, 0.0])
    assert np.allclose(RULES["absolute"](own, other), [0.4, 0.2, -0.6])
    assert np.allclose(RULES["exclusive"](own, other), [0, 0, 0])
    assert np.allclose(RULES["exclusive"](own, np.array([0.01, -0.02, 0.0])), [0.5, 0, -0.2])


def test_circuits_hold_the_best_positive_components():
    scores = xr.DataArray(
        [[[0.9, 0.1], [0.5, 0.0]], [[0.0, 0.3], [0.1, 0.0]]],
        {"cell": ["A", "C"]},
        ("cell", "layer", "unit"),
        name="head",
    )
    found = circuits_of(scores, Ability("recall", ("A",), ("C",)), "difference", (1, 2, 4))
    assert [list(map(str, c.components)) for c in found] == [["a0.h0"], ["a0.h0", "a1.h0"]]
    assert found[1].scores == pytest.approx((0.9, 0.4))


def losses_of(own: float, other: float, n: int = 400) -> Losses:
    """One set; accuracy and effect lost by every pair of A and of C."""
    cells = {"A": np.full((n, 1), own), "C": np.full((n, 1), other)}
    clusters = {cell: [f"{cell}{i % 40}" for i in range(n)] for cell in cells}
    name = "recall/head/absolute/1"
    return Losses(cells, cells, clusters, (name,))


@pytest.mark.parametrize(
    ("own", "other", "needed", "intact"),
    [(0.2, 0.0, True, True), (0.14, 0.0, False, True), (0.9, 0.04, True, False)],
)
def test_single_dissociation_is_judged_by_margins(own, other, needed, intact):
    circuit = AbilityCircuit(RECALLING, "head", "absolute", (Component(0, "head", 0),), (1.0,))
    measured = {"resample": losses_of(own, other)}
    (row,) = singles_table([circuit], measured, QUICK, 0).to_dict("records")
    assert (row["needed"], row["intact"]) == (needed, intact)
    assert row["selectivity"] == pytest.approx(own - other)


def test_a_large_and_a_null_effect_are_no_double_dissociation():
    singles = pd.DataFrame(
        {
            "ability": ["recall", "copying"],
            "circuit": ["recall/head/absolute/1"] * 2,
            "needed": [True, False],
            "intact": [True, True],
            "specific": [True, False],
            "holds": [True, False],
        }
    )
    (row,) = doubles_table(DESIGNS["A-C"], singles, losses_of(0.9, 0.0), "resample", 0).to_dict(
        "records"
    )
    assert not row["holds"]
    # the same set serves both, so the two selectivities cancel
    assert row["dd"] == pytest.approx(0)


def test_every_cell_counts_as_much():
    values = {"A": np.array([[1.0], [1.0]]), "B": np.array([[0.0]] * 6)}
    clusters = {"A": ["a", "b"], "B": list("cdefgh")}
    rows, entities = pooled(values, clusters, ("A", "B"))
    assert rows.mean() == pytest.approx(0.5)
    assert entities == list("abcdefgh")
    ability = Ability("recall", ("A",), ("B",))
    sets = Losses(values, values, clusters, ("x",))
    assert sets.selectivity(ability)[0] == pytest.approx(1)


def test_settings_read_back_and_refuse_what_they_do_not_know():
    assert StudySettings().but(**QUICK.record()) == QUICK
    twice = StudySettings().but(seeds=[0, 1, 0], rules=["clipped"] * 2)
    assert (twice.seeds, twice.rules) == ((0, 1), ("clipped",))
    with pytest.raises(DataError, match="Did you mean 'n_random'"):
        StudySettings().but(n_randoms=3)
    with pytest.raises(DataError, match="Did you mean 'difference'"):
        StudySettings().but(rules=["diference"])
