"""Match scores and layers: equal to a dense solve and an applied change, 1 and 0 by design."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny
from edit_records import parse_cases
from planted_cases import PLAIN, planted, sharp
from test_editing import texts

from circuits.editing import Fact, layer_search
from circuits.editing.change import Change
from circuits.editing.edit import Edit
from circuits.editing.evaluation.control_questions import QuestionPool
from circuits.editing.evaluation.prior_knowledge import prior_knowledge
from circuits.editing.fact import PreservedQuestion
from circuits.editing.fact_prompts import (
    begun_targets,
    edit_prompts,
    last_token_prompt,
    preserved_prompts,
)
from circuits.editing.keys import keys_at, outputs_at
from circuits.editing.layer_search import (
    _halves,
    _reached,
    propagations,
    question_moments,
    select_layers,
)
from circuits.editing.layer_selection import LayerSelection
from circuits.editing.match_scores import FALSE_ALARMS, Propagation, _scores, match_scores
from circuits.editing.methods import QUERY_NEURONS, VALUE_NEURONS, Search, Stage
from circuits.editing.moments import second_moments
from circuits.editing.neurons import queries
from circuits.editing.presets import early, preset
from circuits.editing.solver import RIDGE, KeyMetric, solve
from interp.errors import DataError

pytestmark = pytest.mark.usefixtures("cache")
FACT = Fact("w1 {} w2", "w10", "w40", "w3 {} w4", implicit=("w20 w21", "w22"))
STAGE = Stage((), forms=("two_hop",), anchor="last", rho=0.1)
LAYERS = (1, 2)
PLACES = [("mlp_post", layer) for layer in LAYERS]
ZERO = torch.zeros(1, dtype=torch.long)


@pytest.fixture(scope="module")
def moments(cache):
    return second_moments(tiny("llama"), PLACES, texts(), 1000)


@pytest.fixture(scope="module")
def world():
    model = sharp()
    return model, parse_cases(planted(model, 6))


def prompts(*texts: str):
    return tuple(last_token_prompt(tiny("llama"), text) for text in texts)


def keys(rows, layer: int) -> np.ndarray:
    owner = torch.zeros(len(rows), dtype=torch.long)
    at = ("mlp_post", layer)
    return keys_at(tiny("llama"), rows, [at], [()], owner)[at].double().numpy().T


# --- match scores ------------------------------------------------------------------------------


def test_match_scores_equal_a_dense_solve(moments):
    model = tiny("llama")
    same, other = prompts("w5 w20 w21 w6", "w5 w22 w7"), prompts("w5 w30 w6", "w8 w9", "w31 w32")
    found = match_scores(model, [Propagation(FACT, same, other)], STAGE, moments, LAYERS)
    learnt = edit_prompts(model, FACT, "two_hop", "last")
    for column, layer in enumerate(LAYERS):
        moment = moments["mlp_post", layer].numpy()
        d = len(moment)
        m = np.linalg.inv(moment + RIDGE * np.diag(moment).mean() * np.eye(d))
        k = keys(learnt, layer)
        row = np.linalg.solve(k.T @ m @ k + STAGE.rho * d * np.eye(k.shape[1]), k.T @ m).sum(0)
        for got, rows in ((found.through, same), (found.others, other)):
            want = (row @ keys(rows, layer)).mean()
            assert got[0, column] == pytest.approx(want, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("rho", [1e-3, 0.1, 1.0])
def test_a_match_score_is_the_part_of_its_target_that_an_applied_change_writes(moments, rho: float):
    model, layer = tiny("llama"), 1
    stage = replace(STAGE, rho=rho)
    same, other = prompts("w5 w20 w21 w6"), prompts("w5 w30 w6")
    found = match_scores(model, [Propagation(FACT, same, other)], stage, moments, [layer])
    at = ("mlp_post", layer)
    learnt = edit_prompts(model, FACT, "two_hop", "last")
    target = torch.randn(model.arch.d_model, generator=torch.Generator().manual_seed(1)).double()
    residuals = target[:, None].expand(-1, len(learnt))
    k = torch.from_numpy(keys(learnt, layer))
    change = Change(*at, *solve(KeyMetric("inverse_moment", moments[at]), k, residuals, rho))
    edit = Edit((FACT,), (change,), "test", model.name, model.weights_hash)
    for rows, gain in ((same, found.through[0, 0]), (other, found.others[0, 0])):
        before = outputs_at(model, rows, at, [()], ZERO)[0].double()
        with edit.applied(model):
            after = outputs_at(model, rows, at, [()], ZERO)[0].double()
        torch.testing.assert_close(after - before, gain * target, atol=2e-4, rtol=1e-3)


def test_what_is_learnt_exactly_is_matched_whole_and_less_with_lambda(moments):
    model = tiny("llama")
    learnt = tuple(edit_prompts(model, FACT, "two_hop", "last"))
    reach = Propagation(FACT, learnt, prompts("w5 w30 w6"))
    by_rho = [
        match_scores(model, [reach], replace(STAGE, rho=rho), moments, LAYERS).through[0]
        for rho in (1e-9, 0.1, 1.0, 1e6)
    ]
    np.testing.assert_allclose(by_rho[0], 1, atol=1e-4)
    assert (np.diff(np.array(by_rho), axis=0) < 0).all()
    np.testing.assert_allclose(by_rho[-1], 0, atol=1e-3)


def test_nothing_is_matched_at_keys_that_are_foreign_in_the_metric():
    d, n = 12, 3
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(d, d, generator=generator).double()
    metric = KeyMetric("inverse_moment", root @ root.T + torch.eye(d).double())
    learn = torch.randn(n, d, generator=generator).double()
    through = metric.apply(learn.T)  # M K: what is orthogonal to it is foreign
    draw = torch.randn(d, 4, generator=generator).double()
    foreign = (draw - through @ torch.linalg.lstsq(through, draw).solution).T
    rows = torch.cat([learn, foreign])
    same, other = _scores(metric, replace(STAGE, rho=0.0), learn, rows, learn[:0]).split([n, 4])
    torch.testing.assert_close(same, torch.ones(n).double())
    torch.testing.assert_close(other, torch.zeros(4).double(), atol=1e-9, rtol=0)


def test_layers_are_separated_where_foreign_questions_are_preserved(moments):
    model = tiny("llama")
    kept = tuple(PreservedQuestion(f"w8 w{i} w9", f"w{i}") for i in (50, 51, 52))
    learnt = tuple(edit_prompts(model, FACT, "two_hop", "last"))
    stage = replace(STAGE, rho=1e-6, preserved_weight=1.0)
    reach = Propagation(FACT, learnt, tuple(preserved_prompts(model, kept, "last")), kept)
    found = match_scores(model, [reach, reach], stage, moments, LAYERS)
    np.testing.assert_allclose(found.through, 1, atol=1e-2)
    np.testing.assert_allclose(found.others, 0, atol=1e-2)
    assert found.separation.tolist() == [1.0, 1.0] and found.through.shape == (2, 2)
    # the other way round it separates as badly as can be
    swapped = Propagation(FACT, reach.others, reach.through, kept)
    assert match_scores(model, [swapped], stage, moments, LAYERS).separation.tolist() == [0.0, 0.0]


def test_match_scores_of_one_fact_do_not_depend_on_the_others(moments):
    model = tiny("llama")
    second = replace(FACT, implicit=("w60 w61",))
    reaches = [
        Propagation(FACT, prompts("w5 w20 w21 w6"), prompts("w5 w30 w6")),
        Propagation(second, prompts("w5 w60 w6"), prompts("w31 w6", "w32")),
    ]
    both = match_scores(model, reaches, STAGE, moments, LAYERS)
    for i, reach in enumerate(reaches):
        one = match_scores(model, [reach], STAGE, moments, LAYERS)
        np.testing.assert_allclose(both.through[i], one.through[0], atol=1e-4)
        np.testing.assert_allclose(both.others[i], one.others[0], atol=1e-4)


def test_match_scores_of_neurons_are_what_their_thresholds_see():
    model, stage = tiny("llama"), replace(VALUE_NEURONS, preserved_weight=0.5)
    moments = {("gate", 1): torch.eye(model.arch.d_model).double() * 0.3}
    reach = Propagation(
        FACT,
        (last_token_prompt(model, "w3 w20 w22 w4"),),
        (last_token_prompt(model, "w3 w50 w4"), last_token_prompt(model, "w3 w51 w4")),
        (PreservedQuestion("w3 w60 w4", "w60", "other"),),
        (last_token_prompt(model, "w3 w52 w4"),),
    )
    found = match_scores(model, [reach], stage, moments, (1,))
    learnt = [p for form in stage.forms for p in edit_prompts(model, FACT, form, "last")]
    kept = preserved_prompts(model, reach.preserved, "last") + begun_targets(learnt)
    rows = [*learnt, *reach.through, *reach.others, *reach.single, *kept]
    owner = torch.zeros(len(rows), dtype=torch.long)
    keys = keys_at(model, rows, [("gate", 1)], [()], owner)["gate", 1].double()
    n = len(learnt)
    metric = KeyMetric("inverse_moment", moments["gate", 1])
    of = queries(metric, keys[:n], owner[:n], stage.rho, keys[n + 4 :], 0.5)
    level = (keys @ of.tau[0]) / (keys @ of.beta)
    assert found.through[0, 0] == pytest.approx(float(level[n]), abs=1e-9)
    assert found.others[0, 0] == pytest.approx(float(level[n + 1 : n + 3].mean()), abs=1e-9)
    alone = level[n + 1 : n + 4].numpy()
    assert found.threshold[0] == pytest.approx(np.quantile(alone, 1 - FALSE_ALARMS), abs=1e-9)


def test_neighbours_within_rounding_of_the_chosen_ones_are_named(monkeypatch):
    reached = {(0, 1): 0.5, (1, 2): 0.5 - 1e-8}
    monkeypatch.setattr(layer_search, "_reached", lambda _, __, stage: reached[stage.layers])
    given = tiny("llama"), [], VALUE_NEURONS, [0, 1, 2], {0: 0.75, 1: 0.75, 2: 0.75}
    near = "; within rounding of layers [0, 1]: layers [1, 2]"
    assert layer_search._best(*given) == ((0, 1), 0.5, near)
    reached[1, 2] = 0.4
    assert layer_search._best(*given) == ((0, 1), 0.5, "")
    both = LayerSelection((0,), (1, 2), separation={1: 0.75, 2: 0.75})
    said = "error. Within rounding of layer 1: layer 2."
    assert any(said in str(vars(part)) for part in both.section().parts[1:])


def test_facts_without_prompts_are_refused(moments):
    model = tiny("llama")
    same, other = prompts("w5 w6"), prompts("w7")
    with pytest.raises(DataError, match="has no two_hop prompts"):
        match_scores(
            model, [Propagation(replace(FACT, implicit=()), same, other)], STAGE, moments, LAYERS
        )
    with pytest.raises(DataError, match="lacks prompts that it should change"):
        match_scores(model, [Propagation(FACT, same, ())], STAGE, moments, LAYERS)


# --- layers ------------------------------------------------------------------------------------


def test_reaches_are_last_hops_with_questions_through_the_fact_and_beside_it(world):
    model, cases = world
    known = prior_knowledge(model, cases, PLAIN)
    reaches = propagations(model, cases, None, PLAIN)
    by_fact = {case.facts[0]: case for case in cases if case.position == "last"}
    assert reaches and all(reach.fact in by_fact for reach in reaches)
    pool = QuestionPool.of(cases, known.right)
    for reach in reaches:
        case = by_fact[reach.fact]
        own = {tuple(model.encode(PLAIN.ask(text))) for text in case.questions}
        assert {prompt.ids for prompt in reach.through} == own
        places = [(case.relations[at], at) for at in case.edited_hops]
        composed = [question for place in places for question in pool.chains.get(place, ())]
        beside = {tuple(model.encode(PLAIN.ask(q.text))) for q in composed}
        assert {prompt.ids for prompt in reach.others} <= beside - own
    assert len(propagations(model, cases, 2, PLAIN)) == 2
    with pytest.raises(DataError, match="no case of records edits a last hop"):
        propagations(model, cases.where(lambda case: case.position == "first"), None, PLAIN)


def test_the_layers_placed_separate_and_can_be_written(world):
    model, cases = world
    found = select_layers(model, cases, shots=PLAIN)
    deep = tuple(range(model.arch.n_layers // 2, model.arch.n_layers))
    reaches = propagations(model, cases, 120, PLAIN)
    scored, learnt = _halves(reaches)
    assert not {r.fact.subject for r in scored} & {r.fact.subject for r in learnt}
    assert len(scored) + len(learnt) == len(reaches)
    known = {r.fact.subject for r in reaches}
    free = cases.where(lambda case: all(f.subject not in known for f in case.facts))
    moments = question_moments(model, learnt, free, deep, PLAIN)
    separation = match_scores(model, scored, VALUE_NEURONS, moments, deep).separation
    pairs = list(itertools.pairwise(range(len(deep))))
    at = [tuple(deep[i] for i in pair) for pair in pairs]
    p = [_reached(model, reaches, replace(VALUE_NEURONS, layers=layers)) for layers in at]
    assert all(0 <= one <= 1 for one in p)
    both = np.array([separation[list(pair)].mean() for pair in pairs])
    best = pairs[int(((both - 0.5) * p).argmax())]
    assert found.value == tuple(deep[i] for i in best)
    before = [layer for layer in early(model) if layer not in found.value]
    query = list(itertools.pairwise(before)) or [tuple(before)]
    reached = [_reached(model, reaches, replace(QUERY_NEURONS, layers=layers)) for layers in query]
    assert found.query == query[int(np.argmax(reached))]
    # however early a method's own search ends, layers are compared by how far one could go
    hasty = replace(QUERY_NEURONS, layers=query[0], search=Search(until=100.0))
    assert _reached(model, reaches, hasty) == reached[0]
    assert f"separation {both[pairs.index(best)]:.3f}" in found.by
    halves = match_scores(model, scored, VALUE_NEURONS, moments, found.value).threshold
    assert found.threshold == max(0.1, round(float(halves.mean()), 3))
    unnamed = [replace(one, fact=replace(one.fact, implicit=())) for one in scored]
    direct = match_scores(model, unnamed, VALUE_NEURONS, moments, found.value).threshold
    assert found.direct_threshold == max(0.1, round(float(direct.mean()), 3))
    assert found.ramp[0] > 0 and found.direct_ramp
    (deep, _) = preset("ace", model, found).stages
    assert (deep.ramp, deep.direct_ramp) == (found.ramp, found.direct_ramp)
    value, query = preset("ace", model, replace(found, until=0.6)).stages
    assert (value.search.until, query.search.until) == (VALUE_NEURONS.search.until, 0.6)
    assert preset("ace", model, found).stages[1].search == QUERY_NEURONS.search
    first = preset("ace-query-first", model, found)
    assert first.stages == preset("ace", model, found).stages[::-1]
    assert set(found.moments) == {("gate", layer) for layer in (*found.query, *found.value)}
