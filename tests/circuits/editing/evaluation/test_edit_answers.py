"""What counts as an answer: known pairs, and properties of any text."""

from pathlib import Path

import pytest
from conftest import ROOT
from edit_records import MQUAKE, needs_data
from hypothesis import given
from hypothesis import strategies as st

from circuits.editing.evaluation.answers import Answer, normalised, reasoned_answer, short_answer
from circuits.editing.evaluation.demonstrations import (
    DEMONSTRATIONS,
    IKE,
    IN_CONTEXT,
    REASONED,
    SHOTS,
    load_shots,
    shots_named,
)
from circuits.editing.evaluation.edited_models import asking
from circuits.editing.evaluation.formats import load_cases
from interp.errors import DataError

WORDS = st.text(st.characters(categories=["L", "N", "M"]), min_size=1, max_size=8).filter(
    normalised
)
NAMES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)

USA = Answer("United States of America", ("USA", "US", "U.S.", "the United States"))


@pytest.mark.parametrize(
    ("said", "strict", "lenient"),
    [
        ("United States of America", True, True),
        ("the United States of America.", True, True),
        ("united states", True, True),
        ("U.S.A.", True, True),
        ("us", True, True),  # as the whole answer, a code in any case
        ("It is the US, I think", False, True),
        ("Contact us", False, False),
        ("It is in the united states.", False, True),
        ("United Kingdom", False, False),
        ("", False, False),
        ("...", False, False),
    ],
)
def test_strict_is_the_name_and_lenient_contains_it(said: str, strict: bool, lenient: bool):
    assert (USA.strict(said), USA.lenient(said)) == (strict, lenient)


@pytest.mark.parametrize(
    ("name", "said", "lenient"),
    [
        ("Oman", "Romania", False),
        ("Oman", "Muscat, Oman", True),
        ("India", "Indiana", False),
        ("Niger", "Nigeria", False),
        ("Niger", "Niger's capital", True),
        ("Washington, D.C.", "Washington DC is", True),
        ("Washington, D.C.", "Washington, D.C.", True),
        ("Jean-Paul Sartre", "by Jean Paul Sartre", True),
        ("The Hague", "in the hague", True),
        ("IN", "in Asia", False),
        ("in", "in Asia", False),
        ("pop", "pop music", True),
        ("C++", "C", False),
        ("C", "C++", False),
        ("Ａｔｈｅｎｓ", "Athens", True),  # full width: NFKC
        ("São Paulo", "Sa\u0303o Paulo", True),
        ("🇨🇳", "", False),
        ("🇨🇳", "anything", False),
        ("習近平", "習近平", True),
        ("İstanbul", "in İSTANBUL, Turkey", True),
        ("हिन्दी", "हिन्दी भाषा", True),
        ("Twitter", "#Twitter", True),
    ],
)
def test_whole_words_only(name: str, said: str, lenient: bool):
    assert Answer(name).lenient(said) is lenient


@given(NAMES, st.lists(NAMES, max_size=3))
def test_every_name_is_an_answer_in_any_case_and_sentence(name: str, aliases: list[str]):
    answer = Answer(name, tuple(aliases))
    for one in answer.names:
        assert answer.strict(one)
        assert answer.strict(f"  {one}.")
        articles = ("a", "an", "the")
        bare = normalised(one)[0] not in articles and normalised(f"x {one}")[1] not in articles
        assert answer.strict(f"the {one}") or not bare
        assert answer.lenient(f"zzzz {one}, zzzz") or sum(map(len, normalised(one))) < 4


@given(NAMES, st.text())
def test_strict_implies_lenient(name: str, said: str):
    answer = Answer(name)
    assert answer.lenient(said) or not answer.strict(said)


@given(NAMES, WORDS)
def test_never_inside_a_word(name: str, letters: str):
    glued = f"{letters}{name.replace(' ', '')}"
    # one word still: a letter such as U+013F becomes a letter and a dot, which ends a word
    if len(normalised(glued)) == 1 and normalised(glued) != normalised(name):
        assert not Answer(name.replace(" ", "")).lenient(glued)


@given(st.text())
def test_normalising_twice_is_once(text: str):
    once = normalised(text)
    if once and once[0] not in ("a", "an", "the"):
        assert normalised(" ".join(once)) == once


@given(NAMES, NAMES)
def test_overlap_is_symmetric_and_of_names(a: str, b: str):
    first, second = Answer(a, (b,)), Answer(b)
    assert first.overlaps(second) and second.overlaps(first)
    assert Answer(a).overlaps(Answer(b)) == (normalised(a) == normalised(b))


