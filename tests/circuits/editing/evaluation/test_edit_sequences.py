"""Edits one on top of the other: which cases can be, and that all are asked after the last."""

from dataclasses import replace

import pytest
from edit_records import parse_cases
from planted_cases import PLAIN, planted, sharp
from test_control_questions import CASES, POOL

from circuits.editing.change import Change
from circuits.editing.editor import moments_for
from circuits.editing.evaluation import (
    Ask,
    ComparisonSettings,
    compare_methods,
    conditions,
    generations,
)
from circuits.editing.evaluation.answers import normalised
from circuits.editing.evaluation.case_selection import CONTAMINATED
from circuits.editing.evaluation.cases import side_by_side
from circuits.editing.evaluation.conditions import EditCondition, Protocol, evaluate_condition
from circuits.editing.evaluation.control_questions import QuestionPool, pools_apart
from circuits.editing.evaluation.prior_knowledge import prior_knowledge
from circuits.editing.fact_prompts import BARE
from circuits.editing.gradient_step import FeatureStatistics
from circuits.editing.methods import GradientStep, Method
from circuits.editing.presets import preset
from circuits.editing.writing import Request, write

pytestmark = pytest.mark.usefixtures("cache")
N_TOKENS = 600


@pytest.fixture(scope="module")
def world():
    """A model, cases that it knows, and what asking about them and editing them takes."""
    model = sharp()
    cases = parse_cases(planted(model, 6))
    pool = QuestionPool.of(cases, prior_knowledge(model, cases, PLAIN).right)
    rome = preset("rome", model)
    return model, cases, pool, rome, moments_for(model, [rome], None, N_TOKENS)


# --- which cases -------------------------------------------------------------------------------


def test_no_edit_of_a_sequence_touches_another_case():
    kept = side_by_side(CASES)
    assert 2 <= len(kept) < len(CASES) and kept[0] is CASES[0]
    for i, case in enumerate(kept):
        edited = {normalised(name) for s in case.edited_subjects for name in s.names}
        for other in kept[:i] + kept[i + 1 :]:
            through = set(map(normalised, (*other.subjects, *other.new_subjects)))
            assert edited.isdisjoint(through)


def test_two_edits_of_one_subject_do_not_stand_side_by_side():
    first = CASES[0]
    again = replace(first, id="again")
    assert side_by_side([first, again]) == [first]


def test_controls_have_nothing_to_do_with_the_others_edits():
    kept = side_by_side(CASES)
    pools = pools_apart(POOL, kept)
    for i, pool in enumerate(pools):
        questions = {q for part in (pool.facts, pool.chains) for qs in part.values() for q in qs}
        assert questions
        for j, other in enumerate(kept):
            names = {normalised(name) for s in other.edited_subjects for name in s.names}
            touched = [q for q in questions if not names.isdisjoint(q.entities)]
            assert not touched or i == j
    mine = pools_apart(POOL, kept[:1])[0]
    assert mine.facts == dict(POOL.facts) and mine.chains == dict(POOL.chains)


def test_no_edit_of_a_sequence_preserves_what_another_case_is_scored_by():
    kept = side_by_side(CASES)

    def shared(sequential: bool) -> tuple[int, int]:
        protocol = Protocol(PLAIN, POOL, sequential=sequential)
        questions, preserved = conditions._questions(kept, protocol)
        scored = {question.text for _, question in questions if not question.cloze}
        texts = [one.text for own in preserved for one in own]
        return sum(text in scored for text in texts), len(texts)

    both, n = shared(sequential=True)
    assert both == 0 < n
    assert shared(sequential=False)[0] > 0  # each alone in its own model, where it may


# --- what is asked -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rome", "step"])
def test_every_question_is_asked_after_the_last_edit(name: str, world):
    model, cases, pool, rome, moments = world
    method = rome if name == "rome" else Method("step", (GradientStep((1, 2), lr=0.2),))
    kept, protocol = side_by_side(cases)[:3], Protocol(PLAIN, pool, sequential=True)
    condition = EditCondition(name, method)
    answers, lines = evaluate_condition(model, condition, kept, protocol, moments)
    before: tuple[Change, ...] = ()
    seen: tuple[FeatureStatistics, ...] = ()
    for case in kept:  # the same by hand
        (one,) = write(model, [Request(case.facts, (), seen)], method, moments, BARE, [before])
        assert one.changes[: len(before)] == before
        before, seen = one.changes, seen + one.statistics
    asked = [Ask(0, case.facts[0].cloze) for case in kept]
    said = generations(model, asked, [before])
    cloze = answers[answers["kind"] == "efficacy"].set_index("case")["generated"]
    assert [cloze[case.id] for case in kept] == [text.split("\n")[0].strip() for text in said]
    assert len(lines) == len(kept) and (lines["peak_gb"] >= 0).all()
    alone, _ = evaluate_condition(model, condition, kept, Protocol(PLAIN, pool), moments)
    assert not alone[alone["kind"] == "efficacy"]["generated"].equals(
        answers[answers["kind"] == "efficacy"]["generated"]
    )


def test_one_edit_in_sequence_is_one_edit(world):
    model, cases, pool, rome, moments = world
    pair = [
        evaluate_condition(
            model, EditCondition("rome", rome, strength=0.5), cases[:1], protocol, moments
        )[0]
        for protocol in (Protocol(PLAIN, pool), Protocol(PLAIN, pool, sequential=True))
    ]
    assert pair[0].equals(pair[1])


def test_cases_left_out_of_a_sequence_are_counted_and_damage_is_measured(world, tmp_path):
    model, cases, *_ = world
    text = " ".join(f"w{i % 60}" for i in range(400))
    neutral = tmp_path / "neutral.txt"
    neutral.write_text(text)
    settings = ComparisonSettings(
        methods=("rome", "none"),
        shots=PLAIN,
        n_tokens=N_TOKENS,
        sequential=True,
        limit=3,
        neutral=str(neutral),
    )
    found = compare_methods(model, cases, settings)
    kept = side_by_side(cases)
    # the two cases of a chain: one edits a hop that the other goes through
    mixed = {CONTAMINATED: len(cases) - len(kept)}
    assert found.excluded == mixed | {"beyond the limit": len(kept) - 3}
    assert found.options["sequential"] is True
    table = found.table().set_index(["condition", "metric"])["value"]
    assert abs(table["none", "kl"]) < 1e-6
    assert table["none", "perplexity_ratio"] == pytest.approx(1)
    assert table["rome", "kl"] > 1e-4 and abs(table["rome", "perplexity_ratio"] - 1) > 1e-4
    assert table["rome", "fluency"] > 0
    line = found.summary()["methods"]["rome"]
    assert line["kl"] == table["rome", "kl"] and len(line["kl_ci"]) == 2
    assert line["peak_gb"] >= 0
    damage = found.against("rome", "none").set_index("metric")["value"]
    assert damage["kl"] == pytest.approx(table["rome", "kl"], abs=1e-6)


def test_without_neutral_text_there_is_no_drift(world):
    model, cases, *_ = world
    found = compare_methods(model, cases[:4], ComparisonSettings(methods=("none",), shots=PLAIN))
    assert "kl" not in set(found.table()["metric"]) and "fluency" in set(found.table()["metric"])
