"""`explain`: conservation on six families, targets, compiled programs by position, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny, tiny_hf, word_pairs, word_tokenizer
from explain_examples import conserved, linear_run, model_of, program_prompt

import circuits
import interp
from circuits.discovery.ground_truth import program_contrast
from circuits.explain.assembly import strongest
from circuits.explain.attribution import LinearRun
from circuits.explain.explain import assembled, explain
from circuits.explain.graph import AttributionGraph
from circuits.explain.target_metric import explained_prompt
from interp.attribution.exact import Effects
from interp.errors import DataError, PlanError
from interp.loading.programs import PROGRAMS as SHIPPED
from interp.loading.tracr import load_program, read_program
from interp.model.graph import Graph
from interp.statistics import auroc

TRACR = Path(__file__).parents[4] / "shared" / "data" / "circuits" / "tracr"
WHOLE = [(f, True) for f in ("llama", "gemma2", "gpt_neox", "qwen3_moe")]
WHOLE += [(f, False) for f in ("qwen2", "gemma3", "gpt_neox", "qwen3_moe")]
"""Cases whose graphs are made of all nodes; the sums of all others' are tested without tables."""
N_EXAMPLES = 6
PROGRAMS = [*SHIPPED] + (["reverse", "xproportion", "hist", "sort"] if TRACR.is_dir() else [])


@pytest.mark.parametrize(("family", "paired"), WHOLE)
def test_every_node_passes_on_what_it_gets(family: str, paired: bool):
    run = linear_run(family, paired)
    whole = assembled(run, strongest(run), 1.0)
    conserved(whole, everything=True)
    assert whole.scores["conservation error"] < 1e-4
    assert whole.scores["explained"] == pytest.approx(1.0, rel=1e-4)
    few = assembled(run, strongest(run, 12), 0.7)
    conserved(few, everything=False)
    assert few.n_nodes == 12 and len(few.edges) < len(whole.edges)
    assert 0 <= few.scores["replacement"] <= 1 and 0 <= few.scores["completeness"] <= 1
    assert few.scores["completeness"] < whole.scores["completeness"] + 1e-9
    tokens = whole.nodes[whole.nodes["kind"] == "embedding"]["attribution"]
    bias = 0.0 if paired else float(whole.node("bias")["attribution"])
    assert tokens.sum() + bias == pytest.approx(whole.total, rel=1e-4)
    assert ("bias" in set(whole.nodes["id"])) == (not paired)


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


def test_targets():
    model, pair = tiny("llama"), word_pairs()[1]
    ids = torch.tensor([model.encode(pair.clean)])
    with torch.no_grad():
        logits = model.hf(ids).logits[0, -1].double()
    mean, w = logits.mean(), {n: model.encode(f"w{n}")[-1] for n in (30, 31, 5)}
    one = explain(model, pair.clean, "w30", nodes=5)
    assert one.value == pytest.approx(float(logits[w[30]] - mean), abs=1e-4)
    assert (one.metric, one.unit) == ("logit", "logits")
    two = explain(model, pair.clean, ("w30", "w31"), nodes=5)
    assert two.value == pytest.approx(float(logits[w[30]] - logits[w[31]]), abs=1e-4)
    likeliest = explain(model, pair.clean, nodes=5)
    assert likeliest.value == pytest.approx(float(logits.max() - mean), abs=1e-4)
    top = explain(model, pair.clean, 3, nodes=5, edges=1.0)
    best = logits.softmax(-1).topk(3)
    weights = best.values / best.values.sum()
    parts = weights * (logits[best.indices] - mean)
    own = top.nodes[top.nodes["kind"] == "logits"]
    np.testing.assert_allclose(own["attribution"], parts.numpy(), atol=1e-4)
    assert own["id"].tolist() == ["logits.0", "logits.1", "logits.2"]
    assert own["label"].tolist() == [repr(model.token(i)) for i in best.indices.tolist()]
    assert top.value == pytest.approx(float(parts.sum()), abs=1e-4)
    conserved(top, everything=False)


