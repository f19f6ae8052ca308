"""A fact's other forms, on prompts of many shapes."""

import pytest

from circuits.editing import Fact
from circuits.editing.evaluation.statements import (
    blanked,
    inside,
    negated,
    phrase,
    statement,
    turned_round,
)
from interp.errors import DataError

FRANCE = Fact.in_words("The capital of [France] is [Rome]")
FORMS = {  # prompt: denied, turned round from object T, phrase; of subject S
    "The capital of {} is": ("The capital of S is not", "T is the capital of", "the capital of S"),
    "The capital city of {} is called": (
        "The capital city of S is not called",
        "T is the capital city of",
        "the capital city of S",
    ),
    "The country that {} led is": ("The country that S led is not", "", "the country that S led"),
    "The kind of animal that {} is is called a": (
        "The kind of animal that S is is not called a",
        "",
        "the kind of animal that S is",
    ),
    "The city of {} is the capital of": (
        "The city of S is not the capital of",
        "The capital of T is the city of",
        "",
    ),
    "The capital of the state of {} is the city of": (
        "The capital of the state of S is not the city of",
        "The city of T is the capital of the state of",
        "the capital of the state of S",
    ),
    "{} was written by": ("S was not written by", "", ""),
    "{} plays the sport of": ("", "", ""),
    "The food that is eaten in {} comes from": ("", "", ""),
    "At room temperature, {} is a": ("At room temperature, S is not a", "", ""),
    "Who wrote {}?": ('The answer to "Who wrote S?" is not', "", ""),
}


@pytest.mark.parametrize("prompt", FORMS)
def test_forms_of_prompts(prompt: str):
    fact = Fact(prompt, "S", "T")
    assert (negated(fact), turned_round(fact, "T"), phrase(fact)) == FORMS[prompt]


def test_statements_and_blanks():
    assert statement(FRANCE, "Paris") == "The capital of France is Paris"
    assert blanked(FRANCE, "Paris") == "The capital of ___ is Paris"
    asked = Fact("Who wrote {}?", "Hamlet", "Dickens")
    assert statement(asked, "Dickens") == 'The answer to "Who wrote Hamlet?" is Dickens'


def test_a_name_keeps_its_capital_within_a_sentence():
    assert inside("The capital is") == "the capital is"
    assert inside("Napoleon led") == "Napoleon led"
    assert inside("IT is") == "IT is"


def test_a_subjects_own_words_are_never_negated():
    film = Fact("{} stars", "Life is Beautiful", "Brad Pitt")
    assert negated(film) == ""


def test_a_fact_in_plain_words():
    assert (FRANCE.prompt, FRANCE.subject, FRANCE.target) == (
        "The capital of {} is",
        "France",
        "Rome",
    )
    hamlet = Fact.in_words("[Hamlet] was written by [Charles Dickens].")
    assert hamlet.cloze == "Hamlet was written by" and hamlet.target == "Charles Dickens"


@pytest.mark.parametrize(
    "text",
    ["The capital of France is Rome", "[France] has [Rome] as its capital", "[France][Rome]"],
)
def test_facts_without_marks_are_refused(text: str):
    with pytest.raises(DataError, match="square brackets"):
        Fact.in_words(text)
