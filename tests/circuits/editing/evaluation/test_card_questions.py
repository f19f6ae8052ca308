"""Multi-hop and control questions of a fact, drawn from a small hand-made world."""

from dataclasses import replace

import pytest
from edit_records import FACTS, parse_cases, records

from circuits.editing import Fact
from circuits.editing.edit import Edit
from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.card_measurement import CardQuestion, why_unscored
from circuits.editing.evaluation.card_questions import FIRST, LAST, ChainFacts, sampled
from circuits.editing.evaluation.control_questions import KnownQuestion, QuestionPool
from circuits.editing.evaluation.fact_questions import EditedFact
from circuits.editing.fact import PreservedQuestion

WORLD = ChainFacts.of(parse_cases(records()))


def edited(sentence: str, old: str, **options) -> EditedFact:
    fact = Fact.in_words(sentence)
    fact = Fact(fact.prompt, fact.subject, fact.target, **options)
    return EditedFact(fact, Answer(fact.target), Answer(old), Answer(fact.subject))


WRITER = edited("[Writer00] is a citizen of [Land02]", "Land00")
BOOK = edited("[Book00] was written by [Writer01]", "Writer00")


def test_the_relation_is_that_of_the_prompt_or_of_subject_and_object():
    assert WORLD.relation(WRITER) == "citizenship"
    assert WORLD.relation(edited("[Book00] is by [Writer01]", "Writer00")) == "author"
    assert WORLD.relation(edited("[Book00] is by [Writer01]", "Town00")) == ""
    assert WORLD.relation(edited("[X] is [Y]", "Z", relation="capital")) == "capital"


def test_a_fact_is_the_last_hop_of_chains_that_lead_to_its_subject():
    found, missing = WORLD.composed(WRITER, "citizenship")
    last = [q for q in found if q.kind == LAST]
    assert {q.about for q in last} == {"Book00", "Book06"}  # the books of Writer00
    assert all(q.new.text == "Land02" and q.old.text == "Land00" and not q.needs for q in last)
    assert "Which country is the author of Book00 a citizen of?" in {q.text for q in last}


def test_a_fact_is_the_first_hop_of_chains_from_its_subject():
    found, missing = WORLD.composed(BOOK, "author")
    first = {q.text: q for q in found if q.kind == FIRST}
    asked = first["Which country is the author of Book00 a citizen of?"]
    assert (asked.old.text, asked.new.text) == ("Land00", FACTS["Writer01", "citizenship"])
    assert [(text, answer.text) for text, answer in asked.needs] == [
        ("Which country is Writer01 a citizen of?", FACTS["Writer01", "citizenship"])
    ]
    assert missing == {f"{LAST}: multihop_chains has no chain through this fact": 1}


def test_an_unknown_relation_is_composed_by_the_facts_own_words():
    mayor = edited("The home of [Ann] is [Land01]", "Land00")
    found, _ = WORLD.composed(mayor, "")
    (asked,) = [q for q in found if q.kind == FIRST]
    assert asked.text == "What is the capital of the home of Ann?"
    assert (asked.old.text, asked.new.text) == ("Town00", "Town01")


def test_what_an_edit_may_have_learned_from_is_left_out_and_counted():
    learned = edited(
        "[Writer00] is a citizen of [Land02]", "Land00", implicit=("the author of Book00",)
    )
    found, missing = WORLD.composed(learned, "citizenship")
    assert {q.about for q in found if q.kind == LAST} == {"Book06"}
    assert missing["multi-hop: about what the fact's implicit names mention"] == 1


