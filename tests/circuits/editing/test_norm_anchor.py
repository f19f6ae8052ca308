"""Norm-anchor scaling: hand-made vectors, what is written, and the norm by a plain loop."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny, tiny_hf, word_tokenizer
from test_editing import FACTS, moments_of, prompts_of  # noqa: F401 (a fixture)

import interp
from circuits.editing import norm_anchor
from circuits.editing.change import Change
from circuits.editing.edit import Edit
from circuits.editing.fact import Fact
from circuits.editing.keys import outputs_at
from circuits.editing.methods import Method, Search, Stage
from circuits.editing.norm_anchor import value_norm
from circuits.editing.presets import preset
from circuits.editing.targets import search_targets
from circuits.editing.writing import Request, write
from interp.errors import PlanError

ONE = torch.zeros(1, dtype=torch.long)
RESID = Stage((1,), target="resid", spread="linear", rho=0.0, search=Search(steps=5))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_what_the_ffn_writes_after_an_edit_has_the_norm(family: str, moments_of):  # noqa: F811
    """Searched on the layer's output; of Gemma, whose sublayers are normed, on the FFN's."""
    model = tiny(family)
    stage = replace(RESID, value_norm=7.0)
    method = Method("nas", (stage,))
    (got,) = write(model, [Request(FACTS[:1])], method, moments_of(model, method))
    bare = prompts_of(model, FACTS[0], templates=("{}",))
    place = ("mlp_post", 1)
    before = outputs_at(model, bare.learn, place, [()], ONE)[0]
    after = outputs_at(model, bare.learn, place, [got.changes], ONE)[0]
    aim = ("resid_post", 1) if family == "llama" else place
    found = search_targets(model, [bare], [aim], stage.search, [()], ONE)
    value = before + found.delta[0, 0]
    torch.testing.assert_close(after, 7.0 * value / value.norm(), atol=1e-3, rtol=1e-3)


def test_the_probability_is_that_of_what_is_written(moments_of):  # noqa: F811
    model = tiny("llama")
    method = Method("nas", (replace(RESID, value_norm=7.0),))
    (got,) = write(model, [Request(FACTS[:1])], method, moments_of(model, method))
    edited = Edit(FACTS[:1], got.changes, "nas", model.name, model.weights_hash)
    ids = torch.tensor(prompts_of(model, FACTS[0], templates=("{}",)).learn[0].ids)
    with edited.applied(model), torch.no_grad():
        log_p = model.hf(ids[None]).logits[0].log_softmax(-1)
    assert got.p[0][0] == pytest.approx(float(log_p[-2, ids[-1]].exp()), rel=1e-3)


def test_the_norm_is_a_mean_over_facts_on_the_unedited_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(norm_anchor, "KEPT", 0.67)
    model = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())
    got = value_norm(model, RESID, FACTS, tmp_path)
    norms = []
    for fact in FACTS:
        bare = prompts_of(model, fact, templates=("{}",))
        found = search_targets(model, [bare], [("resid_post", 1)], RESID.search, [()], ONE)
        v0 = outputs_at(model, bare.learn, ("mlp_post", 1), [()], ONE)[0]
        norms.append(float((v0 + found.delta[0, 0]).norm()))
    assert got == pytest.approx(sum(sorted(norms)[:2]) / 2, rel=1e-4)  # the longest left out
    a = model.arch
    large = torch.randn(a.d_model, 2).double(), torch.randn(a.d_mlp, 2).double()
    change = Change("mlp_post", 1, *large)
    edit = Edit(FACTS[:1], (change,), "test", model.name, model.weights_hash)
    with edit.applied(model):
        anew = value_norm(model, RESID, FACTS, tmp_path / "other")
        assert value_norm(model, RESID, FACTS, tmp_path) == got  # stored by the original's hash
    assert anew == got
    (file,) = (tmp_path / "other").rglob("*.json")
    for damaged in ("", "[1]", "{"):
        file.write_text(damaged)
        assert value_norm(model, RESID, FACTS, tmp_path / "other") == got
        assert file.read_text() != damaged


def test_presets_measure_the_norm_and_change_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    monkeypatch.setattr(norm_anchor, "_shipped", lambda: list(FACTS))
    model = tiny("llama")
    for name in ("memit", "alphaedit"):
        (plain,), (stage,) = preset(name, model).stages, preset(f"{name}-nas", model).stages
        assert stage == replace(plain, value_norm=value_norm(model, plain, FACTS))


def test_the_shipped_facts_are_of_all_relations_and_have_no_tokens_left():
    facts = norm_anchor._shipped()
    assert len(facts) == norm_anchor.N_FACTS == len({fact.cloze for fact in facts})
    assert facts[0] == Fact("The official currency of {} is the", "Malaysia", "birr")
    assert len({fact.prompt for fact in facts}) >= 6


def test_vectors_searched_jointly_have_no_norm():
    with pytest.raises(PlanError, match="2 vectors are searched jointly"):
        value_norm(tiny("llama"), Stage((0, 1)), FACTS)
