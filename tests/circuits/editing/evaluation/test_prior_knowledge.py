"""What a model knows before an edit: who is asked what, what counts as known, what is left out."""

from dataclasses import replace

from conftest import tiny
from edit_records import parse_cases, records
from planted_cases import PLAIN, planted

from circuits.editing.evaluation import SHOTS
from circuits.editing.evaluation import prior_knowledge as module
from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.prior_knowledge import (
    Knowledge,
    knowledge_of_enough,
    prior_knowledge,
    usable_cases,
)

CASES = parse_cases(records())


def oracle(wrong: set[str] = frozenset()):
    """Answers of a reader of the whole world, but for some questions."""
    true = {hop.question: hop.answer.text for c in CASES for hop in (*c.hops, *c.new_hops)}
    for case in CASES:
        true |= {hop.question: hop.answer.text for hop in case.hops}
        true |= dict.fromkeys(case.questions, case.answer.text)
    return {text: "nobody knows" if text in wrong else answer for text, answer in true.items()}


def known(wrong: set[str] = frozenset()) -> Knowledge:
    """As `prior_knowledge` would have it, from answers that are there already: no model is run."""
    return prior_knowledge(None, CASES, SHOTS, answers=oracle(wrong))


def test_everything_that_was_said_before_is_not_asked_again():
    found = known()
    assert set(found.answers) == set(oracle())
    for case in CASES:
        assert {hop.question for hop in case.hops} <= found.right
        assert set(case.questions) <= found.right


def test_each_reason_to_leave_a_case_out_is_told():
    case = next(c for c in CASES if c.position == "first" and c.n_hops == 2)
    everything = known().right
    assert Knowledge(everything, {}).missing(case) == ""
    one_wording = everything - set(case.questions[1:])
    assert Knowledge(one_wording, {}).missing(case) == ""
    no_wording = everything - set(case.questions)
    assert "multi-hop question is not answered" in Knowledge(no_wording, {}).missing(case)
    assert Knowledge(no_wording, {}).missing(case, "hops") == ""
    no_hop = everything - {case.hops[1].question}
    assert Knowledge(no_hop, {}).missing(case) == "a hop is not known before the edit"
    assert Knowledge(no_hop, {}).missing(case, "hops") == "a hop is not known before the edit"
    assert Knowledge(no_hop, {}).missing(case, "none") == ""
    # the hop of the new chain that nobody edits: what the model must add to the edit itself
    beyond = everything - {case.new_hops[1].question}
    reason = Knowledge(beyond, {}).missing(case)
    if case.new_hops[1].question in {hop.question for hop in case.hops}:
        assert reason == "a hop is not known before the edit"
    else:
        assert reason == "an unedited hop of the new chain is not known"
    # the edited hop itself need not be known: it is false before the edit
    assert not Knowledge(everything - {case.new_hops[0].question}, {}).missing(
        replace(case, hops=case.hops[1:] * 2)
    )
    same = replace(case, new_answer=Answer("X", (case.answer.text,)))
    assert "does not change the answer" in Knowledge(everything, {}).missing(same)
    assert "does not change the answer" in Knowledge(everything, {}).missing(same, "none")


def test_every_case_is_usable_or_counted():
    wrong = {CASES[0].hops[0].question}
    kept, excluded = usable_cases(CASES, known(wrong))
    assert kept and len(kept) + sum(excluded.values()) == len(CASES)
    lost = [case for case in CASES if CASES[0].hops[0].question in {h.question for h in case.hops}]
    assert excluded["a hop is not known before the edit"] >= len(lost) > 0
    assert not {case.id for case in kept} & {case.id for case in lost}


def test_composed_questions_are_asked_only_where_every_hop_is_known():
    wrong = CASES[0].hops[0].question
    answers = oracle({wrong})
    unasked = set(CASES[0].questions)
    without = {text: said for text, said in answers.items() if text not in unasked}
    found = prior_knowledge(
        None, CASES, SHOTS, answers=without
    )  # would fail on None if they were asked
    assert not unasked & set(found.answers)


def test_cases_are_asked_until_enough_are_usable(monkeypatch):
    model = tiny("llama")
    cases = parse_cases(planted(model, 6))
    monkeypatch.setattr(module, "CASES_AT_ONCE", 5)
    whole, _ = usable_cases(cases, prior_knowledge(model, cases, PLAIN))
    steps: list[tuple[int, int]] = []
    found, n = knowledge_of_enough(
        model, cases, PLAIN, lambda usable: len(usable) >= 7, lambda *at: steps.append(at)
    )
    assert n == 10 and steps == [(0, 12), (5, 12), (10, 12)]
    assert usable_cases(cases[:n], found)[0][:7] == whole[:7]
    later = {hop.question for hop in cases[11].hops} - {
        hop.question for case in cases[:10] for hop in (*case.hops, *case.new_hops)
    }
    assert later and not later & set(found.answers)
    _, n = knowledge_of_enough(model, cases, PLAIN, lambda usable: False)
    assert n == 12


def test_a_model_is_asked_in_batches_and_says_what_it_would_alone(monkeypatch):
    model = tiny("llama")
    cases = parse_cases(planted(model, 3))
    whole = prior_knowledge(model, cases, PLAIN)
    assert [whole.missing(case) for case in cases] == [""] * 6
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "AT_ONCE", 4)
    parts = prior_knowledge(model, cases, PLAIN, lambda done, n: steps.append((done, n)))
    assert parts == whole
    assert steps[:2] == [(0, steps[0][1]), (4, steps[0][1])] and steps[-1][0] == steps[-1][1]
    # goes on from answers of an earlier call, and asks nothing that is there
    steps.clear()
    assert (
        prior_knowledge(model, cases, PLAIN, lambda done, n: steps.append((done, n)), whole.answers)
        == whole
    )
    assert steps == []
