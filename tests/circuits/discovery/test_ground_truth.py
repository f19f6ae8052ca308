"""Compiled programs: the toolkit against circuits that are known (spec section 5.3)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from circuits.discovery import Evaluator, acdc, all_edges, edge_pruning, of_edges
from circuits.discovery.evaluator import prepared
from circuits.discovery.ground_truth import program_contrast, score_methods
from interp.attribution.attribute import edges_by
from interp.attribution.exact import exact_nodes
from interp.errors import DataError, ModelError, PlanError
from interp.loading.programs import PROGRAMS as SHIPPED
from interp.loading.programs import file_of
from interp.loading.tracr import load_program, read_program
from interp.model.graph import Graph

TRACR = Path(__file__).parents[4] / "shared" / "data" / "circuits" / "tracr"
"""Other examples and scores of the same programs, made by others."""
NAMES = ["reverse", "xproportion", "hist", "sort"]
PROGRAMS = [*SHIPPED] + (NAMES if TRACR.is_dir() else [])
needs_others = pytest.mark.skipif(not TRACR.is_dir(), reason=f"no compiled programs at {TRACR}")


def at(name: str) -> str:
    """A shipped name as it is, or the path of another's program."""
    return name if name.startswith("tracr-") else str(TRACR / f"{name}.npz")


def loaded(name: str):
    model, program = load_program(at(name)), read_program(at(name))
    return model, program, program_contrast(model, program)


def evaluator_of(name: str) -> tuple[Evaluator, set[str]]:
    """A program's examples as an evaluator, and its true edges."""
    model, program, contrast = loaded(name)
    batches, full, empty = prepared(model, [contrast], "resample")
    ids = tuple(str(i) for i in range(len(contrast)))
    made = Evaluator(model, batches, full, empty, (), ids, frozenset(), "resample", "output", name)
    return made, set(program.gt_edges_resample_nonzero or ())


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_compute_what_they_were_compiled_to(name: str):
    model, program, _ = loaded(name)
    ids = torch.tensor([pair.clean_ids for pair in program.pairs])
    described = json.loads(file_of(at(name)).with_suffix(".json").read_text())
    want = torch.tensor([pair["clean_out"] for pair in described["pairs"]])
    torch.testing.assert_close(model.hf(ids).logits, want, atol=1e-4, rtol=0)
    text = " ".join(program.pairs[0].clean)
    assert model.encode(text) == program.pairs[0].clean_ids


@pytest.mark.parametrize("name", PROGRAMS)
def test_stored_scores_are_reproduced_and_the_circuit_found(name: str):
    marks = {
        m.method: m
        for m in score_methods(at(name), ["exact", "eap", "eap-ig", "clean-corrupted", "eap-dg"])
    }
    assert marks["exact"].auroc == 1.0
    for method in ("exact", "eap", "eap-ig", "clean-corrupted"):
        error = marks[method].max_abs_error
        assert error is not None
        assert error < 1e-4
    blind = {"hist": 0.625, "sort": 0.714}
    assert marks["eap"].auroc == pytest.approx(
        blind.get(name.removeprefix("tracr-"), 1.0), abs=1e-3
    )
    # The toolkit's own: right on every program, below half an exact search.
    assert marks["eap-dg"].auroc == 1.0
    assert marks["eap-dg"].forwards < marks["eap-dg"].half_edges


@needs_others
def test_expected_numbers():
    found = {}
    for name in ("reverse", "xproportion"):
        model, _, contrast = loaded(name)
        for method in ("exact", "eap", "eap-ig", "clean-corrupted"):
            mean = torch.stack(list(edges_by(model, contrast, method)[0])).mean(0)
            found[name, method] = (Graph.of(model.arch), mean)

    def score(name: str, method: str, edge: str) -> float:
        graph, mean = found[name, method]
        return float(mean[graph.edge(edge)])

    for method in ("exact", "eap", "eap-ig"):
        assert score("reverse", method, "input->a3.h0<v>") == pytest.approx(6.3333, abs=1e-4)
        assert score("reverse", method, "a3.h0->logits") == pytest.approx(6.3333, abs=1e-4)
    wanted = {"exact": 1.2583, "eap": 0.6951, "eap-ig": 1.1193, "clean-corrupted": 0.6292}
    for method, value in wanted.items():
        assert score("xproportion", method, "input->m0") == pytest.approx(value, abs=1e-4)


@needs_others
def test_qk_fix_restores_what_a_saturated_softmax_hides():
    model, _, contrast = loaded("sort")
    graph = Graph.of(model.arch)
    at = graph.edge("m1->a2.h0<k>")
    plain, fixed = (
        float(torch.stack(list(edges_by(model, contrast, m)[0])).mean(0)[at])
        for m in ("eap", "eap-qk")
    )
    assert plain == pytest.approx(0.0013, abs=1e-4)
    assert fixed == pytest.approx(2.0833, abs=1e-4)


