"""Implicit subjects: found by what a model answers, kept apart from what an evaluation asks."""

import re
from collections import Counter
from dataclasses import replace

import pytest
from conftest import tiny
from edit_records import parse_cases

import interp
from circuits.editing import EvaluatedChain, Fact, implicit_subjects
from circuits.editing import implicit as module
from circuits.editing.evaluated_chains import (
    TESTED_ENTITY,
    TESTED_RELATION,
    TESTED_WORDING,
    Description,
)
from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.cases import SingleEdit
from circuits.editing.evaluation.demonstrations import SHOTS
from circuits.editing.evaluation.implicit_names import held_out, with_names
from circuits.editing.implicit import (
    KEPT,
    NAMES_ANSWER,
    NAMES_SUBJECT,
    SURPLUS,
    UNKNOWN,
    UNRESOLVED,
)
from circuits.editing.presets import preset
from circuits.editing.subject_relations import SUBJECT_RELATIONS
from interp.errors import DataError

LANGUAGE = Fact(
    "The language of {} is",
    "France",
    "Greek",
    question="What is the language of {}?",
    relation="P37",
)
WORLD = {
    "What is the capital of France?": "Paris",
    "Which landmarks are in France?": "The Louvre, Big Ben, the France Tower, and Versailles",
    "Which famous people are citizens of France?": "Molière, Homer",
    "Which country has Paris as its capital?": "France",
    "Which country is the Louvre located in?": "It is France.",
    "Which country is Versailles located in?": "France",
    "Which country is Big Ben located in?": "England",
    "What is the country of citizenship of Molière?": "France",
    "What is the country of citizenship of Homer?": "France",
    "What is the language of France?": "French",
    "What is the language of the country whose capital is Paris?": "French",
    "What is the language of the country where the Louvre is located?": "French, I think",
    "What is the language of the country where Versailles is located?": "Latin",
    "What is the language of the country of citizenship of Molière?": "French",
    "What is the language of the country of citizenship of Homer?": "French",
    "France: the": "country whose wine is good.",
    "France: the country whose": "people speak French",
    "France: the country where": "one eats snails.",
    "What is the country where one eats snails?": "France",
    "What is the language of the country where one eats snails?": "French",
}
"""What a model that is fully known says to each question, and nothing to any other."""


@pytest.fixture
def world(monkeypatch):
    """A model whose answers are in `WORLD`; what it was asked."""
    asked: list[str] = []

    def says(model, asks, edits):
        assert edits == [()]  # as the model is now
        asked.extend(one.text.removeprefix(one.prefix) for one in asks)
        return [WORLD.get(re.sub(r"^Q: |\nA:$", "", text), "") for text in asked[-len(asks) :]]

    monkeypatch.setattr(module, "generations", says)
    monkeypatch.setattr(module, "_kinds", lambda model, names: dict.fromkeys(names, ["country"]))
    return asked


def outcomes(found) -> dict[str, str]:
    """By source, or phrase where there is none."""
    rows = found.tried.itertuples()
    return {row.source or row.phrase: row.outcome for row in rows if row.outcome}


# --- the search --------------------------------------------------------------------------------


def test_a_phrase_is_used_if_the_model_leads_from_it_to_the_subject_and_to_the_old_answer(world):
    found = implicit_subjects(tiny("llama"), [LANGUAGE])
    got = outcomes(found)
    assert got["Paris"] == got["the Louvre"] == got["Molière"] == got["Homer"] == KEPT
    assert got["Big Ben"] == UNKNOWN  # England
    assert got["Versailles"] == UNRESOLVED  # Latin
    assert got["the France Tower"] == NAMES_SUBJECT
    assert got["the country whose people speak French"] == NAMES_ANSWER
    assert got["the country where one eats snails"] == KEPT
    assert found.facts == (
        replace(
            LANGUAGE,
            implicit=(
                "the country whose capital is Paris",
                "the country where the Louvre is located",
                "the country of citizenship of Molière",
                "the country of citizenship of Homer",
                "the country where one eats snails",
            ),
        ),
    )
    assert found.counts[0][KEPT] == 5 and sum(found.counts[0].values()) == len(found.tried)
    assert "5 implicit names found; tried" in found.notes[0]
    assert found.n_questions == len(world)


