"""Long sequences: the ledger stays exact, one more edit costs the same, and runs are resumed."""

import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from conftest import tiny
from edit_records import parse_cases, records
from planted_cases import PLAIN, planted, sharp
from pydantic import ValidationError

from circuits.editing import Fact, ledger
from circuits.editing.change import Change
from circuits.editing.edit import Edit
from circuits.editing.editor import computed, moments_for
from circuits.editing.evaluation import Ask, generations, sequence_questions, sequences
from circuits.editing.evaluation.control_questions import QuestionPool
from circuits.editing.evaluation.edited_models import drift
from circuits.editing.evaluation.sequence_questions import sequence_plan
from circuits.editing.evaluation.sequence_result import EditSequences
from circuits.editing.evaluation.sequence_settings import SequenceSettings
from circuits.editing.evaluation.sequences import drift_since, edit_sequences
from circuits.editing.fact_prompts import contexts
from circuits.editing.presets import preset
from interp.data.pairs import Excluded
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, PlanError, RunFolderError
from interp.forward.blocks import projection

pytestmark = pytest.mark.usefixtures("cache")
N = 100
SETTINGS = SequenceSettings(
    methods=("rome", "memit"), lengths=(1, 3, 2), n_controls=4, shots=PLAIN, n_tokens=600
)


def weights(model, places=(("mlp_post", 1), ("gate", 2))):
    return [projection(model, *at).get_parameter("weight").detach().clone() for at in places]


def random_edits(model, n):
    a, draws = model.arch, torch.Generator().manual_seed(0)

    def factor(*shape):
        return torch.randn(*shape, generator=draws, dtype=torch.float64) * 1e-2

    def one(i):
        down = Change("mlp_post", 1, factor(a.d_model, 2), factor(a.d_mlp, 2))
        pick = torch.zeros(a.d_mlp, 1, dtype=torch.float64)
        pick[i % a.d_mlp] = 1  # the query of a neuron of its own
        own = (down, Change("gate", 2, pick, factor(a.d_model, 1))) if i < a.d_mlp else (down,)
        fact = Fact("w1 {}", f"w{i}", "w2")
        return Edit((fact,), own, "test", model.name, model.weights_hash)

    return [one(i) for i in range(n)]


def naive(original, edits, place):
    """The original plus all changes, formed in float64 and rounded once."""
    total = torch.zeros_like(original, dtype=torch.float64)
    for change in (c for edit in edits for c in edit.changes if c.place == place):
        total = total + change.up @ change.down.T
    return (original.double() + total).to(original.dtype)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_ledger_of_a_hundred_edits_is_exact_and_undone_to_the_last_bit(family: str):
    model = tiny(family)
    before, edits = weights(model), random_edits(model, N)
    for edit in edits:
        edit.apply(model)
    places = [("mlp_post", 1), ("gate", 2)]
    for now, original, place in zip(weights(model), before, places, strict=True):
        assert torch.equal(now, naive(original, edits, place))
        assert not torch.equal(now, original)
    with ledger(model).suspended(model):
        assert all(map(torch.equal, weights(model), before))
    edits[37].undo(model)
    left = edits[:37] + edits[38:]
    for now, original, place in zip(weights(model), before, places, strict=True):
        assert torch.equal(now, naive(original, left, place))
    order = torch.randperm(N - 1, generator=torch.Generator().manual_seed(1)).tolist()
    for i in order:
        left[i].undo(model)
    assert all(map(torch.equal, weights(model), before))
    assert not ledger(model).sums and not ledger(model).originals and not ledger(model).neurons
    for edit in edits[:5]:
        edit.apply(model)
    ledger(model).clear(model)
    assert all(map(torch.equal, weights(model), before)) and not ledger(model).applied


def test_one_more_edit_costs_the_same_however_many_there_are(monkeypatch):
    model = tiny("llama")
    formed, hashed = [], []
    matrix = Change.matrix.fget
    monkeypatch.setattr(Change, "matrix", property(lambda c: formed.append(c) or matrix(c)))
    edits = random_edits(model, N)
    module = sys.modules[Edit.__module__]  # the package has a function of its name
    monkeypatch.setattr(
        module, "taken_neurons", lambda changes, layer: hashed.append(layer) or set()
    )
    for edit in edits:
        edit.apply(model)
    assert len(formed) == sum(len(edit.changes) for edit in edits) == len(hashed)
    ledger(model).clear(model)


