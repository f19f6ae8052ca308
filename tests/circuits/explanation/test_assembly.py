"""Graphs of all and of few nodes: sums, compiled programs by position, a planted neuron."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_hf, word_tokenizer
from explain_examples import conserved, linear_run, program_prompt

import interp
from circuits.discovery.ground_truth import program_contrast
from circuits.explanation.assembly import strongest
from circuits.explanation.attribution import LinearRun
from circuits.explanation.explain import assembled, explain
from interp.attribution.exact import Effects
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


@pytest.mark.parametrize(("family", "paired"), WHOLE)
def test_every_node_passes_on_what_it_gets(family: str, paired: bool):
    run = linear_run(family, paired)
    whole = assembled(run, strongest(run), 1.0)
    conserved(whole, everything=True)
    assert whole.scores["conservation error"] < 1e-4 if paired else "bias" in whole.scores
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
