"""Methods side by side on planted cases: isolation, tables, folders, and the arm that is told."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny, tiny_hf, word_tokenizer
from planted_cases import PLAIN, planted

import interp
from circuits.editing import LayerSelection, knowing
from circuits.editing import evaluating as module
from circuits.editing.comparing import (
    REFERENCES,
    UNASKED,
    Comparison,
    compare_into,
    compare_methods,
)
from circuits.editing.evaluating import Arm, Protocol, evaluate_arm
from circuits.editing.evaluation import IKE, SHOTS, Asked, Pool, parse_cases
from circuits.editing.fact import Fact
from circuits.editing.knowing import know
from circuits.editing.methods import PRESERVED_WEIGHT
from circuits.editing.moments import second_moments
from circuits.editing.presets import preset
from interp.errors import DataError, PlanError, RunFolderError

pytestmark = pytest.mark.usefixtures("cache")
ARMS = ("rome", "none", "told")
N_TOKENS = 600


def sharp() -> interp.Model:
    hf = tiny_hf("llama")
    with torch.no_grad():
        hf.get_output_embeddings().weight.mul_(10)
    return interp.load_model(hf, tokenizer=word_tokenizer())


@pytest.fixture(scope="module")
def world():
    """A sharp tiny model and twelve cases that it knows."""
    model = sharp()
    return model, parse_cases(planted(model, 6))


@pytest.fixture(scope="module")
def result(world) -> Comparison:
    model, cases = world
    return compare_methods(model, cases, ARMS, seeds=(0, 1), shots=PLAIN, n_tokens=N_TOKENS)


def test_a_limit_stops_the_asking_and_keeps_the_first_cases(result: Comparison, world, monkeypatch):
    model, cases = world
    monkeypatch.setattr(knowing, "CASES_AT_ONCE", 4)
    said: list[tuple[str, int, int]] = []
    few = compare_methods(
        model, cases, ["none"], limit=3, shots=PLAIN, progress=lambda *at: said.append(at)
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


def test_all_planted_cases_are_used_by_every_arm_and_seed(result: Comparison, world):
    _, cases = world
    assert (result.n_cases, result.excluded, result.arms) == (12, {}, list(ARMS))
    counts = result.edits.groupby(["arm", "seed"]).size()
    assert set(counts) == {len(cases)} and len(counts) == 6
    asked = result.answers.groupby(["arm", "seed"]).size().unstack()
    assert (asked.nunique() == 1).all()  # every arm is asked the same


def test_the_unedited_model_answers_as_it_did(result: Comparison):
    none = result.answers[result.answers["arm"] == "none"]
    probes = none[
        none["kind"].isin(["same_relation", "same_answer", "neighbour", "control_two_hop"])
    ]
    assert len(probes) and probes["lenient"].all()
    table = result.table().set_index(["arm", "metric"])
    assert table.loc[("none", "specificity"), "value"] == 1
    rome = table.loc[("rome", "efficacy"), "value"]
    assert rome > table.loc[("none", "efficacy"), "value"]


def test_answers_match_strictly_or_leniently(result: Comparison):
    right = result.answers[result.answers["kind"] == "multi_hop"]
    assert (right["strict"] <= right["lenient"]).all()
    strict = result.table(match="strict").set_index(["arm", "metric"])["value"]
    by_case = right.groupby(["arm", "seed", "case"])["strict"].any().groupby("arm").mean()
    for arm in ARMS:
        assert strict[arm, "multi_hop"] == pytest.approx(by_case[arm])
        assert result.summary()["methods"][arm]["multi_hop_strict"] == strict[arm, "multi_hop"]
    same = result.against("rome", "none", match="strict").set_index("metric")["value"]
    want = strict["rome", "multi_hop"] - strict["none", "multi_hop"]
    assert same["multi_hop"] == pytest.approx(want)


def test_weights_are_untouched_by_a_comparison(world):
    model, cases = world
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    compare_methods(model, cases[:4], ["rome"], shots=PLAIN, n_tokens=N_TOKENS)
    assert all(torch.equal(value, before[n]) for n, value in model.hf.state_dict().items())


def test_a_case_alone_gets_the_answers_it_gets_beside_others(world):
    model, cases = world
    known = know(model, cases, PLAIN)
    protocol = Protocol(PLAIN, Pool.of(cases, known.right))
    for name in ("rome", "memit+"):
        arm = Arm(name, preset(name, model))
        moments = second_moments(model, arm.method.places, n_tokens=N_TOKENS)
        together, lines = evaluate_arm(model, arm, cases, protocol, moments)
        for i in (0, 5, 11):
            alone, line = evaluate_arm(model, arm, cases[i : i + 1], protocol, moments)
            mine = together[together["case"] == cases[i].id].reset_index(drop=True)
            assert mine.equals(alone), name
            p, q = (json.loads(frame["p"].iloc[0]) for frame in (line, lines.iloc[i : i + 1]))
            np.testing.assert_allclose(p, q, atol=1e-3)


def test_strength_is_how_much_of_every_change_is_made(world):
    model, cases = world
    protocol = Protocol(PLAIN, Pool.of(cases, know(model, cases, PLAIN).right))
    rome = preset("rome", model)
    moments = second_moments(model, rome.places, n_tokens=N_TOKENS)
    some = cases[:4]
    said = {
        strength: evaluate_arm(model, Arm("", rome, strength=strength), some, protocol, moments)[0]
        for strength in (0.0, 1.0)
    }
    plain, _ = evaluate_arm(model, Arm("", None), some, protocol, {})
    assert said[0.0].equals(plain)
    new = {strength: rows[rows["kind"] == "efficacy"]["lenient"] for strength, rows in said.items()}
    assert new[1.0].mean() > new[0.0].mean()


def test_an_arm_that_is_told_reads_the_new_facts_before_the_question(world):
    _, cases = world
    case = cases[1]
    question = Asked("multi_hop", 0, "w1 w2?", case.new_answer, case.answer)
    (fact,) = case.facts
    told = module._ask(3, question, case, SHOTS, told="")
    line = f"{fact.cloze} {case.targets[0].text}.\n"
    assert told.edit == 3
    assert told.text == f"{SHOTS.prefix}{line}Q: w1 w2?\nA:"
    assert told.text.startswith(told.prefix) and told.prefix.endswith(line)
    plain = module._ask(3, question, case, SHOTS, told=None)
    assert plain.text == SHOTS.ask("w1 w2?") and plain.prefix == SHOTS.prefix
    cloze = replace(question, text=fact.cloze, cloze=True)
    assert module._ask(0, cloze, case, SHOTS, told="").text == line + fact.cloze
    assert module._ask(0, cloze, case, SHOTS, told=None).text == fact.cloze


def test_ike_shows_how_facts_are_used_and_then_tells_them(world):
    _, cases = world
    case = cases[1]
    (fact,) = case.facts
    line = f"{fact.cloze} {case.targets[0].text}.\n"
    question = Asked("multi_hop", 0, "w1 w2?", case.new_answer, case.answer)
    asked = module._ask(0, question, case, SHOTS, REFERENCES["ike"])
    assert asked.text == f"{IKE}{SHOTS.prefix}{line}Q: w1 w2?\nA:"
    assert asked.prefix == f"{IKE}{SHOTS.prefix}{line}"
    assert (asked.stop, asked.n_tokens) == (SHOTS.stop, SHOTS.n_tokens)
    cloze = replace(question, text=fact.cloze, cloze=True)
    assert module._ask(0, cloze, case, SHOTS, IKE).text == f"{IKE}{line}{fact.cloze}"


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
    table = result.table().set_index(["arm", "metric"])
    for arm in ARMS:
        line = said["methods"][arm]
        assert line["multi_hop"] == pytest.approx(table.loc[(arm, "multi_hop"), "value"])
        low, high = line["multi_hop_ci"]
        assert low <= line["multi_hop"] <= high
        broken = 1 - line["control_two_hop"]
        controls = result.scores().query("arm == @arm")["control_two_hop"]
        if controls.notna().all():
            assert line["net_multi_hop"] == pytest.approx(line["multi_hop"] - broken)
        assert line["seconds_per_edit"] >= 0
    assert said["methods"]["none"]["p_reached_min"] is None
    assert 0 <= said["methods"]["rome"]["p_reached_min"] <= 1


def test_arms_are_compared_case_by_case(result: Comparison):
    table = result.against("rome", "none").set_index("metric")
    scores = result.scores()
    means = scores.groupby(["arm", "case"])["efficacy"].mean().unstack(0)
    want = (means["rome"] - means["none"]).mean()
    assert table.loc["efficacy", "value"] == pytest.approx(want)
    assert table.loc["efficacy", "low"] <= want <= table.loc["efficacy", "high"]
    with pytest.raises(PlanError, match="no scores of arm 'ace'"):
        result.against("ace", "none")
    by = result.table(["position"])
    assert set(by["position"]) == {"first", "last"}
    assert set(by[by["metric"] == "efficacy"]["cases"]) == {6}


def test_a_comparison_is_drawn_and_has_a_page_of_its_own(result: Comparison):
    from circuits.editing.figures import comparison_report

    figure = result.plot()
    names = [trace.name for trace in figure.data]
    assert names == ["net 0", *ARMS]
    table = result.table().set_index(["arm", "metric"])
    for trace in figure.data[1:]:
        assert trace.y[0] == pytest.approx(table.loc[(trace.name, "multi_hop"), "value"])
        assert trace.x[0] == pytest.approx(table.loc[(trace.name, "control_two_hop"), "value"])
    text = comparison_report(result).html()
    assert "12 of 12 cases" in text and all(arm in text for arm in ARMS)
    assert "By the position of the edited hop" in text
    fluency = table.loc[("rome", "fluency"), "value"]
    assert f"{fluency:.3f} [" in text and "each edited on its own" in text
    piled = replace(result, options=result.options | {"sequential": True})
    assert "one on top of the other" in comparison_report(piled).lead


def test_the_page_shows_why_layers_were_chosen(result: Comparison):
    from circuits.editing.figures import comparison_report
    from circuits.editing.layer_selection import plot_separation

    at = LayerSelection((0,), (2,), "by hand", separation={1: 0.6, 2: 0.75})
    chosen, others = plot_separation(at.separation, at.value, "m").data
    assert (list(chosen.x), list(chosen.y)) == ([2], [0.75])
    assert (list(others.x), list(others.y)) == ([1], [0.6])
    assert "Why these layers" in comparison_report(replace(result, placement=at)).html()
    assert "Why these layers" not in comparison_report(result).html()


# --- folders -----------------------------------------------------------------------------------


def test_comparisons_are_saved_and_come_back(result: Comparison, tmp_path):
    at = LayerSelection(
        (0, 1), (2,), "by hand", threshold=0.4, until=0.6, separation={1: 0.6, 2: 0.75}
    )
    placed = replace(result, placement=at)
    placed.save(tmp_path / "run")
    back = Comparison.load(tmp_path / "run")
    assert back.answers.equals(result.answers) and back.edits.equals(result.edits)
    assert back.placement == placed.placement and back.summary() == placed.summary()
    (tmp_path / "run" / "answers.parquet").write_bytes(b"half")
    with pytest.raises(RunFolderError, match="answers.parquet is damaged"):
        Comparison.load(tmp_path / "run")


def test_a_stopped_comparison_goes_on(world, tmp_path, monkeypatch):
    model, cases = world
    work, calls = module._evaluated, []

    def counted(model, arm, *rest):
        calls.append(arm.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return work(model, arm, *rest)

    monkeypatch.setattr(module, "_evaluated", counted)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        compare_into(out, model, cases, ["none", "rome"], shots=PLAIN, n_tokens=N_TOKENS)
    assert not out.exists()
    found = compare_into(out, model, cases, ["none", "rome"], shots=PLAIN, n_tokens=N_TOKENS)
    assert calls == ["none", "rome", "rome"]
    whole = compare_methods(model, cases, ["none", "rome"], shots=PLAIN, n_tokens=N_TOKENS)
    assert found.answers.equals(whole.answers)
    again = compare_into(out, model, cases, ["none", "rome"], shots=PLAIN, n_tokens=N_TOKENS)
    assert len(calls) == 5 and again.answers.equals(found.answers)
    with pytest.raises(RunFolderError, match="choose another"):
        compare_into(out, model, cases, ["none"], shots=PLAIN, n_tokens=N_TOKENS)


def test_steps_of_other_cases_are_refused(world, tmp_path, monkeypatch):
    model, cases = world
    work, out = module._evaluated, tmp_path / "run"

    def stopped(model, arm, *rest):
        if arm.name == "none":
            raise KeyboardInterrupt
        return work(model, arm, *rest)

    monkeypatch.setattr(module, "_evaluated", stopped)
    options = {"shots": PLAIN, "n_tokens": N_TOKENS}
    with pytest.raises(KeyboardInterrupt) as interrupted:
        compare_into(out, model, cases, ["told", "none"], **options)
    assert interrupted.value.__notes__ == [
        f"12 of 24 edits are kept in {out}.partial; run the same command again to go on."
    ]
    with pytest.raises(RunFolderError, match=r"cases=12 \(this one: 3\) and other rows"):
        compare_into(out, model, cases[:3], ["told", "none"], **options)
    assert [at.name for at in tmp_path.iterdir()] == ["run.partial"]


def test_what_cannot_be_compared_is_refused(world, tmp_path):
    model, cases = world
    with pytest.raises(DataError, match="unknown method 'romme'. Did you mean 'rome'"):
        compare_methods(model, cases, ["romme"])
    with pytest.raises(DataError, match="the package has no layers; choose those of"):
        compare_methods(model, cases, ["ace"])
    with pytest.raises(DataError, match="knows none of the 12 chains"):
        compare_into(tmp_path / "run", tiny("gpt2"), cases, ["none"], shots=PLAIN)
    assert not list(tmp_path.iterdir())


def test_a_limit_is_counted_as_an_exclusion(world):
    model, cases = world
    found = compare_methods(model, cases, ["none"], shots=PLAIN, limit=5)
    assert found.excluded == {"beyond the limit": 7}
    assert found.summary()["n_filtered"] == 5 and found.n_cases == 12


def test_conflicting_facts_are_refused_before_anything_is_computed():
    model = tiny("llama")
    facts = [Fact("w1 {}", "w2", "w3"), Fact("w1 {}", "w2", "w4")]
    from circuits.editing import edit

    with pytest.raises(DataError, match="is to become both 'w3' and 'w4'"):
        edit(model, facts, "rome", n_tokens=0)
