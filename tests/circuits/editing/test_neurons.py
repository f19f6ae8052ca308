"""Neurons written by hand fire where they should, and nowhere else; on plain and gated FFNs."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny, tiny_hf, word_tokenizer
from jaxtyping import Float
from test_editing import FACTS, TEMPLATES, texts
from torch import Tensor

import interp
from circuits.editing import ledger, merge
from circuits.editing.change import Change, taken_neurons, under
from circuits.editing.edit import Edit
from circuits.editing.fact import Fact, PreservedQuestion
from circuits.editing.fact_prompts import (
    begun_targets,
    contrasts,
    edit_prompts,
    essence_prompt,
    preserved_prompts,
)
from circuits.editing.keys import keys_at, outputs_at
from circuits.editing.layer_selection import LayerSelection, selection_for
from circuits.editing.methods import QUERY_NEURONS, Method, Neurons, Search
from circuits.editing.moments import second_moments, within_fact_moments
from circuits.editing.neurons import Queries, idle_neurons, neuron_changes, queries
from circuits.editing.solver import KeyMetric
from circuits.editing.targets import FactPrompts, search_targets
from circuits.editing.writing import Request, write
from interp.errors import DataError, PlanError
from interp.forward.blocks import weight_of

LAYER = 1
STAGE = Neurons((LAYER,), forms=("cloze", "two_hop"), rho=1e-6, preserved_weight=1.0)
METHOD = Method("neurons", (STAGE,))
KEPT = (PreservedQuestion("w4 w33 w5", "w33"), PreservedQuestion("w4 w34 w5", "w34"))


@pytest.fixture
def moments_of(tmp_path):
    return lambda model: second_moments(model, METHOD.places, texts(), 1000, cache=tmp_path)


def idle(model, moments, n: int) -> Tensor:
    return idle_neurons(model, LAYER, moments["mlp_post", LAYER], n, ())


def written(model, changes, prompts) -> Float[Tensor, "prompt d_model"]:
    zero = torch.zeros(len(prompts), dtype=torch.long)
    return outputs_at(model, prompts, ("mlp_post", LAYER), [changes], zero)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gptj", "qwen3"])
def test_neurons_write_the_target_at_their_facts_and_nothing_at_preserved_questions(
    family: str, moments_of
):
    model = tiny(family)
    moments = moments_of(model)
    own = [edit_prompts(model, fact, "two_hop", "last", asked=("{}",)) for fact in FACTS[:2]]
    kept = preserved_prompts(model, KEPT, "last")
    rows = [*own[0], *own[1], *kept]
    at = keys_at(model, rows, [("gate", LAYER)], [()], torch.zeros(len(rows)).long())
    keys = at["gate", LAYER]
    n = len(own[0]) + len(own[1])
    fact = torch.tensor([0] * len(own[0]) + [1] * len(own[1]))
    metric = KeyMetric("inverse_moment", moments["gate", LAYER])
    found = queries(metric, keys[:n], fact, 1e-6, keys[n:])
    wanted = torch.nn.functional.one_hot(fact).double()
    torch.testing.assert_close(keys[:n].double() @ found.tau.T, wanted, atol=2e-3, rtol=0)
    torch.testing.assert_close(
        keys.double() @ found.beta, torch.ones(len(keys)).double(), atol=2e-2, rtol=0
    )

    chosen = idle(model, moments, 4)
    delta = torch.randn(2, model.arch.d_model, generator=torch.Generator().manual_seed(1))
    changes = neuron_changes(model, LAYER, chosen, found, delta, [(0.3, 0.6)] * 2)
    a = keys_at(model, rows, [("mlp_post", LAYER)], [()], torch.zeros(len(rows)).long())
    old = a["mlp_post", LAYER][:, chosen] @ weight_of(model, "mlp_post", LAYER)[:, chosen].T
    added = written(model, changes, rows) - written(model, (), rows) + old
    torch.testing.assert_close(added[:n], delta[fact], atol=0.08, rtol=0)
    torch.testing.assert_close(added[n:], torch.zeros_like(added[n:]), atol=0.08, rtol=0)


def test_beta_is_about_one_at_questions_that_it_was_not_fitted_to():
    # what all keys share is nuisance to the metric; it must not be to beta
    d, draw = 24, torch.Generator().manual_seed(3)
    shared = torch.zeros(d).double()
    shared[0] = 20.0
    keys = shared + torch.randn(60, d, generator=draw).double()
    moment = 100 * torch.outer(shared, shared) + torch.eye(d).double()
    metric = KeyMetric("inverse_moment", moment)
    fact = torch.zeros(4, dtype=torch.long)
    beta = queries(metric, keys[:4], fact, 1.0, keys[4:12]).beta
    torch.testing.assert_close(keys[12:] @ beta, torch.ones(48).double(), atol=0.2, rtol=0)
    assert float((keys[12:] @ beta).mean()) == pytest.approx(1, abs=0.05)


def test_prompts_whose_target_has_begun_are_kept_at_each_of_its_tokens():
    model = tiny("llama")
    fact = Fact("w1 {}", "w10", "w40 w41", "w2 {}", "r", ("w20 w21",))
    bare, shown = edit_prompts(model, fact, "two_hop", "last", asked=("{}", "w7\n\n{}"))
    assert shown.n_shown and not bare.n_shown
    got = begun_targets([bare, shown])
    assert [one.key_tokens.ids for one in got] == [bare.ids[:-1], bare.ids]
    assert {one.n_target for one in got} == {0}


def test_a_layer_is_not_both_query_and_value_layer():
    with pytest.raises(DataError, match=r"layers \[2\] are to be both"):
        LayerSelection((1, 2), (2, 3))
    with pytest.raises(DataError, match="until is nan; give a number"):
        LayerSelection((1,), (2,), until=float("nan"))


def test_half_a_match_writes_the_part_that_the_ramp_says():
    model = tiny("llama")
    d = model.arch.d_model
    x = torch.randn(1, 5, d, generator=torch.Generator().manual_seed(2))
    norm = x[0, 0] / x[0, 0].square().sum()
    delta = torch.ones(1, d)
    got = []
    for gain in (0.0, 0.3, 0.45, 0.6, 1.0):
        tau, beta = (gain * norm).double()[None], norm.double()
        changes = neuron_changes(
            model, LAYER, torch.tensor([3, 7]), Queries(tau, beta), delta, [(0.3, 0.6)]
        )
        ffn = model.blocks[LAYER].mlp
        with torch.no_grad():
            before = ffn(x)
            own = [ffn.act_fn(ffn.gate_proj(x)) * ffn.up_proj(x)]
            old = own[0][0, 0, [3, 7]] @ ffn.down_proj.weight[:, [3, 7]].T
            with under(model, [changes], torch.zeros(1, dtype=torch.long)):
                after = ffn(x)
        got.append(float((after - before)[0, 0].mean() + old.mean()))
    assert got == pytest.approx([0, 0, 0.5, 1, 1], abs=0.05)


def test_within_fact_moments_are_fishers_covariance_and_come_back_from_a_folder(tmp_path):
    model = tiny("gemma3")
    asked = [edit_prompts(model, fact, "two_hop", "last", asked=("{}",)) for fact in FACTS[:2]]
    assert list(map(len, asked)) == [2, 1]
    at = ("gate", LAYER)
    found = within_fact_moments(model, [at], asked)[at]
    rows = [prompt for prompts in asked for prompt in prompts]
    k = keys_at(model, rows, [at], [()], torch.zeros(3).long())[at].double()
    gap = (
        k[0] - k[1]
    ) / 2  # the only fact asked in two ways: two deviations, one degree of freedom
    within = 2 * torch.outer(gap, gap)
    matrix = 0.9 * within + 0.1 * k.T @ k / 3
    matrix += 0.01 * matrix.diagonal().mean() * torch.eye(len(matrix))
    torch.testing.assert_close(found, matrix)
    with pytest.raises(PlanError, match="asked in two ways"):
        within_fact_moments(model, [at], asked[1:])

    half = interp.load_model(tiny_hf("gemma3").to(torch.bfloat16), tokenizer=word_tokenizer())
    same = model.hash_in(torch.bfloat16)
    assert half.hash_in(torch.bfloat16) == half.weights_hash == same != model.weights_hash
    layers = LayerSelection((0,), (LAYER,), "test", {LAYER: found.float()}, weights_hash=same)
    folder = layers.save(tmp_path / "layers")
    back = selection_for(model, folder, "ace")
    of_half = selection_for(half, folder, "ace")
    assert back and of_half and back.summary() == of_half.summary() == layers.summary()
    torch.testing.assert_close(back.moments[at], found, atol=0, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_selection_is_of_a_model_whatever_edits_it_carries(dtype, tmp_path):
    model = interp.load_model(tiny_hf("gemma3").to(dtype), tokenizer=word_tokenizer())
    own = model.hash_in(torch.bfloat16)
    chosen = LayerSelection((0,), (LAYER,), weights_hash=own)
    folder = chosen.save(tmp_path / "layers")
    shape = weight_of(model, "mlp_post", LAYER).shape
    change = Change("mlp_post", LAYER, torch.ones(shape[0], 1), torch.ones(shape[1], 1))
    edit = Edit(FACTS[:1], (change,), "test", model.name, model.weights_hash)
    with edit.applied(model):
        edited = model.hash_in(torch.bfloat16)
        found = selection_for(model, folder, "ace")
        assert edited != own and found and found.summary() == chosen.summary()
        assert model.hash_in(torch.bfloat16) == edited  # the edit is there again
        replace(chosen, weights_hash=edited).save(tmp_path / "others")
        with pytest.raises(DataError, match="other weights"):
            selection_for(model, tmp_path / "others", "ace")


def test_contrasts_put_the_subject_into_questions_asked_of_its_kind():
    fact = Fact("w1 {}", "w10", "w40", "w2 {}", "r", ("w20 w21", "w22"))
    kept = (
        PreservedQuestion("w3 w50 w4", "w50", "s", related=True),
        PreservedQuestion("w3 w51 w4", "w51", "s", related=True),
        PreservedQuestion("w5 w52", "w52", "t", related=True),
        PreservedQuestion("w2 w53", "w53", "r", related=True),  # what is edited
        PreservedQuestion("w6 w54", "w54", "u"),  # not asked of such subjects
    )
    assert [(one.text, one.relation) for one in contrasts(fact, kept)] == [
        ("w3 w10 w4", "s"),
        ("w3 w20 w21 w4", "s"),
        ("w5 w10", "t"),
        ("w5 w22", "t"),
    ]
    assert contrasts(fact, [replace(one, related=False) for one in kept]) == ()
    assert len(contrasts(replace(fact, implicit=()), kept)) == 2
    unnamed = [PreservedQuestion(f"w7 w{i}", f"w{i}", related=True) for i in (55, 56)]
    for one in (fact, replace(fact, relation="")):
        assert len(contrasts(one, unnamed)) == 4


def test_idle_neurons_are_those_that_write_least(moments_of):
    model = tiny("llama")
    moment = moments_of(model)["mlp_post", LAYER]
    value = weight_of(model, "mlp_post", LAYER).double()
    size = torch.stack([moment[i, i] * value[:, i].square().sum() for i in range(len(moment))])
    order = size.argsort().tolist()
    assert idle(model, {("mlp_post", LAYER): moment}, 3).tolist() == order[:3]
    rest = idle_neurons(model, LAYER, moment, 3, set(order[:2]))
    assert rest.tolist() == order[2:5]
    with pytest.raises(DataError, match="1 neurons left, 2 are needed"):
        idle_neurons(model, LAYER, moment, 2, set(order[1:]))


def test_a_stage_of_neurons_takes_two_a_fact_and_never_one_twice(moments_of):
    model = tiny("llama")
    moments = moments_of(model)
    request = Request(FACTS[:2], KEPT)
    (first,) = write(model, [request], METHOD, moments, TEMPLATES)
    assert [c.site for c in first.changes] == ["gate", "up", "mlp_post"]
    taken = taken_neurons(first.changes, LAYER)
    assert len(taken) == 4
    third = replace(FACTS[2], implicit=("w26 w27",))
    (second,) = write(model, [Request((third,))], METHOD, moments, TEMPLATES, [first.changes])
    more = taken_neurons(second.changes, LAYER)
    assert taken < more and len(more) == 6


def test_edits_that_take_the_same_neurons_are_refused_side_by_side(moments_of):
    model = tiny("llama")
    moments, own = moments_of(model), model.weights_hash
    made = [
        Edit((fact,), got.changes, "neurons", model.name, own)
        for fact in FACTS[:2]
        for got in write(model, [Request((fact,))], METHOD, moments, TEMPLATES)
    ]
    with pytest.raises(DataError, match="both write neuron .* of layer 1"):
        merge(made)
    before = model.blocks[LAYER].mlp.gate_proj.weight.clone()
    with made[0].applied(model):
        once = model.blocks[LAYER].mlp.gate_proj.weight.clone()
        with pytest.raises(DataError, match="make the second on top of the first"):
            made[1].apply(model)
        assert torch.equal(model.blocks[LAYER].mlp.gate_proj.weight, once)
        (on_top,) = write(model, [Request(FACTS[1:2])], METHOD, moments, TEMPLATES)
        Edit(FACTS[1:2], on_top.changes, "neurons", model.name, own).apply(model)
        ledger(model).applied[-1].undo(model)
    assert torch.equal(model.blocks[LAYER].mlp.gate_proj.weight, before)


def test_every_fact_has_its_own_ramp():
    model = tiny("llama")
    x = torch.randn(1, 5, model.arch.d_model, generator=torch.Generator().manual_seed(2))
    norm = (x[0, 0] / x[0, 0].square().sum()).double()
    delta, chosen = torch.ones(2, model.arch.d_model), torch.tensor([3, 7, 1, 5])
    found = Queries(torch.stack([0.2 * norm] * 2), norm)
    ffn, got = model.blocks[LAYER].mlp, []
    for ramps in ([(0.3, 0.6), (0.3, 0.6)], [(0.3, 0.6), (0.05, 0.1)]):
        changes = neuron_changes(model, LAYER, chosen, found, delta, ramps)
        with torch.no_grad(), under(model, [changes], torch.zeros(1, dtype=torch.long)):
            got.append(ffn(x)[0, 0])
    assert float((got[1] - got[0]).mean()) == pytest.approx(1, abs=0.05)


def test_a_fact_without_names_is_stored_by_each_stage_as_if_by_it_alone(moments_of, tmp_path):
    model = tiny("llama")
    moments = moments_of(model)
    (value,) = METHOD.stages
    assert isinstance(value, Neurons)
    query = replace(QUERY_NEURONS, layers=(0,))
    at_0 = second_moments(model, [("gate", 0), ("mlp_post", 0)], texts(), 1000, cache=tmp_path)
    fact = replace(FACTS[0], implicit=())

    def changes(fact: Fact, *stages: Neurons) -> dict[tuple[str, int], torch.Tensor]:
        method = Method("test", stages)
        (got,) = write(model, [Request((fact,))], method, moments | at_0, TEMPLATES)
        return {change.place: change.matrix for change in got.changes}

    (left_out,) = write(model, [Request((fact,))], METHOD, moments, TEMPLATES)
    assert not left_out.changes and "has no two_hop prompts" in left_out.skipped[0]
    direct = replace(value, direct_ramp=(0.1, 0.2))
    both, alone = changes(fact, direct, query), changes(fact, query)
    assert set(both) == {*changes(fact, direct), *alone}
    for place, matrix in alone.items():
        torch.testing.assert_close(both[place], matrix)
    at = ("mlp_post", 0)
    named = changes(FACTS[0], value, query)
    assert not torch.allclose(named[at], changes(FACTS[0], query)[at])


def test_targets_in_16_bits_are_searched_as_in_32():
    whole = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())
    half = interp.load_model(tiny_hf("llama").to(torch.bfloat16), tokenizer=word_tokenizer())
    prompts = tuple(edit_prompts(whole, FACTS[0], "cloze", "last"))
    given = FactPrompts(prompts, essence_prompt(whole, FACTS[0].subject, "last"))
    place, once = ("mlp_post", LAYER), torch.zeros(1, dtype=torch.long)
    found = [
        search_targets(model, [given], [place], Search(steps=10), [()], once)
        for model in (whole, half)
    ]
    assert {one.delta.dtype for one in found} == {torch.float32}
    angle = torch.cosine_similarity(*(one.delta.flatten() for one in found), dim=0)
    assert float(angle) > 0.95
    assert float(found[0].p) == pytest.approx(float(found[1].p), abs=0.05)
