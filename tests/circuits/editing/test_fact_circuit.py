"""The circuit of a fact's own prompts: what it is found on, and that nothing outside is changed."""

import pytest
import torch
from conftest import tiny

from circuits.discovery.ranking import greedy_edges
from circuits.editing import fact_circuit
from circuits.editing.fact import Fact
from circuits.editing.fact_circuit import inside_circuit
from circuits.editing.methods import FineTune, Method
from circuits.editing.writing import Request, write
from interp.attribution.attribute import attribute_edges
from interp.errors import DataError

FACT = Fact("w1 {} w2 w3", "w10 w11", "w40", "w4 {} w5", implicit=("w20 w21", "w22"))
STAGE = FineTune(None, edges=0.05, steps=3)


@pytest.fixture
def foils(monkeypatch):
    monkeypatch.setattr(fact_circuit, "_foil", lambda model, fact, name: "w50 w51")


def by_hand(model, edges: float):
    """EAP-IG of the model's own next token, the subject against another name."""
    clean, corrupt = "w1 w10 w11 w2 w3", "w1 w50 w51 w2 w3"
    with torch.no_grad():
        logits = model.hf(torch.tensor([model.encode(clean)])).logits[0, -1]
    said, second = (model.token(int(i)).strip() for i in logits.topk(2).indices)
    row = {"clean": clean, "corrupt": corrupt, "answer": said, "wrong_answer": second}
    scores = attribute_edges(model, [row], "eap-ig", "logprob", progress=False)
    return greedy_edges(scores, round(edges * scores.graph.n_edges))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_may_change_is_what_the_circuit_holds(family: str, foils):
    model = tiny(family)
    circuit, inside = by_hand(model, STAGE.edges), inside_circuit(model, [FACT], STAGE)
    nodes = [name for name in circuit.nodes if name != "input"]
    assert 0 < len(nodes) < 15
    d = model.arch.d_head
    heads = {
        f"a{layer}.h{int(i) // d}"
        for (site, layer), mask in inside.items()
        if site == "z"
        for i in mask.nonzero()[:, 0]
    }
    mlps = {f"m{layer}" for site, layer in inside if site == "mlp_post"}
    assert heads | mlps == set(nodes)
    assert all(mask.all() for (site, _), mask in inside.items() if site == "mlp_post")


def test_nothing_outside_the_circuit_is_changed(foils):
    model = tiny("llama")
    inside = inside_circuit(model, [FACT], STAGE)
    (got,) = write(model, [Request((FACT,))], Method("circuit", (STAGE,)), {})
    assert {change.place for change in got.changes} == set(inside)
    for change in got.changes:
        outside = inside[change.place] == 0
        assert not change.matrix[:, outside].any() and change.matrix.any()
        assert change.up.shape[1] == STAGE.rank


def test_edits_with_circuits_of_their_own_are_as_if_alone(foils):
    model = tiny("llama")
    facts = (FACT, Fact("w6 {} w7", "w12 w13", "w41"))
    method = Method("circuit", (STAGE,))
    together = write(model, [Request((fact,)) for fact in facts], method, {})
    assert {c.place for c in together[0].changes} != {c.place for c in together[1].changes}
    for fact, got in zip(facts, together, strict=True):
        (alone,) = write(model, [Request((fact,))], method, {})
        for one, other in zip(got.changes, alone.changes, strict=True):
            torch.testing.assert_close(one.matrix, other.matrix, atol=1e-5, rtol=1e-2)


def test_the_two_hop_question_has_a_circuit_of_its_own(foils):
    model = tiny("llama")
    (informed,) = Method("circuit", (STAGE,)).informed().stages
    assert isinstance(informed, FineTune) and informed.forms == ("cloze", "two_hop")
    rows = [fact_circuit._row(model, FACT, form) for form in ("cloze", "question", "two_hop")]
    assert [row["clean"] for row in rows if row] == [
        "w1 w10 w11 w2 w3",
        "Q: w4 w10 w11 w5\nA:",
        "Q: w4 w20 w21 w5\nA:",
    ]
    assert fact_circuit._row(model, Fact("w1 {}", "w2", "w3"), "two_hop") is None


def test_an_edit_without_a_circuit_is_noted(monkeypatch):
    monkeypatch.setattr(fact_circuit, "_foil", lambda model, fact, name: name)  # no contrast
    (got,) = write(tiny("llama"), [Request((FACT,))], Method("circuit", (STAGE,)), {})
    assert got.changes == () and got.p[0][0] != got.p[0][0]
    assert "clean and corrupt are the same tokens" in got.skipped[0]
    with pytest.raises(DataError, match="no fact has two_hop prompts"):
        inside_circuit(tiny("llama"), [Fact("w1 {}", "w2", "w3")], FineTune(None, ("two_hop",)))


def test_another_name_is_of_as_many_tokens():
    model = tiny("llama")
    name = fact_circuit._foil(model, FACT, "w1 w2")
    assert name != FACT.subject and len(model.encode(f" {name}")) == len(model.encode(" w1 w2"))
