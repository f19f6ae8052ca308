"""Stability of circuits: planted scores, the consensus, test prompts against plain evaluation."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny
from stability_examples import template_pairs, template_rows
from test_discovery import SMALL, scores_of

import circuits
import interp
from circuits.discovery import (
    Evaluator,
    Stability,
    StabilitySettings,
    evaluate,
    faithfulness,
    prune,
    resampled,
    top_edges,
)
from circuits.discovery.held_out import subset
from circuits.discovery.resampling import node_sums
from circuits.discovery.stability import consensus_ranking
from interp.attribution.attribute import attribute_edges, attribute_nodes
from interp.errors import DataError, PlanError
from interp.statistics import bootstrap_ratio, expected_jaccard, resample_weights

PATH = ("input->a0.h0<v>", "a0.h0->m1", "m1->logits")
ALWAYS = [SMALL.edge_names.index(name) for name in PATH]
OF_A = SMALL.edge_names.index("input->m0")
OF_B = SMALL.edge_names.index("input->m1")
SETTINGS = StabilitySettings(
    methods=("eap-dg", "eap"),
    edges=40,
    nodes=5,
    by="template",
    entities="subject",
    resamples=40,
    splits=6,
    sample_size=4,
    threshold=0.5,
)


def quick(**changes: object) -> StabilitySettings:
    options = {"edges": 4, "nodes": 3, "resamples": 60, "splits": 12, "samples": 0}
    return StabilitySettings.model_validate(options | changes)


def planted(n: int = 16, noise: float = 0.01, seed: int = 0):
    """Three edges that every pair has, and one that only either half of the pairs has."""
    values = noise * np.random.default_rng(seed).normal(size=(n, SMALL.n_edges))
    values[:, ALWAYS] += (5.0, -4.0, 3.0)
    values[::2, OF_A] += 2.0
    values[1::2, OF_B] += 1.0
    return dataclasses.replace(scores_of(values), method="eap-dg", prompts=("a prompt",))


def groups(n: int = 16) -> list[str]:
    return ["a", "b"] * (n // 2)


def test_planted_edges_have_their_inclusion():
    found = resampled([planted()], quick(by="template"), groups())
    edges = found.edges.set_index("edge")
    assert (edges.loc[list(PATH), "prompts"] == 1).all()
    # of each group's own top four its own edge is the fourth
    assert edges.loc[list(PATH), "groups"].tolist() == [1, 1, 1]
    assert edges.iloc[[OF_A, OF_B]]["groups"].tolist() == [0.5, 0.5]
    # the edge of a wins unless b is drawn more than twice as often
    values, weights = planted().values.values, resample_weights(16, 0, 60)
    first = [(w @ values)[OF_A] > (w @ values)[OF_B] for w in weights]
    assert edges.iloc[OF_A]["prompts"] == pytest.approx(np.mean(first))
    assert edges["prompts"].sum() == pytest.approx(4)
    assert edges.loc[list(PATH), "rank"].tolist() == [1, 2, 3]
    assert edges.loc[PATH[1], "score"] == pytest.approx(-4, abs=0.02)


def test_the_consensus_is_what_has_the_threshold_and_leads_somewhere():
    found = resampled([planted()], quick(by="template"), groups())
    consensus = found.consensus()
    assert set(consensus.edge_names) == set(PATH)
    assert consensus.prompts == ("a prompt",)
    assert consensus.strongest(1)[0][0] == PATH[0]
    everything = found.consensus(0.5, ["groups"])
    # neither MLP that these feed is fed onwards but m1
    assert set(everything.edge_names) == {*PATH, "input->m1"}
    assert found.stable.value == 3 + (found.edges.iloc[OF_A]["prompts"] >= 0.9)
    with pytest.raises(PlanError, match="no path from the input to the logits has inclusion 1"):
        resampled([planted()], quick(edges=2)).consensus(1.0)
    with pytest.raises(PlanError, match="over methods was not measured; it needs two --methods"):
        found.consensus(over=["methods"])


def test_inclusion_over_methods_is_that_of_a_method_drawn_at_random():
    first = planted()
    other = dataclasses.replace(planted(seed=1), method="eap")
    values = other.values.copy()
    values[:, ALWAYS[0]] = 0.0
    other = dataclasses.replace(other, values=values)
    found = resampled([first, other], quick(methods=("eap-dg", "eap"), over=("methods",)))
    assert found.edges.iloc[ALWAYS[:2]]["methods"].tolist() == [0.5, 1]
    (row,) = found.between.itertuples()
    assert (row.kind, row.first, row.second) == ("methods", "eap-dg", "eap")
    # three of four edges are shared, the fourth is noise or of a
    assert row.edges == pytest.approx(3 / 5)


def test_agreement_and_replication_of_planted_edges():
    s = quick(edges=3, threshold=0.9, splits=30)
    found = resampled([planted()], s)
    assert found.agreement()["part"].tolist() == ["1/8", "1/4", "1/2"]
    assert found.agreement()["n_pairs"].tolist() == [2, 4, 8]
    assert found.agreement()["edges"].tolist() == [1, 1, 1]
    assert found.replicated["halves"] == 20
    assert found.replicated["stable"] == 3 and found.replicated["replicated"] == 1
    assert found.stable == (3, 3, 3)
    assert found.chance == pytest.approx(expected_jaccard(3, SMALL.n_edges))


def test_groups_of_prompts_are_told_from_chance():
    tests = resampled([planted()], quick(by="template"), groups()).tests.set_index("test")
    assert tests.loc["found groups: silhouette", "p"] < 0.01
    assert tests.loc["given groups: silhouette", "p"] < 0.01
    assert tests.loc["found and given groups: adjusted Rand index", "value"] == 1
    jaccard = tests.loc["given groups: Jaccard of top edges"]
    assert jaccard["value"] == pytest.approx(3 / 5)
    # of two random groups, too, either may by chance have more pairs of a, or as many
    assert jaccard["value"] < jaccard["low"] + 1e-9 and jaccard["by_chance"] > 0.8
    mixed = np.random.default_rng(0).permutation(groups()).tolist()
    tests = resampled([planted()], quick(by="template"), mixed).tests.set_index("test")
    assert tests.loc["given groups: silhouette", "p"] > 0.05


def test_entities_are_resampled_with_all_their_pairs():
    values = np.zeros((8, SMALL.n_edges))
    values[:, ALWAYS] = (5.0, 4.0, 3.0)
    # each of two pairs of an entity cancels the other, so as entities they never differ
    values[::2, OF_A], values[1::2, OF_A] = 9.0, -9.0
    scores = dataclasses.replace(scores_of(values), method="eap-dg")
    entities = [str(i // 2) for i in range(8)]
    apart = resampled([scores], quick(edges=3)).edges.iloc[OF_A]["prompts"]
    together = resampled([scores], quick(edges=3), entities=entities)
    assert apart > 0.2
    assert together.edges.iloc[OF_A]["prompts"] == 0
    assert together.pairs["entity"].tolist() == entities


@pytest.mark.parametrize("family", ["llama", "gemma3", "gptj"])
@pytest.mark.parametrize("method", ["eap", "eap-dg", "relp"])
def test_edges_that_leave_a_node_add_up_to_the_node(family: str, method: str):
    model, pairs = tiny(family), template_pairs(4)
    edges = attribute_edges(model, pairs, method, progress=False)
    nodes = attribute_nodes(model, pairs, method, progress=False).values.values
    found = node_sums(edges.values.values, edges.graph)
    assert np.abs(found - nodes).max() < 1e-4 * np.abs(nodes).max()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stability, Path]:
    folder = tmp_path_factory.mktemp("stability")
    found = circuits.stability(
        tiny("llama"),
        template_pairs(16),
        SETTINGS,
        test=template_pairs(8, 20),
        out=folder / "run",
        scores=folder / "scores",
        progress=False,
    )
    return found, folder


def test_circuits_on_test_prompts_are_those_of_plain_evaluation(run: tuple[Stability, Path]):
    found, _ = run
    held, test = found.held_out, Evaluator.of(tiny("llama"), template_pairs(8, 20))
    assert held is not None
    entities = held.pairs["entity"].tolist()
    of_consensus = evaluate(test, found.consensus(), 0, clusters=entities, progress=False)
    expected = [float(x) for x in of_consensus.faithfulness()]
    assert held.f(["consensus"]) == pytest.approx(expected, rel=1e-6)
    scores = attribute_edges(tiny("llama"), template_pairs(16), progress=False)
    y = subset(scores, np.arange(16) % 2 == 1)
    values = test.metric_of(top_edges(y, 40))
    assert held.pairs["group y"].to_numpy() == pytest.approx(values, abs=1e-4)
    assert held.n_edges["group y"] == top_edges(y, 40).n_edges
    gap, moved = test.full - test.empty, values - test.empty
    row = held.transfer().set_index(["circuit", "tested on"]).loc[("y", "x")]
    of_x = [i for i, group in enumerate(held.pairs["group"]) if group == "x"]
    assert row["f"] == pytest.approx(moved[of_x].sum() / gap[of_x].sum(), rel=1e-3)
    assert row["pairs"] == 4
    own = np.where(held.pairs["group"] == "x", held.pairs["group x"], held.pairs["group y"])
    other = np.where(held.pairs["group"] == "x", held.pairs["group y"], held.pairs["group x"])
    table = held.own_and_other().set_index("circuit of")
    expected = [float(x) for x in bootstrap_ratio(own - other, gap, clusters=entities)]
    assert table.loc["own - other groups"].tolist() == pytest.approx(expected, rel=1e-5)
    ranking = consensus_ranking(scores, found.edges["rank"].to_numpy(float))
    curve = faithfulness(test, ranking, clusters=entities, progress=False)
    both = [held.curves[name]._areas(0) for name in ("sample 1", "sample 2")]
    areas = held.areas().set_index(["ranking", "area"])
    assert areas.loc[("consensus", "CMD")].tolist() == pytest.approx(curve.areas()["CMD"], rel=1e-5)
    cpr = curve.areas()["CPR"].value - np.mean([one["CPR"][0] for one in both])
    assert areas.loc[("consensus - single samples", "CPR"), "value"] == pytest.approx(cpr, rel=1e-5)


def test_the_consensus_ranking_has_the_order_of_ranks_and_the_signs_of_scores():
    scores = planted()
    ranks = resampled([scores], quick()).edges["rank"].to_numpy(float)
    ranking = consensus_ranking(scores, ranks)
    values = ranking.values.values[0]
    assert (np.argsort(-np.abs(values), kind="stable") == np.argsort(ranks, kind="stable")).all()
    assert (np.sign(values) == np.sign(scores.mean().values)).all()
    assert set(top_edges(ranking, 3).edge_names) == set(PATH)
    # by sign the largest positive scores come first, the largest negative one last
    signed = resampled([scores], quick(signed=True)).edges["rank"].to_numpy(float)
    assert (signed == ranks).all()
    last = np.argsort(-values, kind="stable")[-1]
    assert SMALL.edge_names[last] == PATH[1]
    assert ranking.n_pairs == 1 and ranking.prompts == scores.prompts


def test_a_run_is_read_back_and_its_scores_serve_another(run: tuple[Stability, Path]):
    found, folder = run
    again = Stability.load(folder / "run")
    assert again.summary() == found.summary()
    assert (folder / "run" / "index.html").is_file()
    assert not (folder / "run" / "scores").exists()
    held = found.edges["prompts"].to_numpy() >= 0.5
    exists = found.graph.exists
    expected = prune(
        found.graph, torch.zeros_like(exists).masked_scatter(exists, torch.tensor(held))
    )
    assert bool((again.consensus().edges == expected).all())

    none = SETTINGS.model_copy(update={"edges": 1, "threshold": 1.0})
    rows, test = template_pairs(16), template_pairs(8, 20)
    empty = circuits.stability(
        tiny("llama"), rows, none, test=test, scores=folder / "scores", progress=False
    )
    assert empty.held_out is None and "no path from the input" in empty.warnings[-1]

    def never(*args: object, **options: object) -> None:
        raise AssertionError("scores are computed again")

    fewer = SETTINGS.model_copy(update={"edges": 20})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.attribution.micro_batches.AttributionRun._part", never)
        other = circuits.stability(
            tiny("llama"), template_pairs(16), fewer, scores=folder / "scores", progress=False
        )
    assert other.held_out is None and other.edges["prompts"].sum() == pytest.approx(20)


def test_what_does_not_fit_is_refused():
    model, pairs = tiny("llama"), template_pairs(16)
    for change, told in (
        ({"edges": 262}, "--edges 262: there are 262 edges"),
        ({"nodes": 16}, "--nodes 16: there are 16 nodes"),
        ({"sample_size": 16}, "--sample-size 16: there are 16 usable pairs"),
        ({"threshold": 0.0}, "--threshold 0 is not an inclusion"),
        ({"over": ("groups",), "by": None}, "inclusion --over groups needs --by"),
        ({"over": ("methods",), "methods": ("eap",)}, "needs two --methods or more"),
        ({"methods": ("eap", "eap")}, "name each method once"),
        ({"resamples": 1}, "--resamples 1 is too few"),
        ({"seed": -1}, "--seed -1 is too few"),
    ):
        with pytest.raises(PlanError, match=told):
            settings = SETTINGS.model_copy(update=change)
            circuits.stability(model, pairs, settings, test=pairs, progress=False)
    rows = template_rows(20)
    for row in rows[::5]:  # answered alike, so no model can tell them apart
        row["wrong_answer"] = row["answer"]
    some = interp.load_pairs(rows)
    with pytest.raises(PlanError, match="--sample-size 16: there are 16 usable pairs"):
        settings = SETTINGS.model_copy(update={"sample_size": 16})
        circuits.stability(model, some, settings, test=pairs, progress=False)
    for change, told in (
        ({"by": "templates"}, "no column 'templates' to group by. Did you mean 'template'"),
        ({"entities": "subjct"}, "no span 'subjct'. Did you mean 'subject'"),
    ):
        with pytest.raises(DataError, match=told):
            circuits.stability(model, pairs, SETTINGS.model_copy(update=change), progress=False)
    with pytest.raises(PlanError, match="2 pairs or entities are too few"):
        resampled([planted()], quick(), entities=groups())
    with pytest.raises(PlanError, match="scores by eap-dg, and settings for eap"):
        resampled([planted()], quick(methods=("eap",)))
    other = dataclasses.replace(planted(), method="eap", metric="prob")
    with pytest.raises(PlanError, match="of other pairs, weights, metrics or answers"):
        resampled([planted(), other], quick(methods=("eap-dg", "eap")))
