"""Methods side by side on planted cases: isolation, tables, folders, and the edit in the prompt."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny
from edit_records import parse_cases
from planted_cases import PLAIN, planted, sharp

from circuits.editing import LayerSelection
from circuits.editing.editor import moments_for
from circuits.editing.evaluation import (
    Comparison,
    ComparisonSettings,
    compare_methods,
    implicit_names,
)
from circuits.editing.evaluation import conditions as module
from circuits.editing.evaluation import prior_knowledge as knowing
from circuits.editing.evaluation.case_selection import UNASKED
from circuits.editing.evaluation.conditions import EditCondition, Protocol, evaluate_condition
from circuits.editing.evaluation.control_questions import QuestionPool
from circuits.editing.evaluation.demonstrations import IKE, SHOTS
from circuits.editing.evaluation.fact_questions import (
    FACT_METRICS,
    EditedFact,
    ask_facts,
    fact_scores,
)
from circuits.editing.evaluation.multihop_metrics import CaseQuestion
from circuits.editing.evaluation.prior_knowledge import prior_knowledge
from circuits.editing.layer_selection import plot_separation
from circuits.editing.methods import PRESERVED_WEIGHT
from circuits.editing.presets import preset
from interp.errors import DataError, RunFolderError

pytestmark = pytest.mark.usefixtures("cache")
CONDITIONS = ("rome", "none", "prompt-only")
N_TOKENS = 600


def settings(*methods: str, **options) -> ComparisonSettings:
    return ComparisonSettings(methods=methods, shots=PLAIN, n_tokens=N_TOKENS, **options)


@pytest.fixture(scope="module")
def world():
    """A sharp tiny model and twelve cases that it knows."""
    model = sharp()
    return model, parse_cases(planted(model, 6))


@pytest.fixture(scope="module")
def result(world) -> Comparison:
    model, cases = world
    return compare_methods(model, cases, settings(*CONDITIONS, seeds=(0, 1)))


def test_a_limit_stops_the_asking_and_keeps_the_first_cases(result: Comparison, world, monkeypatch):
    model, cases = world
    monkeypatch.setattr(knowing, "CASES_AT_ONCE", 4)
    said: list[tuple[str, int, int]] = []
    few = compare_methods(
        model, cases, settings("none", limit=3), progress=lambda *at: said.append(at)
    )
    first = list(dict.fromkeys(result.edits["case"]))[:3]
    assert list(few.edits["case"]) == first
    assert few.excluded == {UNASKED: 8, "beyond the limit": 1}
    summary = few.summary()
    assert (summary["n_cases"], summary["n_asked"], summary["n_filtered"]) == (12, 4, 3)
    assert said[0] == ("asking before the edit", 0, 12)
    assert ("asking before the edit", 4, 12) in said
    assert ("asking before the edit", 8, 12) not in said


# --- what is measured --------------------------------------------------------------------------


def test_all_planted_cases_are_used_by_every_condition_and_seed(result: Comparison, world):
    _, cases = world
    assert (result.n_cases, result.excluded, result.conditions) == (12, {}, list(CONDITIONS))
    counts = result.edits.groupby(["condition", "seed"]).size()
    assert set(counts) == {len(cases)} and len(counts) == 6
    asked = result.answers.groupby(["condition", "seed"]).size().unstack()
    assert (asked.nunique() == 1).all()  # every condition is asked the same


def test_the_unedited_model_answers_as_it_did(result: Comparison):
    none = result.answers[result.answers["condition"] == "none"]
    probes = none[
        none["kind"].isin(["same_relation", "same_answer", "neighbour", "control_two_hop"])
    ]
    assert len(probes) and probes["lenient"].all()
    table = result.table().set_index(["condition", "metric"])
    assert table.loc[("none", "specificity"), "value"] == 1
    rome = table.loc[("rome", "efficacy"), "value"]
    assert rome > table.loc[("none", "efficacy"), "value"]


def test_answers_match_strictly_or_leniently(result: Comparison):
    right = result.answers[result.answers["kind"] == "multi_hop"]
    assert (right["strict"] <= right["lenient"]).all()
    strict = result.table(match="strict").set_index(["condition", "metric"])["value"]
    by_case = (
        right.groupby(["condition", "seed", "case"])["strict"].any().groupby("condition").mean()
    )
    for name in CONDITIONS:
        assert strict[name, "multi_hop"] == pytest.approx(by_case[name])
        assert result.summary()["methods"][name]["multi_hop_strict"] == strict[name, "multi_hop"]
    same = result.against("rome", "none", match="strict").set_index("metric")["value"]
    want = strict["rome", "multi_hop"] - strict["none", "multi_hop"]
    assert same["multi_hop"] == pytest.approx(want)


def test_facts_are_also_denied_checked_and_turned_round(result: Comparison, world):
    """The columns are those of asking the same facts directly, under no edit and in the prompt."""
    model, cases = world
    facts = [
        EditedFact(case.facts[0], case.targets[0], case.originals[0], case.edited_subjects[0])
        for case in cases
    ]
    none, stated = (
        result.edits.query(f"condition == '{name}' and seed == 0").set_index("case")
        for name in ("none", "prompt-only")
    )
    before = [f"{case.facts[0].cloze} {case.targets[0].text}.\n" for case in cases]
    for lines, text in ((none, [""] * len(cases)), (stated, before)):
        rows, missing = ask_facts(model, facts, [()], [0] * len(cases), text)
        found = fact_scores(rows.assign(case=[cases[i].id for i in rows["fact"]]), ["case"])
        got = lines.loc[found.index, list(FACT_METRICS)].astype(float)
        pd.testing.assert_frame_equal(got, found.astype(float), check_names=False, atol=1e-4)
    counts = sum(missing, Counter())
    assert result.summary()["unformed"] == dict(counts) and counts
    table = result.table().set_index(["condition", "metric"])
    # a model that gives its old object has none of the new; an edited one prefers the new
    assert table.loc[("rome", "affirmation"), "value"] > table.loc[("none", "affirmation"), "value"]
    assert "leakage_multi_hop" in result.summary()["methods"]["rome"]
    assert table.loc[("none", "leakage_multi_hop"), "value"] == 1


def test_facts_are_not_asked_where_that_is_not_wanted(world):
    model, cases = world
    found = compare_methods(model, cases[:4], settings("none", fact_questions=False))
    assert not set(FACT_METRICS) & set(found.scores().columns)
    assert found.summary()["unformed"] == {} and "agree" not in found.report().fragment()


def test_weights_are_untouched_by_a_comparison(world):
    model, cases = world
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    compare_methods(model, cases[:4], settings("rome"))
    assert all(torch.equal(value, before[n]) for n, value in model.hf.state_dict().items())


def test_implicit_names_are_as_given_withheld_or_found(world, tmp_path, monkeypatch):
    model, cases = world
    layers = LayerSelection((0,), (2,))
    left_out: dict[str, list[int]] = {}
    for names in ("given", "none"):
        got = compare_methods(model, cases[:4], settings("ace", implicit=names), layers)
        left_out[names] = [len(json.loads(one)) for one in got.edits["skipped"]]
        assert not len(got.implicit) and got.summary()["implicit"] == {}
    assert left_out["none"] == [1, 1, 1, 1]  # the stage that learns from them
    assert left_out["given"] == [int(not case.facts[0].implicit) for case in cases[:4]]
    found = settings("none", implicit="found")
    first = compare_methods(model, cases[:4], found, out=tmp_path / "run")
    counts = first.summary()["implicit"]
    assert sum(counts.values()) == len(first.implicit) > 0
    assert set(first.implicit["fact"]) <= set(range(4))
    monkeypatch.setattr(implicit_names, "implicit_subjects", None)  # read back, not asked again
    again = compare_methods(model, cases[:4], found, out=tmp_path / "run")
    assert again.implicit.equals(first.implicit)


def test_a_case_alone_gets_the_answers_it_gets_beside_others(world):
    model, cases = world
    known = prior_knowledge(model, cases, PLAIN)
    protocol = Protocol(PLAIN, QuestionPool.of(cases, known.right))
    condition = EditCondition("memit+", preset("memit+", model))
    moments = moments_for(model, [condition.method], None, N_TOKENS)
    together, lines = evaluate_condition(model, condition, cases, protocol, moments)
    for i in (0, 11):
        alone, line = evaluate_condition(model, condition, cases[i : i + 1], protocol, moments)
        assert together[together["case"] == cases[i].id].reset_index(drop=True).equals(alone)
        p, q = (json.loads(frame["p"].iloc[0]) for frame in (line, lines.iloc[i : i + 1]))
        np.testing.assert_allclose(p, q, atol=1e-3)


def test_strength_is_how_much_of_every_change_is_made(world):
    model, cases = world
    protocol = Protocol(PLAIN, QuestionPool.of(cases, prior_knowledge(model, cases, PLAIN).right))
    rome = preset("rome", model)
    moments = moments_for(model, [rome], None, N_TOKENS)
    some = cases[:4]
    said = {
        strength: evaluate_condition(
            model, EditCondition("", rome, strength=strength), some, protocol, moments
        )[0]
        for strength in (0.0, 1.0)
    }
    plain, _ = evaluate_condition(model, EditCondition("", None), some, protocol, {})
    assert said[0.0].equals(plain)
    new = {strength: rows[rows["kind"] == "efficacy"]["lenient"] for strength, rows in said.items()}
    assert new[1.0].mean() > new[0.0].mean()


@pytest.mark.parametrize(("method", "shown"), [("none", None), ("prompt-only", ""), ("ike", IKE)])
def test_facts_are_stated_in_the_prompt_behind_how_they_are_used(world, method: str, shown):
    case = world[1][1]
    question = CaseQuestion("multi_hop", 0, "w1 w2?", case.new_answer, case.answer)
    (fact,) = case.facts
    condition = EditCondition(method, in_prompt=shown)
    line = "" if shown is None else f"{fact.cloze} {case.targets[0].text}.\n"
    asked = module._ask(3, question, case, SHOTS, condition)
    assert asked.text == f"{shown or ''}{SHOTS.prefix}{line}Q: w1 w2?\nA:"
    assert asked.prefix == f"{shown or ''}{SHOTS.prefix}{line}"
    assert (asked.edit, asked.stop, asked.n_tokens) == (3, SHOTS.stop, SHOTS.n_tokens)
    cloze = replace(question, text=fact.cloze, cloze=True)
    assert module._ask(0, cloze, case, SHOTS, condition).text == f"{shown or ''}{line}{fact.cloze}"


def test_equal_information_adds_prompts_and_preserved_questions():
    model = tiny("llama")
    plain, informed = (preset(name, model) for name in ("memit", "memit+"))
    (a,), (b,) = plain.stages, informed.stages
    assert informed.name == "memit+" and b.layers == a.layers and b.search == a.search
    assert (a.forms, a.preserved_weight) == (("cloze",), 0)
    assert (b.forms, b.preserved_weight) == (("cloze", "two_hop"), PRESERVED_WEIGHT)


# --- figures -----------------------------------------------------------------------------------


def test_summaries_hold_what_the_command_line_prints(result: Comparison):
    said = result.summary()
    assert (said["n_cases"], said["n_filtered"]) == (12, 12)
    table = result.table().set_index(["condition", "metric"])
    for name in CONDITIONS:
        line = said["methods"][name]
        assert line["multi_hop"] == pytest.approx(table.loc[(name, "multi_hop"), "value"])
        low, high = line["multi_hop_ci"]
        assert low <= line["multi_hop"] <= high
        broken = 1 - line["control_two_hop"]
        controls = result.scores().query("condition == @name")["control_two_hop"]
        if controls.notna().all():
            assert line["net_multi_hop"] == pytest.approx(line["multi_hop"] - broken)
        assert line["seconds_per_edit"] >= 0
    assert said["methods"]["none"]["p_reached_min"] is None
    assert 0 <= said["methods"]["rome"]["p_reached_min"] <= 1


def test_a_comparison_is_drawn_and_has_a_page_of_its_own(result: Comparison):
    figure = result.plot()
    names = [trace.name for trace in figure.data]
    assert names == ["net 0", *CONDITIONS]
    table = result.table().set_index(["condition", "metric"])
    for trace in figure.data[1:]:
        assert trace.y[0] == pytest.approx(table.loc[(trace.name, "multi_hop"), "value"])
        assert trace.x[0] == pytest.approx(table.loc[(trace.name, "control_two_hop"), "value"])
    text = result.report().html()
    assert "12 of 12 cases" in text and all(name in text for name in CONDITIONS)
    assert "By the position of the edited hop" in text
    fluency = table.loc[("rome", "fluency"), "value"]
    assert f"{fluency:.3f} [" in text and "each edited on its own" in text
    piled = replace(result, options=result.options | {"sequential": True})
    assert "one on top of the other" in piled.report().lead


def test_the_page_shows_why_layers_were_chosen(result: Comparison):
    at = LayerSelection((0,), (2,), "by hand", separation={1: 0.6, 2: 0.75})
    chosen, others = plot_separation(at.separation, at.value, "m").data
    assert (list(chosen.x), list(chosen.y)) == ([2], [0.75])
    assert (list(others.x), list(others.y)) == ([1], [0.6])
    assert "Why these layers" in replace(result, layers=at).report().html()
    assert "Why these layers" not in result.report().html()


# --- folders -----------------------------------------------------------------------------------


def test_comparisons_are_saved_and_come_back(result: Comparison, tmp_path):
    separation = {1: 0.6, 2: 0.75}
    at = LayerSelection((0, 1), (2,), "by hand", threshold=0.4, until=0.6, separation=separation)
    placed = replace(result, layers=at)
    placed.save(tmp_path / "run")
    back = Comparison.load(tmp_path / "run")
    assert back.answers.equals(result.answers) and back.edits.equals(result.edits)
    assert back.layers == placed.layers and back.summary() == placed.summary()


def test_steps_of_other_cases_are_refused(world, tmp_path, monkeypatch):
    model, cases = world
    work, out = module._evaluated, tmp_path / "run"

    def stopped(model, condition, *rest):
        if condition.name == "none":
            raise KeyboardInterrupt
        return work(model, condition, *rest)

    monkeypatch.setattr(module, "_evaluated", stopped)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        compare_methods(model, cases, settings("prompt-only", "none"), out=out)
    assert interrupted.value.__notes__ == [
        f"12 of 24 edits are saved in {out}.partial; run the same command again to go on."
    ]
    with pytest.raises(RunFolderError, match=r"cases=12 \(this one: 3\) and other rows"):
        compare_methods(model, cases[:3], settings("prompt-only", "none"), out=out)
    assert [at.name for at in tmp_path.iterdir()] == ["run.partial"]


def test_what_cannot_be_compared_is_refused(world, tmp_path):
    model, cases = world
    with pytest.raises(DataError, match="unknown method 'romme'. Did you mean 'rome'"):
        compare_methods(model, cases, settings("romme"))
    with pytest.raises(DataError, match="the package has no layers; choose those of"):
        compare_methods(model, cases, settings("ace"))
    with pytest.raises(DataError, match="can use none of the 12 cases"):
        compare_methods(tiny("gpt2"), cases, settings("none"), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())
