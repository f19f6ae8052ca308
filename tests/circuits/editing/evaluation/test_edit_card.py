"""The edit card: figures of hand-made rows, and what it asks of a tiny model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_hf, word_tokenizer

import interp
from circuits.editing import EditCard, Fact, card, ledger, merge
from circuits.editing.change import Change
from circuits.editing.edit import Edit
from circuits.editing.evaluation import card_measurement
from circuits.editing.evaluation.card_questions import FIRST, ChainFacts
from circuits.editing.evaluation.control_questions import KnownQuestion, QuestionPool
from circuits.editing.evaluation.fact_questions import COLUMNS
from circuits.editing.evaluation.metric_definitions import ABILITIES, CONDITIONS
from circuits.editing.fact import PreservedQuestion
from interp.errors import DataError
from interp.statistics import wilson

pytestmark = pytest.mark.usefixtures("cache")
FACT = Fact("w1 w2 {} is", "w10 w11", "w40")


def made(shares: dict[str, tuple[int, int, int]]) -> EditCard:
    """A card of kinds with n questions, of which so many are hits before and after."""
    rows = [
        (condition, 0, kind, i, "text", "a", "b", np.nan, i < hits)
        for kind, (n, before, after) in shares.items()
        for condition, hits in (("unedited", before), ("edited", after), ("prompt-only", 0))
        for i in range(n)
    ]
    frame = pd.DataFrame(rows, columns=["condition", *COLUMNS])
    drift = pd.DataFrame({"kl": [0.1, 0.3], "nll": [0.0, np.log(4)]})
    about = ("0" * 12, "rome", "m", "0" * 32, ("The capital of France is Rome",), ("Paris",), True)
    return EditCard(frame, drift, *about, missing={}, cost={}, seconds=1.0)


def verdicts(**shares: tuple[int, int, int]) -> dict[str, str]:
    table = made(shares).table()
    return dict(zip(table["metric"], table["verdict"], strict=True))


def test_shares_intervals_and_what_is_pooled():
    found = made({"same_relation": (6, 6, 6), "neighbour": (4, 4, 2)}).table().set_index("metric")
    pooled, few = found.loc["specificity"], found.loc["neighbour"]
    assert (pooled["n"], pooled["unedited"], pooled["edited"]) == (10, 1.0, 0.8)
    low, high = wilson(8, 10)[1:]
    assert (pooled["edited_low"], pooled["edited_high"]) == (low, high)
    assert (few["n"], few["edited"], few["edited_low"]) == (4, 0.5, -np.inf)
    assert found.loc["efficacy", "n"] == 0 and np.isnan(found.loc["efficacy", "edited"])


@pytest.mark.parametrize(
    ("kind", "share", "verdict"),
    [
        ("efficacy", (1, 0, 1), "yes"),
        ("efficacy", (1, 0, 0), "no"),
        ("paraphrase", (4, 0, 1), "no"),
        ("paraphrase", (4, 2, 2), "no"),  # no better than before
        ("same_relation", (20, 20, 17), "yes"),
        ("same_relation", (20, 20, 16), "no"),
        ("control_two_hop", (20, 20, 16), "yes"),
        ("control_two_hop", (20, 20, 15), "no"),
        ("fact_check", (4, 1, 3), "yes"),
        ("fact_check", (4, 1, 1), "no"),
        ("fact_check", (4, 3, 4), "cannot tell"),  # wrong about its own fact before
        ("fact_check", (4, 3, 0), "cannot tell"),
        ("leakage", (4, 4, 1), "yes"),
        ("leakage", (4, 4, 4), "no"),
        ("leakage", (4, 0, 0), "cannot tell"),
    ],
)
def test_verdicts(kind: str, share: tuple[int, int, int], verdict: str):
    found = verdicts(**{kind: share})
    assert found[kind] == verdict and found["multi_hop_first"] == "cannot tell"


def test_mirrored_metrics_are_judged_by_what_the_model_knew():
    biased = verdicts(affirms_new=(4, 4, 4), denies_old=(4, 0, 0))
    assert biased["affirms_new"] == biased["denies_old"] == "cannot tell"
    contrary = verdicts(affirms_new=(4, 0, 0), denies_old=(4, 4, 4))  # no to everything
    assert contrary["affirms_new"] == contrary["denies_old"] == "cannot tell"
    fair = verdicts(affirms_new=(4, 0, 4), denies_old=(4, 0, 0))
    assert (fair["affirms_new"], fair["denies_old"]) == ("yes", "no")
    deaf = verdicts(negation=(4, 4, 0), negation_shift=(4, 3, 2))
    assert deaf["negation"] == "cannot tell"
    hears = verdicts(negation=(4, 4, 0), negation_shift=(4, 1, 1))
    assert hears["negation"] == "no"
    assert verdicts(reversal=(2, 0, 0), leakage=(2, 0, 0))["reversal"] == "cannot tell"
    assert verdicts(reversal=(2, 0, 0), leakage=(2, 1, 1))["reversal"] == "no"


def test_a_reader_is_told_what_matters_first():
    good = made({"efficacy": (1, 0, 1), "same_relation": (8, 8, 8)})
    assert good.verdict().startswith("Is the fact written? Yes (2 of 3 cannot tell).")
    assert "Is it used two hops later? Cannot tell." in good.verdict()
    assert "perplexing" in good.verdict() and good.perplexity[0] == pytest.approx(2)
    assert good.divergence[0] == pytest.approx(0.2)
    bad = made({"efficacy": (1, 0, 0), "same_relation": (8, 8, 2)})
    assert bad.verdict().startswith("Do not use this edit. Is the fact written? No: efficacy")
    assert "Is everything else as it was? No: specificity, same relation" in bad.verdict()


def test_a_card_is_saved_and_read_back(tmp_path: Path):
    one = made({"efficacy": (1, 0, 1), "negation": (3, 3, 0)})
    again = EditCard.load(one.save(tmp_path / "card"))
    pd.testing.assert_frame_equal(again.table(), one.table())
    assert again.summary()["metrics"]["negation"]["edited"] == 0


# --- measured ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())


@pytest.fixture
def edit(model: interp.Model) -> Edit:
    made = torch.Generator().manual_seed(0)
    factors = [torch.randn(n, 1, generator=made) for n in (model.arch.d_model, model.arch.d_mlp)]
    return Edit((FACT,), (Change("mlp_post", 1, *factors),), "rome", "m", ledger(model).base)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, model: interp.Model) -> ChainFacts:
    """Facts of the edited relation, of which the model knows all but one."""
    shots = card_measurement.SHOTS
    facts = []
    for i in range(6):
        text = f"w{20 + i} w{30 + i}"
        ask = card_measurement.asking(shots, text)
        (said,) = card_measurement.generations(model, [ask], [()])
        words = [word for word in said.split() if len(word) == 3 and word not in ("w40", "w41")]
        answer = "w99" if i == 5 or not words else words[0]
        facts.append(KnownQuestion(text, card_measurement.Answer(answer), (f"w{20 + i}",), ("r",)))
    found = ChainFacts(QuestionPool({"r": tuple(facts)}, {}), prompts={FACT.prompt: frozenset("r")})
    monkeypatch.setattr(card_measurement, "shipped_facts", lambda: found)
    monkeypatch.setattr(card_measurement, "N_ABILITY", 2)
    return found


def test_a_card_asks_the_same_without_and_with_the_edit(model, edit, world):
    before = model.weights_hash
    found = card(model, edit, old=["w41"], n=3)
    assert model.weights_hash == before and not ledger(model).applied
    counts = found.rows.groupby(["kind", "condition"]).size().unstack()
    own = counts.drop(index=list(ABILITIES))
    assert (own.nunique(axis=1) == 1).all() and list(own.columns) == sorted(CONDITIONS)
    assert counts.loc["efficacy", "edited"] == 1 and counts.loc["same_relation", "edited"] == 3
    same = found.rows[found.rows["kind"] == "same_relation"]
    assert same[same["condition"] == "unedited"]["hit"].all()
    # the reply under the edit is that of the applied edit
    with edit.applied(model):
        for line in same[same["condition"] == "edited"].itertuples():
            ask = card_measurement.asking(card_measurement.SHOTS, line.text)
            (reply,) = card_measurement.generations(model, [ask], [()])
            assert card_measurement.SHOTS.read(reply) == line.reply
    assert found.old == ("w41",) and found.given
    assert found.missing[f"{FIRST}: multihop_chains has no chain through this fact"] == 1
    assert found.cost["rank, summed"] == 1
    assert found.cost["bytes"] == 4 * (model.arch.d_model + model.arch.d_mlp)


def test_what_else_an_edit_was_given_is_not_asked_and_counted(model, edit, world, tmp_path):
    other = Fact("w3 {} is", "w20", "w41")  # of which the data has a question
    kept = PreservedQuestion("w5 w21 w6", "w21")
    plain, several, preserving = (
        card(
            model,
            replace(edit, facts=facts, preserve=preserve),
            old=["w42", "w43"][: len(facts)],
            n=6,
        )
        for facts, preserve in (((FACT,), ()), ((FACT, other), ()), ((FACT,), (kept,)))
    )

    def asked(found: EditCard) -> set[str]:
        rows = found.rows[found.rows["kind"] == "same_relation"]
        return set(rows[rows["fact"] == 0]["text"])

    assert len(asked(plain)) == 5
    assert asked(plain) - asked(several) == {"w20 w30"}
    assert asked(plain) - asked(preserving) == {"w21 w31"}
    counted = "same_relation: about the subject of another fact of the edit"
    assert several.missing[counted] == 1 and counted not in plain.missing
    assert preserving.missing["same_relation: given to the edit to preserve"] == 1
    stored = Edit.load(replace(edit, preserve=(kept,)).save(tmp_path / "edit"))
    assert stored.preserve == merge([stored]).preserve == (kept,)


def test_a_card_of_an_edit_that_is_applied_is_the_same_and_leaves_it(model, edit, world):
    plain = card(model, edit, old=["w41"], n=2)
    with edit.applied(model):
        weights = model.weights_hash
        found = card(model, edit, old=["w41"], n=2)
        assert model.weights_hash == weights and [e.id for e in ledger(model).applied] == [edit.id]
    pd.testing.assert_frame_equal(found.rows, plain.rows)


def test_pairs_about_an_edited_subject_are_left_out_and_counted(model, monkeypatch):
    monkeypatch.setattr(card_measurement, "ABILITIES", ("country_capitals",))
    subject = card_measurement.Answer("France")
    rows, missing = card_measurement.abilities(model, [subject], {"unedited": ()})
    assert len(rows) == card_measurement.N_ABILITY
    assert not rows["text"].str.contains("France").any()
    assert missing["country_capitals: the pair mentions an edited or preserved subject"] >= 1


def test_an_edit_of_other_weights_is_refused(edit, world):
    other = interp.load_model(tiny_hf("qwen3"), tokenizer=word_tokenizer())
    with pytest.raises(DataError, match="make it anew on this model"):
        card(other, edit)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"old": ["w1", "w2"]}, r"1 facts need as many old objects by name, not \['w1', 'w2'\]"),
        ({"old": [" "]}, r"1 facts need as many old objects by name, not \[' '\]"),
        ({"n": 0}, "at least one"),
    ],
)
def test_what_cannot_be_asked_is_refused(model, edit, world, options, told):
    with pytest.raises(DataError, match=told):
        card(model, edit, **options)


def test_a_model_that_answers_no_name_needs_to_be_told_the_old_object(
    model, edit, world, monkeypatch
):
    texts = iter(["a very long reply of more than six words", "w40"])
    monkeypatch.setattr(card_measurement, "generations", lambda *_: [next(texts)])
    for _ in range(2):
        with pytest.raises(DataError, match="say what it is with `--old`"):
            card(model, edit)


def test_an_empty_reply_is_shown_and_not_counted():
    one = made({"efficacy": (2, 0, 1)})
    rows = one.rows.assign(reply=["b", "b", "b", "", "b", "b"])  # the edited model's second
    table = replace(one, rows=rows)._asked().frame
    assert table["edited"].tolist() == ["b", ""] and table["counted"].tolist() == [True, False]


def test_questions_behind_the_stated_fact_are_not_listed():
    one = made({"efficacy": (1, 0, 1)})
    stated = one.rows["condition"] == "prompt-only"
    rows = one.rows.assign(text=one.rows["text"].mask(stated, "The fact. text"))
    table = replace(one, rows=rows)._asked().frame
    assert table["question"].tolist() == ["text"] and table["counted"].tolist() == [True]