def test_a_span_is_read_where_its_tokens_are_predicted():
    model, pair = tiny("llama"), word_pairs()[1]
    span = explain(model, pair.clean, "w30 w5", nodes=30)
    ids = torch.tensor([model.encode(f"{pair.clean} w30 w5")])
    with torch.no_grad():
        logits = model.hf(ids).logits[0].double()
    centred = logits - logits.mean(-1, keepdim=True)
    want = centred[-3, ids[0, -2]] + centred[-2, ids[0, -1]]
    assert span.value == pytest.approx(float(want), abs=1e-4)
    assert (span.n_prompt, len(span.tokens)) == (len(ids[0]) - 2, len(ids[0]) - 1)
    assert span.node("logits")["pos"] == span.n_prompt - 1
    conserved(span, everything=False)
    against = explain(model, pair.clean, ("w30 w5", "w31"), pair.corrupt, nodes=30)
    assert against.scores["conservation error"] < 1e-4
    assert against.total == pytest.approx(against.value - against.corrupt_value)


def test_prompts_of_unequal_length_and_other_metrics():
    model = tiny("llama")
    longer = explain(model, "w7 w8 w10 w11 w5", ("w30", "w31"), "w7 w12 w11 w5", nodes=30)
    assert longer.corrupt_tokens.count("") == 1
    assert longer.scores["conservation error"] < 1e-4
    run = LinearRun.of(
        model, explained_prompt(model, "w7 w8 w10 w11 w5", ("w30", "w31"), "w7 w12 w11 w5")
    )
    assert float(run.embeddings().sum()) == pytest.approx(run.total, rel=1e-4)
    pair = word_pairs()[1]
    logprob = explain(model, pair, metric="logprob", nodes=30)
    assert logprob.unit == "nats" and logprob.scores["conservation error"] < 1e-4
    chat = explain(tiny("llama"), interp.prompt(model, "w1 w2 w3"), "w4", nodes=3)
    assert chat.n_nodes == 3


# --- known circuits ----------------------------------------------------------------------------


def exact_by_position(model, program) -> tuple[dict[tuple[int, int, int], float], Graph]:
    """Largest effect over all examples of resampling one edge at one source position."""
    graph, work = Graph.of(model.arch), Effects(model, program_contrast(model, program))
    out = {}
    with torch.no_grad():
        for source, destination in graph.exists.nonzero().tolist():
            change = work.change(source)
            for pos in range(change.shape[1]):
                here = torch.zeros_like(change)
                here[:, pos] = change[:, pos]
                effect = 0.0
                if here.any():
                    effect = float((work.full - work.with_change(destination, here)).abs().max())
                out[source, destination, pos] = effect
    return out, graph


@pytest.mark.parametrize("name", PROGRAMS)
def test_compiled_programs_are_recovered_by_position(name: str):
    path = name if name.startswith("tracr-") else str(TRACR / f"{name}.npz")
    model, program = load_program(path), read_program(path)
    program = program.model_copy(update={"pairs": program.pairs[:N_EXAMPLES]})
    model.hf.double()
    effects, graph = exact_by_position(model, program)
    scores = dict.fromkeys(effects, 0.0)
    for number in range(len(program.pairs)):
        prompt = program_prompt(model, program, number)
        run = LinearRun.of(model, prompt)
        found = assembled(run, strongest(run), 1.0)
        assert found.scores["conservation error"] < 1e-6
        per: dict[tuple[int, int, int], float] = {}
        for source, target, branch, weight in found.edges.itertuples(index=False):
            if ".rest" in source:
                continue
            start, _, pos = source.partition("@")
            start = "input" if start == "embedding" else start.partition(".n")[0]
            end = target.partition("@")[0].partition(".n")[0]
            key = (*graph.edge(f"{start}->{end}{f'<{branch}>' if branch else ''}"), int(pos))
            per[key] = per.get(key, 0.0) + weight
        for key, weight in per.items():
            scores[key] = max(scores[key], abs(weight))
    true = np.array([effect > 1e-6 for effect in effects.values()])
    found = np.array([round(scores[key], 6) for key in effects])
    print(name, "AUROC by position", auroc(found, true), int(true.sum()), "of", len(true))
    assert auroc(found, true) == 1.0


def test_a_planted_neuron_is_found():
    hf = tiny_hf("llama")
    answer = word_tokenizer().encode("w30")[-1]
    with torch.no_grad():
        mlp = hf.model.layers[2].mlp
        mlp.down_proj.weight[:, 9] = 20 * hf.lm_head.weight[answer]
    model = interp.load_model(hf, tokenizer=word_tokenizer())
    graph = explain(model, "w7 w8 w10 w11", "w30", nodes=10)
    assert graph.top(1)["id"].tolist() == ["m2.n9@3"]
    assert graph.into("logits")["source"].iloc[0] == "m2.n9@3"


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