def test_neurons_of_two_edits_may_not_be_the_same():
    model = tiny("llama")
    first, *_, again = random_edits(model, model.arch.d_mlp + 1)
    again = Edit(again.facts, (first.changes[1],), "other", model.name, model.weights_hash)
    with first.applied(model), pytest.raises(DataError, match="both write neuron 0 of layer 2"):
        again.apply(model)


# --- the verb's run ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known():
    model = sharp()
    return model, parse_cases(planted(model, 6))


@pytest.fixture
def world(known):
    yield known
    ledger(known[0]).clear(known[0])


def test_a_row_is_what_applying_one_edit_after_the_other_is(world, tmp_path):
    model, cases = world
    before = model.weights_hash
    found = edit_sequences(model, cases, SETTINGS, out=tmp_path / "run")
    assert found.restored and model.weights_hash == before and not ledger(model).applied
    assert (tmp_path / "run" / "index.html").is_file()
    plan = sequence_plan(model, cases, 3, 4, PLAIN)
    subjects = [request.facts[0].subject for request in plan.requests]
    assert len(set(subjects)) == 3 and len(plan.controls) == 4
    assert found.excluded == plan.excluded and sum(found.excluded.values()) == len(cases) - 3
    rome = preset("rome", model)
    moments, templates = moments_for(model, [rome], None, 600), contexts(model)[:3]
    for i, request in enumerate(plan.requests):
        computed(model, request, rome, moments, templates).apply(model)
        said = generations(model, [q.ask for q in plan.questions(i + 1, 100)], [()])
        mine = found.answers.query("method == 'rome' and order == 'row' and n_edits == @i + 1")
        assert mine["generated"].tolist() == [text.split("\n")[0].strip() for text in said]
    ledger(model).clear(model)
    table = found.table().set_index(["method", "order", "n_edits", "kind"])
    assert table.loc[("none", "row", 3, "locality"), "value"] == 1
    assert table.loc[("none", "row", 3, "efficacy"), "value"] < 1
    assert table.loc[("memit", "batch", 3, "efficacy"), "n"] == 3
    assert set(found.by_age()["age"]) == {"oldest", "middle", "newest"}
    assert found.cost().set_index("method").loc["rome", "edits"] == 3
    line = next(one for one in found.summary()["sequences"] if one["order"] == "batch")
    assert {"efficacy", "locality", "relative_change"} <= set(line)


def test_a_stopped_run_goes_on_where_it_was(world, tmp_path, monkeypatch):
    model, cases = world
    whole = edit_sequences(model, cases, SETTINGS)
    made, asked = [], sequences._Run._asked

    def some(self, n):
        if n == 3 and ledger(model).applied:
            raise KeyboardInterrupt
        return asked(self, n)

    monkeypatch.setattr(sequences._Run, "_asked", some)
    with pytest.raises(KeyboardInterrupt):
        edit_sequences(model, cases, SETTINGS, out=tmp_path / "run")
    assert not ledger(model).applied
    monkeypatch.setattr(sequences._Run, "_asked", asked)
    monkeypatch.setattr(
        sequences, "computed", lambda *given: made.append(given[2].name) or computed(*given)
    )
    found = edit_sequences(model, cases, SETTINGS, out=tmp_path / "run")
    assert made.count("rome") == 3 and made.count("memit") == 6  # batches of 1, 2, 3; a row of 3
    assert found.answers.equals(whole.answers)
    assert EditSequences.load(tmp_path / "run").summary()["sequences"]


def test_a_method_that_cannot_go_on_stops_and_is_asked_about_what_it_did(world, monkeypatch):
    model, cases = world

    def failing(*given):
        if len(ledger(model).applied) == 1:
            raise DataError("layer 1 has 0 neurons left")
        return computed(*given)

    monkeypatch.setattr(sequences, "computed", failing)
    settings = SETTINGS.model_copy(update={"methods": ("rome",), "orders": ("row",)})
    for lengths in ((2, 3), (1, 3)):  # stopped between two of them, and right after one
        found = edit_sequences(model, cases, settings.model_copy(update={"lengths": lengths}))
        assert found.stopped == {"rome, row": "after 1 edits: layer 1 has 0 neurons left"}
        table = found.table().set_index(["method", "n_edits", "kind"])["n"]
        assert table["rome"].to_dict() == {(1, kind): n for kind, n in table.loc["rome", 1].items()}
        assert table["rome", 1, "efficacy"] == 1 and table["rome", 1, "locality"] == 4
        assert [one["n_edits"] for one in found.summary()["sequences"]] == [3, 1]
        assert found.restored


