"""`explain`: its options, what it saves, what it refuses."""

from pathlib import Path

import pytest
import torch
from conftest import tiny, word_pairs
from explain_examples import linear_run, model_of

import circuits
from circuits.explanation.explain import explain
from circuits.explanation.graph import AttributionGraph
from interp.errors import DataError, PlanError


@pytest.mark.parametrize(("family", "paired"), [("llama", True), ("gpt2", False)])
def test_the_verb(family: str, paired: bool):
    model, pair = tiny(family), word_pairs()[1]
    given = {"corrupt": pair.corrupt} if paired else {}
    both = (pair.answer, pair.wrong_answer)
    graph = circuits.explain(model, pair.clean, both, **given, nodes=20)
    assert graph.n_nodes == 20 and graph.method == ("eap-dg" if paired else "relp")
    assert graph.tokens == ("w7", "w8", "w10", "w11")[: len(graph.tokens)]
    assert graph.corrupt_tokens == (("w7", "w8", "w12", "w11") if paired else ())
    run = linear_run(family, paired)
    assert graph.value == pytest.approx(run.value, rel=1e-5)
    if paired:
        same = explain(model, pair, nodes=20)
        assert same.edges.equals(graph.edges) and same.corrupt_value == graph.corrupt_value
    by_share = explain(model, pair.clean, both, **given, share=0.5)
    sizes = (
        torch.cat(
            [run.heads(i).abs().flatten() for i in range(3)]
            + [run.of_neurons(i).abs().flatten() for i in range(3)]
        )
        .sort()
        .values.flip(0)
    )
    n = int((sizes.cumsum(0) < 0.5 * sizes.sum()).sum()) + 1
    assert by_share.n_nodes == n


def test_refused_by_name():
    model, pair = tiny("llama"), word_pairs()[1]
    with pytest.raises(PlanError, match="not both"):
        explain(model, pair, nodes=3, share=0.3)
    with pytest.raises(PlanError, match="nodes=0"):
        explain(model, pair, nodes=0)
    with pytest.raises(PlanError, match="share=2"):
        explain(model, pair, share=2)
    with pytest.raises(PlanError, match="edges=0"):
        explain(model, pair, edges=0)
    with pytest.raises(DataError, match="of its own"):
        explain(model, pair, corrupt="w1")
    with pytest.raises(DataError, match="tokens of the prompt"):
        explain(model, pair.clean, "w30", pair.clean)
    with pytest.raises(PlanError, match="two answers"):
        explain(model, pair.clean, "w30", metric="logprob")
    with pytest.raises(DataError, match="begin with the same"):
        explain(model, pair.clean, ("w30 w5", "w30"))
    with pytest.raises(PlanError, match="target=0"):
        explain(model, pair.clean, 0)
    with pytest.raises(PlanError, match="no gradient"):
        explain(model, pair, metric="rank")
    with pytest.raises(DataError, match="the text that follows"):
        explain(model, pair.clean, " ")


def test_it_is_saved_with_what_made_it(tmp_path: Path):
    model, pair = tiny("llama"), word_pairs()[1]
    graph = explain(model, pair, nodes=8)
    read = AttributionGraph.load(graph.save(tmp_path / "g"))
    assert read.settings == graph.settings and read.edges.equals(graph.edges)
    assert read.settings["prompt"]["clean"] == list(model.encode(pair.clean))
    assert model_of("llama") is model
