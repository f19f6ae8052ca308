"""Questions about a fact: what is asked, compared with plain forward passes, and counted."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny, tiny_hf

from circuits.editing import Fact
from circuits.editing.change import Change, Changes
from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.control_questions import KnownQuestion
from circuits.editing.evaluation.edited_models import Ask, can_compare, generations, option_log_p
from circuits.editing.evaluation.fact_questions import (
    FACT_METRICS,
    PAIRED,
    EditedFact,
    ask_facts,
    fact_questions,
    fact_scores,
)
from circuits.editing.evaluation.metric_definitions import DEFINITIONS

FRANCE = EditedFact(
    Fact.in_words("The capital of [France] is [Rome]"),
    Answer("Rome"),
    Answer("Paris"),
    Answer("France"),
    (
        KnownQuestion(
            "Paris is the capital of which country?", Answer("France"), ("Paris",), ("c",)
        ),
    ),
)
PLAYS = EditedFact(Fact("{} plays", "Ann", "golf"), Answer("golf"), Answer("chess"), Answer("Ann"))
# words of the tiny models' tokenizer; the copula is what sentences turn on
TINY = EditedFact(
    Fact("w1 w2 {} is", "w10 w11", "w40"), Answer("w40"), Answer("w41 w42"), Answer("w10 w11")
)
OTHER = EditedFact(Fact("w3 {} w4", "w13", "w50"), Answer("w50"), Answer("w51"), Answer("w13"))


def change(seed: int = 0) -> Changes:
    made = torch.Generator().manual_seed(seed)
    arch = tiny("llama").arch
    factors = (torch.randn(n, 2, generator=made) for n in (arch.d_model, arch.d_mlp))
    return (Change("mlp_post", 1, *factors),)


def edited_hf(changes: Changes) -> torch.nn.Module:
    hf = tiny_hf("llama")
    with torch.no_grad():
        for one in changes:
            hf.model.layers[one.layer].mlp.down_proj.weight += one.matrix
    return hf


def naive(hf: torch.nn.Module, text: str, option: str) -> float:
    """Mean log-probability per token of an option behind a text, by one forward pass."""
    model = tiny("llama")
    start, ids = len(model.encode(text)), torch.tensor([model.encode(f"{text} {option}")])
    with torch.no_grad():
        log_p = hf(ids).logits[0, :-1].log_softmax(-1)
    return float(log_p.gather(1, ids[0, 1:, None])[start - 1 :].mean())


def of_kind(one: EditedFact) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for question in fact_questions(one)[0]:
        found.setdefault(question.kind, []).append(question.text)
    return found


# --- what is asked -----------------------------------------------------------------------------


def test_what_is_asked_about_a_fact():
    asked = of_kind(FRANCE)
    assert asked["affirmation"] == [
        "The capital of France is",
        "It is true that the capital of France is",
        "It is right to say that the capital of France is",
    ]
    assert asked["negation"] == [
        "The capital of France is not",
        "It is not true that the capital of France is",
        "It is wrong to say that the capital of France is",
    ]
    assert asked["affirms_new"][0] == "Q: Is it true that the capital of France is Rome?\nA:"
    assert asked["denies_old"][1] == "Q: The capital of France is Paris. Is that right?\nA:"
    blank = "Sentence: The capital of ___ is {}.\nBlank:"
    assert asked["reversal"] == [blank.format("Rome"), "Rome is the capital of"]
    assert asked["leakage"] == [
        blank.format("Paris"),
        "Paris is the capital of",
        "Q: Paris is the capital of which country?\nA:",
    ]
    assert asked["subject_by_new"] == asked["reversal"]
    assert asked["subject_by_old"] == asked["leakage"][:2]


def test_the_right_option_is_the_first():
    for question in fact_questions(FRANCE)[0]:
        right = {
            "affirmation": ("Rome", "Paris"),
            "negation": ("Paris", "Rome"),
            "affirms_new": ("Yes", "No"),
            "denies_old": ("No", "Yes"),
            "subject_by_new": ("France",),
            "subject_by_old": ("France",),
        }
        assert question.options == right.get(question.kind, ())


def test_what_cannot_be_formed_is_counted():
    assert fact_questions(FRANCE)[1] == Counter()
    found, missing = fact_questions(PLAYS)
    assert sum(missing.values()) == 3 and len(missing) == 3
    assert any("no copula" in reason for reason in missing)
    assert Counter(q.kind for q in found)["negation"] == 2
    unknown = EditedFact(FRANCE.fact, FRANCE.new, None, FRANCE.subject)
    found, missing = fact_questions(unknown)
    assert {q.kind for q in found} == {"reversal", "subject_by_new"}
    assert list(missing) == ["negation, checks, leakage: the old object is not known"]


# --- what is measured --------------------------------------------------------------------------


def test_options_are_as_likely_as_in_plain_forward_passes():
    edits = [(), change()]
    shown = "w20 w21 w22 "
    asks = [Ask(e, f"{shown}{t}", shown) for e in (0, 1) for t in ("w1 w2", "w3 w4 w5 w6")]
    asks.append(Ask(1, "w7"))
    options = [
        ("w40", "w41 w42", "w43"),
        ("w40 w41 w42",),
        ("w40", "w44"),
        ("w41",),
        ("w45", "w46"),
    ]
    found = option_log_p(tiny("llama"), asks, options, edits)
    for ask, own, values in zip(asks, options, found, strict=True):
        hf = edited_hf(edits[ask.edit])
        expected = [naive(hf, ask.text, option) for option in own]
        assert values == pytest.approx(expected, abs=1e-4)
    assert option_log_p(tiny("llama"), [], [], [()]) == []


def test_an_option_without_tokens_of_its_own_is_found():
    model = tiny("llama")
    assert can_compare(model, Ask(0, "w1"), ("w2", "w3 w4"))
    assert not can_compare(model, Ask(0, "w1"), ("w2", " "))


def test_facts_are_asked_each_under_its_own_edit():
    model, edits = tiny("llama"), [(), change()]
    facts, owner, before = [TINY, OTHER, TINY], [0, 1, 1], ["", "", "w30 w31. "]
    rows, missing = ask_facts(model, facts, edits, owner, before)
    margins = rows.set_index(["fact", "kind", "index"])["margin"]
    assert set(rows["text"][rows["fact"] == 2]) == set(rows["text"][rows["fact"] == 0])
    for i, one in enumerate(facts):
        hf = edited_hf(edits[owner[i]])
        for question in fact_questions(one)[0]:
            text = question.shown + before[i] + question.text
            values = [naive(hf, text, option) for option in question.options]
            if values:
                expected = values[0] - sum(values[1:])
                sign = -1 if question.kind == "subject_by_old" else 1
                at = (i, question.kind, question.index)
                assert margins[at] == pytest.approx(sign * expected, abs=2e-4)
            else:
                (reply,) = generations(model, [question.ask(owner[i], before[i], one.fact)], edits)
                own = rows[(rows["fact"] == i) & (rows["kind"] == question.kind)]
                own = own[own["index"] == question.index].iloc[0]
                assert own["reply"] == reply.strip()
                assert own["hit"] == one.subject.lenient(reply)
    assert not missing[0] and missing[1]
    assert rows[rows["margin"].notna()].eval("hit == (margin > 0)").all()


def test_differences_cancel_a_bias():
    rows, _ = ask_facts(tiny("llama"), [TINY], [()], [0], [""])
    margins = rows.set_index(["kind", "index"])["margin"]
    for name, (first, second) in PAIRED.items():
        for index in margins[name].index:
            both = margins[first, index] + margins[second, index]
            assert margins[name, index] == pytest.approx(both)


def test_scores_are_shares_and_mean_margins():
    rows = pd.DataFrame(
        [
            ("a", "negation", 1.0, True),
            ("a", "negation", -3.0, False),
            ("a", "fact_check", 0.5, True),
            ("b", "negation_shift", -1.0, False),
            ("b", "reversal", np.nan, True),
        ],
        columns=["case", "kind", "margin", "hit"],
    )
    found = fact_scores(rows, ["case"])
    assert list(found.columns) == list(FACT_METRICS)
    assert found.loc["a", "negation"] == 0.5 and found.loc["a", "fact_check_margin"] == 0.5
    assert found.loc["b", "negation_shift"] == 0 and found.loc["b", "negation_shift_margin"] == -1
    assert found.loc["b", "reversal"] == 1 and np.isnan(found.loc["a", "reversal"])


def test_every_metric_is_defined():
    assert {name.removesuffix("_margin") for name in FACT_METRICS} <= set(DEFINITIONS)