def test_batches_alone_and_methods_that_make_no_edit_have_a_page(world, tmp_path, monkeypatch):
    model, cases = world
    batches = SETTINGS.model_copy(update={"methods": ("rome",), "orders": ("batch",)})
    unusable = replace(cases, excluded=(Excluded("x", "row 13", "no subject"),))
    found = edit_sequences(model, unusable, batches, out=tmp_path / "rome")
    assert found.n_cases == 13 and sum(found.excluded.values()) == 10
    assert not len(found.by_age()) and found.summary()["cost"] == []

    def failing(*given):
        raise DataError("layer 1 has 0 neurons left")

    monkeypatch.setattr(sequences, "computed", failing)
    for orders in (("batch",), ("row", "batch")):
        none = batches.model_copy(update={"orders": orders})
        found = edit_sequences(model, cases, none, out=tmp_path / "-".join(orders))
        assert len(found.stopped) == len(orders) and not len(found.edits)
        assert [one["method"] for one in found.summary()["sequences"]] == ["none"]


def test_what_is_given_twice_counts_once_and_nothing_is_refused():
    twice = SequenceSettings(methods=("rome", "rome"), lengths=(3, 1, 3), orders=("row", "row"))
    assert (twice.methods, twice.lengths, twice.orders) == (("rome",), (1, 3), ("row",))
    for name in ("methods", "lengths", "orders"):
        with pytest.raises(ValidationError, match="at least 1 item"):
            SequenceSettings(**{name: ()})


def test_another_neutral_text_is_another_run(world, tmp_path):
    model, cases = world
    neutral = tmp_path / "neutral.txt"
    changes = {"methods": ("rome",), "orders": ("batch",), "neutral": str(neutral)}
    for i, text in enumerate(("w1 w2 w3 " * 80, "w4 w5 w6 " * 80)):
        neutral.write_text(text)
        with pytest.raises(RunFolderError, match="other neutral") if i else nullcontext():
            edit_sequences(model, cases, SETTINGS.model_copy(update=changes), out=tmp_path / "run")


def test_what_is_preserved_is_not_about_the_subjects_of_controls(monkeypatch):
    """Of a writer two facts are known: where one is a control, the other is not preserved."""
    cases = parse_cases(records())
    right = {hop.question: hop.answer.text for case in cases for hop in case.hops}
    monkeypatch.setattr(
        sequence_questions, "generations", lambda _, asks, edits: [right[ask.text] for ask in asks]
    )
    pool, controls = sequence_questions._known(None, cases, set(), 4, PLAIN, 0)
    scored = {question.ask.text for question in controls}
    facts = [fact for own in QuestionPool.of(cases, right).facts.values() for fact in own]
    subjects = {fact.subjects for fact in facts if fact.text in scored}
    left = {fact for own in pool.facts.values() for fact in own}
    assert len(scored) == 4 < len(left)
    assert left == {fact for fact in facts if fact.subjects not in subjects}
    assert any(fact.subjects in subjects for fact in facts if fact.text not in scored)


def test_drift_in_weights_is_drift_of_rows(world):
    model, _ = world
    edit = random_edits(model, 1)[0]
    passages = [TokenPrompt(tuple(range(5, 25))), TokenPrompt(tuple(range(30, 45)))]
    (kl,), (ratio,) = drift(model, passages, [edit.changes])
    with edit.applied(model):
        got = drift_since(model, passages)
        assert sequences.largest_change(ledger(model)) > 0
    assert got == pytest.approx((float(kl), float(ratio)), rel=1e-2)  # of 1e-5 nats
    assert drift_since(model, passages) == pytest.approx((0, 1), abs=1e-6)


def test_what_cannot_be_a_sequence_is_refused(world):
    model, cases = world
    everything = SETTINGS.model_copy(update={"lengths": (500,)})
    with pytest.raises(DataError, match="knows no question of records about a subject that is not"):
        edit_sequences(model, cases, everything)
    edit = random_edits(model, 1)[0]
    with edit.applied(model), pytest.raises(PlanError, match="carries edits already"):
        edit_sequences(model, cases, SETTINGS)
    asked = generations(model, [Ask(0, "w1 w2")] * 2 + [Ask(1, "w1 w2")], [(), ()])
    assert len(set(asked)) == 1