def test_facts_of_chats_are_asked_in_their_chat_and_each_question_once(world):
    chats = [interp.Chat(arguments={"effort": effort}) for effort in ("low", "low", "high")]
    facts = [replace(LANGUAGE, chat=chat) for chat in chats]
    found = implicit_subjects(tiny("llama"), facts)
    assert [len(fact.implicit) for fact in found.facts] == [5, 5, 5]
    asked = Counter(re.sub(r"^Q: |\nA:$", "", text) for text in world)
    assert asked["What is the language of France?"] == 2  # of two chats
    assert asked["What is the capital of France?"] == 1  # asked of the subject, in none


def test_each_relation_gives_a_name_before_any_gives_a_second(world):
    found = implicit_subjects(tiny("llama"), [LANGUAGE], most=3)
    used = found.tried[found.tried["outcome"] == KEPT]
    assert list(used["relation"]) == ["^P36", "P17", "P27"]
    assert outcomes(found)["Homer"] == SURPLUS
    assert not any(text.startswith("France: the") for text in world)  # relations were enough


def test_the_new_answer_in_a_phrase_is_refused_and_an_answer_of_the_subject_is_asked_for(world):
    capital = replace(LANGUAGE, prompt="The capital of {} is", question="", target="Homer")
    found = implicit_subjects(tiny("llama"), [capital])
    assert outcomes(found)["Homer"] == NAMES_ANSWER
    assert outcomes(found)["the Louvre"] == UNRESOLVED  # the model gives no capital at all
    assert "Q: The capital of France is\nA:" in world
    assert "Q: The capital of the country where the Louvre is located is\nA:" in world
    assert found.facts[0].implicit == ()


def test_a_form_of_a_name_is_the_name():
    assert module._hints("the city of the South Korean team", "South Korea")
    assert module._hints("the home of the Colombian peso", "Colombia")
    assert not module._hints("the country whose capital is Seoul", "Korea")
    assert not module._hints("the author of Emma", "Em")  # too short to tell
    assert module._same("United States", "United States of America")
    assert not module._same("America of the North", "North America") and not module._same("", "x")


def test_facts_of_one_subject_share_what_it_is_asked(world):
    other = replace(LANGUAGE, question="", prompt="In {} one speaks", relation="x")
    implicit_subjects(tiny("llama"), [LANGUAGE, other])
    assert len(world) == len(set(world))


def test_written_names_stay_are_completed_withheld_or_replaced(world):
    written = replace(LANGUAGE, implicit=("the land of Voltaire",))
    facts = [written, replace(LANGUAGE, where="bare")]
    model = tiny("llama")
    given = implicit_subjects(model, facts, "given")
    assert given.facts == tuple(facts) and not world and given.notes == ()
    none = implicit_subjects(model, facts, "none")
    assert [fact.implicit for fact in none.facts] == [(), ()] and not world
    missing = implicit_subjects(model, facts)
    assert missing.facts[0] == written and len(missing.facts[1].implicit) == 5
    assert missing.counts[0] == {} and len(missing.notes) == 1
    found = implicit_subjects(model, facts, "found")
    assert [len(fact.implicit) for fact in found.facts] == [5, 5]
    with pytest.raises(DataError, match="no choice 'fond' of names. Did you mean 'found'"):
        implicit_subjects(model, facts, "fond")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="1 of leak for 2 facts; give one per fact"):
        implicit_subjects(model, facts, leak=[EvaluatedChain()])