@pytest.mark.parametrize("name", PROGRAMS)
def test_exact_edges_into_the_logits_sum_to_the_gap(name: str):
    """No final norm: what reaches the logits adds up; and EAP is exact there."""
    model, _, contrast = loaded(name)
    graph = Graph.of(model.arch)
    (exact, (high, low)), (eap, _) = (edges_by(model, contrast, m) for m in ("exact", "eap"))
    exact, eap = torch.stack(list(exact)), torch.stack(list(eap))
    torch.testing.assert_close(
        exact[:, :, graph.logits].sum(1), (high - low).double(), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        exact[:, :, graph.logits], eap[:, :, graph.logits], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_acdc_finds_the_true_circuit(name: str):
    data, truth = evaluator_of(name)
    assert set(acdc(data, 1e-3).edge_names) == truth


@pytest.mark.parametrize("name", ["tracr-reverse", "tracr-xproportion"])
def test_edge_pruning_finds_the_true_circuit(name: str):
    data, truth = evaluator_of(name)
    target = 1 - len(truth) / data.graph.n_edges
    found = edge_pruning(data, target, steps=150)
    assert set(found.edge_names) == truth


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_true_circuit_is_faithful_and_without_any_edge_it_is_not(name: str):
    data, truth = evaluator_of(name)
    circuit = of_edges(data.graph, truth)
    assert data.faithfulness(data.metric_of(circuit)) == pytest.approx(1, abs=1e-4)
    assert data.faithfulness(data.metric_of(all_edges(data.graph))) == pytest.approx(1, abs=1e-5)
    for edge in truth:
        less = of_edges(data.graph, truth - {edge})
        assert data.faithfulness(data.metric_of(less)) < 0.95


def test_exact_nodes_name_the_true_nodes():
    model, _, contrast = loaded("tracr-sort")
    graph = Graph.of(model.arch)
    effects = exact_nodes(model, contrast, range(graph.n_sources)).mean(0)
    found = {graph.sources[i] for i in (effects.abs() > 1e-3).nonzero()[:, 0].tolist()}
    assert found == {"input", "m0", "a1.h0", "m1", "a2.h0"}


def test_damaged_fixtures_are_refused(tmp_path):
    for name in ("hist.npz", "hist.json"):
        shutil.copy(file_of("tracr-hist").with_name(name), tmp_path / name)
    (tmp_path / "hist.json").rename(tmp_path / "away.json")
    with pytest.raises(DataError, match=r"hist\.json is missing"):
        interp.load_model(str(tmp_path / "hist.npz"))
    (tmp_path / "away.json").rename(tmp_path / "hist.json")
    arrays = dict(np.load(tmp_path / "hist.npz"))
    np.savez(tmp_path / "hist.npz", **{k: v for k, v in arrays.items() if "value" not in k})
    with pytest.raises(ModelError, match="does not hold the compiled program"):
        interp.load_model(str(tmp_path / "hist.npz"))
    arrays["unembed"] = np.full_like(arrays["unembed"], np.nan)
    np.savez(tmp_path / "hist.npz", **arrays)
    with pytest.raises(ModelError, match="not finite"):
        interp.load_model(str(tmp_path / "hist.npz"))
    (tmp_path / "hist.npz").write_bytes(b"no zip")
    with pytest.raises(ModelError, match="does not hold"):
        interp.load_model(str(tmp_path / "hist.npz"))
    (tmp_path / "hist.json").write_text(json.dumps({"config": {}}))
    with pytest.raises(DataError, match="'config.n_layers' is missing"):
        interp.load_model(str(tmp_path / "hist.npz"))


def test_programs_run_under_plans():
    model, program, _ = loaded("tracr-reverse")
    text = " ".join(program.pairs[0].clean)
    plan = interp.Ablate("blocks.3.attn.hook_z")
    plain, cut = (interp.forward(model, [text], steps).logits for steps in ((), plan))
    ids = torch.tensor([program.pairs[0].clean_ids])
    torch.testing.assert_close(plain[0], model.hf(ids).logits[0, -1])
    assert float(cut.abs().max()) < 1e-4  # the answer is written by that head alone


def test_next_token_sweeps_are_refused_on_programs():
    model, _, _ = loaded("tracr-hist")
    pairs = [{"clean": "1 2 3 4 1", "corrupt": "1 2 3 4 2", "answer": "1", "wrong_answer": "2"}]
    with pytest.raises(PlanError, match="attends in both directions"):
        interp.patch(model, pairs)
    with pytest.raises(ModelError, match="too many"):
        model.hf(torch.zeros(1, 9, dtype=torch.long))


def test_an_evaluator_needs_a_gap():
    from conftest import tiny, word_pairs

    from interp.errors import DataError, DegenerateGap

    with pytest.raises(DataError, match="none of the"):
        Evaluator.of(
            tiny("llama"), [dict(clean="w1", corrupt="w1", answer="w2", wrong_answer="w3")]
        )
    pair = dict(clean="w1 w2", corrupt="w3 w2", answer="w4", wrong_answer="w5")
    back = dict(clean="w3 w2", corrupt="w1 w2", answer="w4", wrong_answer="w5")
    with pytest.raises(DegenerateGap, match="score alike"):
        Evaluator.of(tiny("llama"), [pair, back])
    assert len(Evaluator.of(tiny("llama"), word_pairs()).ids) == 3


def test_programs_load_by_name_in_the_dtype_asked_for():
    model = interp.load_model("tracr-sort", dtype="bfloat16")
    assert (model.name, model.hf.unembed.weight.dtype) == ("tracr-sort", torch.bfloat16)
    with pytest.raises(ModelError, match="Did you mean 'tracr-sort'"):
        interp.load_model("tracr-srot")


def test_the_four_programs_are_described_where_they_lie():
    folder = file_of("tracr-hist").parent
    assert {f"tracr-{file.stem}" for file in folder.glob("*.npz")} == set(SHIPPED)
    card = (folder / "README.md").read_text()
    for name, what in SHIPPED.items():
        graph, record = Graph.of(load_program(name).arch), read_program(name)
        true = len(record.gt_edges_resample_nonzero or ())
        line = next(line for line in card.splitlines() if line.startswith(f"| `{name}`"))
        assert line.replace("*", "").endswith(f"| {graph.n_edges} | {true} |")
        assert what in line.replace("*", "")