def test_answers_are_cut_out_of_generations():
    assert short_answer(" Paris\nQ: What") == "Paris"
    assert short_answer("\nParis") == ""
    assert reasoned_answer(" It is so.\nAnswer: Paris\n\nQuestion: x\nAnswer: Rome") == "Paris"
    assert reasoned_answer(" It is so.\n\nQuestion: x\nThoughts: y\nAnswer: Rome") == ""
    assert reasoned_answer("no answer at all") == ""


# --- prompts -----------------------------------------------------------------------------------


def test_our_demonstrations_have_the_asked_form():
    assert len(DEMONSTRATIONS) == 6
    assert sum(thoughts.count(".") == 2 for _, thoughts, _ in DEMONSTRATIONS) == 2
    assert SHOTS.prefix.count("Q: ") == SHOTS.prefix.count("\nA: ") == 6
    assert SHOTS.ask("Who?").endswith("\n\nQ: Who?\nA:")
    assert SHOTS.ask("Who?") == SHOTS.prefix + SHOTS.suffix("Who?")
    assert REASONED.ask("Who?").endswith("\n\nQuestion: Who?\nThoughts:")


def test_facts_in_context_are_copied_used_and_left_alone():
    copied = [fact for fact, question, _ in IN_CONTEXT if not question]
    used = [q for fact, q, answer in IN_CONTEXT if q and answer.lower() in fact.lower()]
    assert (len(copied), len(used), len(IN_CONTEXT)) == (2, 6, 16)
    assert IKE.count("\n\n") == 16 and IKE.count("\nQ: ") == IKE.count("\nA: ") == 14
    assert all(f"{fact}\n{fact}\n\n" in IKE for fact in copied)


@pytest.mark.parametrize("shots", [SHOTS, REASONED])
def test_our_demonstrations_read_as_their_own_answers(shots):
    head = shots.suffix(DEMONSTRATIONS[0][0])
    assert shots.prefix.startswith(head)
    assert shots.read(shots.prefix[len(head) :]) == DEMONSTRATIONS[0][2]


CHAINS = ROOT / "datasets" / "multihop_chains.json"


@pytest.mark.parametrize("path", [CHAINS, *sorted(MQUAKE.glob("*.json"))], ids=lambda p: p.stem)
def test_no_case_is_about_an_entity_of_our_demonstrations(path: Path):
    if not path.is_file():
        pytest.skip(f"no {path}")
    entities: set[str] = set()
    for case in load_cases(path):
        ends = (case.answer, case.new_answer, *case.targets, *case.originals)
        entities |= {*case.subjects, *case.new_subjects, *(answer.text for answer in ends)}
    said = [text for one in (*DEMONSTRATIONS, *IN_CONTEXT) for text in one]
    assert not [e for e in entities if any(Answer(e).lenient(text) for text in said)]


@needs_data
def test_official_prompts_are_kept_byte_for_byte():
    path = MQUAKE / "prompts" / "multihop-prompts.txt"
    shots = load_shots(path)
    assert shots.prefix.encode() == path.read_bytes()
    assert shots.ask("Who?") == shots.prefix + "\nQ: Who? A:"
    assert "Dodge Ram SRT-10 created by? Dodge\n" in shots.prefix  # the one without its A:
    reasoned = load_shots(MQUAKE / "prompts" / "multihop-cot-prompts.txt")
    assert reasoned.ask("Who?").endswith("General Motors\n\nQuestion: Who?\nThoughts:")
    assert reasoned.read(" A. B.\nAnswer: C\n") == "C"
    assert (shots.stop, shots.n_tokens, reasoned.stop, reasoned.n_tokens) == ("\n", 10, "\n\n", 100)


def test_demonstrations_have_names():
    assert shots_named("direct") is SHOTS and shots_named("reasoned") is REASONED
    assert (SHOTS.stop, REASONED.stop, REASONED.n_tokens) == ("\n", "\n\n", 100)
    ask = asking(REASONED, "Who?", edit=3, before="France is big.\n")
    assert ask.text == REASONED.prefix + "France is big.\nQuestion: Who?\nThoughts:"
    assert (ask.edit, ask.prefix) == (3, REASONED.prefix + "France is big.\n")
    assert (ask.stop, ask.n_tokens) == ("\n\n", 100)


def test_other_files_are_no_prompts(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    with pytest.raises(DataError, match="no such file"):
        load_shots(path)
    with pytest.raises(DataError, match="prompts.txt' is not a file of demonstrations"):
        shots_named(str(path))
    path.write_text("Once upon a time")
    with pytest.raises(DataError, match="starts with 'Once upon a time'"):
        load_shots(path)