def test_another_name_of_the_subject_is_the_subject(world, monkeypatch):
    monkeypatch.setitem(WORLD, "Which country is Big Ben located in?", "Gaul")
    monkeypatch.setitem(
        WORLD, "What is the language of the country where Big Ben is located?", "French"
    )
    chain = EvaluatedChain(aliases=("Gaul", "the land of Homer"))
    found = implicit_subjects(tiny("llama"), [LANGUAGE], leak=chain)
    assert outcomes(found)["Big Ben"] == KEPT and outcomes(found)["Homer"] == NAMES_SUBJECT


def test_a_list_that_was_cut_off_loses_its_last_name(world, monkeypatch):
    monkeypatch.setattr(module, "N_LISTED", 3)
    found = implicit_subjects(tiny("llama"), [LANGUAGE])
    assert "Versailles" not in outcomes(found)


def test_every_relation_has_its_slots_and_mquake_s_relations_to_a_subject_are_there():
    for one in SUBJECT_RELATIONS:
        assert [text.count("{}") for text in (one.elicit, one.phrase, one.question)] == [1, 1, 1]
        assert one.question.endswith("?") and one.elicit.endswith("?") and one.phrase[:4] == "the "
    ids = [one.id for one in SUBJECT_RELATIONS]
    assert len(ids) == len(set(ids))
    first_hops = (
        "P27 P495 P641 P140 P413 P170 P50 P136 P449 P108 P26 P19 P159 P20 P69 P176 P178 P488"
    )
    first_hops += " P175 P112 P740 P1308 P169 P40 P36 P1412 P37 P6 P937 P286 P1037 P800"
    assert set(first_hops.split()) <= set(ids)


# --- what an evaluation asks -------------------------------------------------------------------


def test_descriptions_that_show_the_tested_chain_leak():
    tested = EvaluatedChain(
        (
            "What is the capital of the country of citizenship of Molière?",
            "Where was Molière born?",
        ),
        (Answer("Molière", ("Poquelin",)), Answer("Paris")),
        ("P17",),
    )

    def about(relation: str, head: str, source: str, tail: str = "") -> str:
        return Description(f"{head}{source}{tail}", "", relation, source).leaks(tested)

    assert about("birth", "the country where ", "Molière", " was born") == TESTED_ENTITY
    assert about("birth", "the country where ", "Poquelin", " was born") == TESTED_ENTITY  # alias
    assert about("^P36", "the country whose capital is ", "Paris") == TESTED_ENTITY
    assert about("company", "the home country of ", "Parisian Cars") == ""  # a word of its own
    assert about("P17", "the country where ", "the Louvre", " is located") == TESTED_RELATION
    assert about("P27", "the country of citizenship of ", "Voltaire") == TESTED_WORDING
    assert about("birth", "the country where ", "Voltaire", " was born") == ""
    own = Description("the country of citizenship", "").leaks(tested)  # words of a tested question
    assert own == TESTED_WORDING
    assert Description("the country where Paris lies", "").leaks(tested) == TESTED_ENTITY
    assert Description("the country of the cockerel", "").leaks(tested) == ""
    assert Description("the country of citizenship", "").leaks(EvaluatedChain()) == ""


def test_what_is_tested_is_excluded_and_counted_before_the_model_is_asked(world):
    tested = EvaluatedChain(("Who is Homer?",), (Answer("Louvre"),), ("^P36",), ("the Hexagon",))
    found = implicit_subjects(tiny("llama"), [LANGUAGE, LANGUAGE], leak=[tested, EvaluatedChain()])
    mine, other = found.counts
    assert mine[TESTED_ENTITY] == 2 and mine[TESTED_RELATION] == 1  # the Louvre, Homer; Paris
    assert TESTED_ENTITY not in other and other[KEPT] == 5
    assert found.facts[0].implicit == (
        "the country of citizenship of Molière",
        "the country where one eats snails",
    )
    world.clear()
    implicit_subjects(tiny("llama"), [LANGUAGE], leak=tested)
    assert not any("Louvre" in text and "located" in text for text in world)