def test_questions_that_another_fact_or_a_preserved_question_bears_on_are_not_scored():
    (neighbour,) = WORLD.controls(WRITER, "citizenship", 4, 0)["neighbour"]
    (two_hop, *_) = WORLD.controls(WRITER, "citizenship", 4, 0)["control_two_hop"]
    through = two_hop.subjects[1]
    assert through not in two_hop.text
    composed = {q.about: q for q in WORLD.composed(WRITER, "citizenship")[0] if q.kind == LAST}
    other = "about the subject of another fact of the edit"

    def why(question, *, facts=(), preserve=()):
        control = isinstance(question, KnownQuestion)
        rest = question.subjects if control else [text for text, _ in question.needs]
        kind = "neighbour" if question is neighbour else "other"
        asked = CardQuestion(0, kind, 0, question.text, "", WRITER.new)
        given = [WRITER, *facts]
        edit = Edit(tuple(one.fact for one in given), (), "", "", "", preserve=tuple(preserve))
        return why_unscored(asked, [question.text, *rest], given, edit)

    born = edited("[Writer00] was born in [Town02]", "Town00")  # of the same subject
    assert why(neighbour, facts=[born]) == other and not why(neighbour)
    assert not why(composed["Book00"], facts=[born])
    assert why(composed["Book00"], facts=[BOOK]) == other  # whose first hop it changes
    assert not why(composed["Book06"], facts=[BOOK])
    assert why(two_hop, facts=[edited(f"[{through}] is from [Land03]", "Land00")]) == other

    kept = "given to the edit to preserve"
    contrast = PreservedQuestion("Where was Writer01 born?", "Writer01", "birth", related=True)
    assert why(neighbour, preserve=[contrast]) == kept  # asked of the edited subject, too
    assert not why(neighbour, preserve=[replace(contrast, related=False)])
    assert why(two_hop, preserve=[PreservedQuestion(f"Who is {through}?", through)]) == kept
    own = PreservedQuestion("How old is Writer00?", "Writer00")  # its other questions stay
    assert not why(neighbour, preserve=[own])
    assert (
        why(composed["Book00"], preserve=[PreservedQuestion(composed["Book00"].text, "Book00")])
        == kept
    )


def test_draws_are_of_one_kind_and_repeat():
    found, _ = WORLD.composed(BOOK, "author")
    drawn = sampled(found, FIRST, 2, 0)
    assert drawn == sampled(found, FIRST, 2, 0) and {q.kind for q in drawn} == {FIRST}
    assert sampled(found, LAST, 2, 0) == []


def test_controls_are_of_four_kinds_and_not_of_the_fact_itself():
    controls = WORLD.controls(WRITER, "citizenship", 4, 0)
    same = controls["same_relation"]
    assert same and all(q.relations == ("citizenship",) and "Writer00" not in q.text for q in same)
    assert [q.text for q in controls["neighbour"]] == ["Where was Writer00 born?"]
    assert all("Land00" in q.answer.names for q in controls["same_answer"])
    two_hop = controls["control_two_hop"]
    assert two_hop and all("citizenship" in q.relations for q in two_hop)
    assert all(len(q.relations) > 1 and "Writer00" not in q.subjects for q in two_hop)


def test_an_unknown_relation_never_controls_itself():
    """What the data says of subject and old object is the edited fact in other words."""
    found = WORLD.controls(edited("[Writer00] comes from [Land02]", "Land00"), "", 4, 0)
    assert not found["same_relation"]
    assert [q.text for q in found["neighbour"]] == ["Where was Writer00 born?"]


@pytest.mark.parametrize(("n_wrong", "implied"), [(0, True), (1, False)])
def test_facts_that_imply_the_old_one_are_of_relations_that_turn_it_round(n_wrong, implied):
    def fact(subject: str, relation: str, answer: str) -> KnownQuestion:
        return KnownQuestion(f"{relation} {subject}?", Answer(answer), (subject,), (relation,))

    capital = [fact(f"L{i}", "capital", f"T{i}") for i in range(4)]
    back = [fact(f"T{i}", "capital_of", f"L{i}") for i in range(4)]
    back += [fact("village", "capital_of", "L1")] * n_wrong
    pool = QuestionPool({"capital": tuple(capital), "capital_of": tuple(back)}, {})
    one = edited("The capital of [L0] is [T9]", "T0")
    found = ChainFacts(pool).implying("capital", one)
    # one of five is a share of .8, which is enough
    assert [q.text for q in found] == ["capital_of T0?"]
    more = (*back, *([fact("hamlet", "capital_of", "L2")] if n_wrong else []))
    pool = QuestionPool({"capital": tuple(capital), "capital_of": more}, {})
    assert bool(ChainFacts(pool).implying("capital", one)) is implied