def record(at: int) -> dict:
    """Molière - citizenship - France - language - French, edited at one hop."""

    def hop(question: str, answer: str, *aliases: str) -> dict:
        return {"question": question, "cloze": f"{question} :", "answer": answer} | {
            "answer_alias": list(aliases)
        }

    first = hop("What is the country of citizenship of Molière?", "France", "the Republic")
    second = hop("What is the language of France?", "French")
    new = [hop(first["question"], "Spain"), hop("What is the language of Spain?", "Spanish")]
    if at == 1:
        new = [first, hop(second["question"], "Greek")]
    edit = {
        "prompt": "The language of {} is",
        "subject": "France",
        "target_true": {"str": "French"},
    }
    if at == 0:
        edit = {"prompt": "{} is from", "subject": "Molière", "target_true": {"str": "France"}}
    return {
        "case_id": at,
        "requested_rewrite": [
            edit | {"target_new": {"str": new[at]["answer"]}, "question": new[at]["question"]}
        ],
        "questions": ["Which language is spoken where Molière is a citizen?"],
        "answer": "French",
        "new_answer": new[1]["answer"],
        "single_hops": [first, second],
        "new_single_hops": new,
        "orig": {"triples_labeled": [["Molière", "P27", "France"], ["France", "P37", "French"]]},
    }


def test_of_a_case_its_questions_its_other_entities_and_the_relation_to_the_subject_are_held_out():
    first, last = parse_cases([record(0), record(1)])
    (tested,) = held_out(last)
    assert {one.text for one in tested.entities} == {"Molière", "French", "Greek"}
    assert tested.relations == ("P27",) and set(last.questions) <= set(tested.questions)
    assert tested.aliases == ("France", "the Republic")
    (tested,) = held_out(first)
    assert {one.text for one in tested.entities} == {"France", "French", "Spain", "Spanish"}
    assert tested.relations == () and tested.aliases == ("Molière",)


def test_of_a_single_edit_its_questions_and_its_objects_are_held_out():
    fact = Fact("The capital of {} is", "France", "Rome")
    case = SingleEdit("1", fact, "Paris", paraphrases=("France, with its capital",))
    for true, objects in (("Paris", {"Rome", "Paris"}), (None, {"Rome"})):
        (tested,) = held_out(replace(case, true=true))
        assert {one.text for one in tested.entities} == objects
        assert tested.questions == case.paraphrases


def test_cases_are_searched_without_their_chains(world):
    cases = parse_cases([record(1)])
    ((case,), tried) = with_names(tiny("llama"), cases, "found")
    assert case.facts[0].implicit == (
        "the country whose capital is Paris",
        "the country where the Louvre is located",
        "the country where one eats snails",
    )
    counts = tried["outcome"].value_counts()
    assert counts[TESTED_ENTITY] == 1  # Molière
    assert counts[TESTED_RELATION] == 1  # Homer
    ((case,), tried) = with_names(tiny("llama"), cases, "none")
    assert case.facts[0].implicit == () and not len(tried)


# --- real models -------------------------------------------------------------------------------


def test_methods_without_two_hop_prompts_need_no_names():
    model = tiny("llama")
    assert [preset(name, model).two_hop for name in ("rome", "rome+", "memit", "ifmet")] == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.slow
def test_names_of_a_real_model_hold_in_plain_transformers():
    model = interp.load_model("smollm2-135m")
    fact = Fact("The capital of {} is", "Japan", "Rome", question="What is the capital of {}?")
    found = implicit_subjects(model, [fact])
    assert len(found.facts[0].implicit) >= 2
    rows = found.tried[found.tried["outcome"] == KEPT]
    for phrase in rows["phrase"]:
        text = SHOTS.ask(f"What is the capital of {phrase}?")
        ids = model.tokenizer(text, return_tensors="pt")
        out = model.hf.generate(**ids, max_new_tokens=10, do_sample=False)
        said = model.tokenizer.decode(out[0, ids["input_ids"].shape[1] :])
        assert "Tokyo" in said.split("\n")[0] and "Japan" not in phrase
