"""Metrics on hand-made answers: oracles, tables by hand, intervals against plain bootstraps."""

import numpy as np
import pandas as pd
import pytest
from edit_records import parse_cases, records
from scipy import stats

from circuits.editing.evaluation.control_questions import QuestionPool, control_questions
from circuits.editing.evaluation.edited_models import ngram_entropy
from circuits.editing.evaluation.intervals import compare, summary
from circuits.editing.evaluation.multihop_metrics import KINDS, METRICS, case_questions, row, score
from interp.errors import PlanError
from interp.statistics import bootstrap_mean, mcnemar

CASES = parse_cases(records())
MATCHES = ("strict", "lenient", "exact", "exact_in_any_case")
CHANGED = {"efficacy", "paraphrase", "multi_hop"}


def table(cases, say) -> pd.DataFrame:
    """What a model that answers `say(question)` gives on everything that is asked."""
    known = {q for c in cases for q in (*c.questions, *(hop.question for hop in c.hops))}
    pool = QuestionPool.of(cases, known)
    rows = [
        row(case, question, say(question))
        for case in cases
        for question in case_questions(case, control_questions(case, pool))
    ]
    return pd.DataFrame(rows)


def by_hand(answers: dict[tuple[str, str, int], bool]) -> pd.DataFrame:
    """Rows of (case, kind, index) -> right."""
    rows = [
        {"case": case, "cluster": case[0], "kind": kind, "index": index}
        | dict.fromkeys(MATCHES, right)
        | {"path": np.nan, "old": not right}
        for (case, kind, index), right in answers.items()
    ]
    return pd.DataFrame(rows)


def all_are(value: float, scores: pd.DataFrame) -> bool:
    """Whether every score that there is has this value."""
    found = scores.to_numpy(float)
    return bool((found[~np.isnan(found)] == value).all())


# --- oracles -----------------------------------------------------------------------------------


def test_gold_answers_score_a_hundred():
    rows = table(CASES, lambda question: question.expected.text)
    scores = score(rows, "strict")
    assert len(scores) == len(CASES)
    assert all_are(1, scores[[name for name in METRICS if name != "leakage_multi_hop"]])
    assert all_are(0, scores[["leakage_multi_hop"]])
    assert scores["multi_hop"].notna().all()


def test_original_answers_score_the_overlap_rate():
    scores = score(table(CASES, lambda question: question.original.text))
    overlap = np.mean([case.answer.overlaps(case.new_answer) for case in CASES])
    assert 0 < overlap < 1  # some edits of this small world leave the answer as it was
    for metric in ("multi_hop", "multi_hop_per_question"):
        assert scores[metric].mean() == pytest.approx(overlap)
    assert scores["leakage_multi_hop"].mean() == pytest.approx(1 - overlap)
    held = {
        case.id: np.mean(
            [old.overlaps(new) for old, new in zip(case.originals, case.targets, strict=True)]
        )
        for case in CASES
    }
    assert dict(zip(scores["case"], scores["efficacy"], strict=True)) == held
    assert dict(zip(scores["case"], scores["paraphrase"], strict=True)) == held
    assert all_are(1, scores[["specificity", "control_two_hop"]])


def test_an_edit_that_answers_everything_by_its_object_gains_nothing_net():
    last = CASES.where(lambda case: case.position == "last")
    targets = {case.id: case.targets[0].text for case in last}
    known = {q for c in CASES for q in (*c.questions, *(hop.question for hop in c.hops))}
    pool = QuestionPool.of(CASES, known)
    rows = pd.DataFrame(
        row(case, question, targets[case.id])
        for case in last
        for question in case_questions(case, control_questions(case, pool))
    )
    scores = score(rows)
    assert scores["multi_hop"].eq(1).all() and scores["efficacy"].eq(1).all()
    assert scores["control_two_hop"].eq(0).all()
    assert scores["net_multi_hop"].eq(0).all() and scores["multi_hop_excess"].eq(0).all()


def test_what_follows_the_answer_to_a_cloze_is_not_compared_in_any_form():
    forms = (str, str.upper, '"{}"'.format)
    for form, right in zip(forms, ((1, 1, 1), (0, 1, 1), (0, 0, 1)), strict=True):
        rows = table(CASES, lambda q, form=form: f"{form(q.expected.text)}, of course.")
        rows = rows[rows["kind"].isin(["efficacy", "paraphrase"])].set_index("kind")
        for name, value in zip(("exact", "exact_in_any_case", "strict"), right, strict=True):
            assert (rows.loc["efficacy", name] == bool(value)).all()
            assert not rows.loc["paraphrase", name].any()  # whose answer ends
    wrong = table(CASES, lambda q: f"{q.expected.text}x")
    assert not wrong[["exact", "exact_in_any_case", "strict"]].any(axis=None)


# --- by hand -----------------------------------------------------------------------------------

HAND = {
    ("a1", "efficacy", 0): True,
    ("a1", "efficacy", 1): False,
    ("a1", "multi_hop", 0): False,
    ("a1", "multi_hop", 1): True,
    ("a1", "multi_hop", 2): False,
    ("a1", "hop", 0): True,
    ("a1", "hop", 1): False,
    ("a1", "same_relation", 0): True,
    ("a1", "same_relation", 1): True,
    ("a1", "same_relation", 2): True,
    ("a1", "same_answer", 0): False,
    ("a1", "control_two_hop", 0): True,
    ("a1", "control_two_hop", 1): False,
    ("a1", "control_two_hop", 2): True,
    ("a1", "control_two_hop", 3): True,
    ("b1", "efficacy", 0): True,
    ("b1", "multi_hop", 0): False,
    ("b1", "hop", 0): True,
    ("b1", "hop", 1): True,
}


def test_each_metric_by_hand():
    first, second = (line for _, line in score(by_hand(HAND)).iterrows())
    expected = {
        "efficacy": 1 / 2,
        "multi_hop": 1,
        "multi_hop_per_question": 1 / 3,
        "instance_wise": 0,
        "edit_wise": 1 / 2,
        "multi_hop_accuracy": 1,
        "hop_recall": 1 / 2,
        "same_relation": 1,
        "same_answer": 0,
        "specificity": 3 / 4,
        "control_two_hop": 3 / 4,
        "net_multi_hop": 3 / 4,
        "multi_hop_excess": 1 / 3 - 1 / 4,
    }
    for metric, value in expected.items():
        assert first[metric] == pytest.approx(value), metric
    assert np.isnan(first["paraphrase"]) and np.isnan(first["neighbour"])
    assert (second["efficacy"], second["multi_hop"], second["instance_wise"]) == (1, 0, 1)
    assert np.isnan(second[["specificity", "control_two_hop", "net_multi_hop"]].astype(float)).all()


def test_strict_and_lenient_are_scored_apart():
    rows = table(CASES[:3], lambda question: f"I think {question.expected.text}")
    assert score(rows, "strict")["multi_hop"].eq(0).all()
    assert score(rows, "lenient")["multi_hop"].eq(1).all()


def test_published_metrics_want_the_answer_letter_by_letter():
    (case,) = CASES[:1]
    questions = case_questions(case, {})
    rows = pd.DataFrame(
        row(case, question, question.expected.text + " and so on" * question.cloze)
        for question in questions
    )
    names = ["edit_wise", "instance_wise", "multi_hop_accuracy"]
    assert score(rows)[names].eq(1).all(axis=None)
    assert np.isnan(score(rows)["hop_wise"]).all()
    for said, metrics in (
        (lambda text: f"{text}.", {"multi_hop": 1, "multi_hop_accuracy": 0}),
        (str.lower, {"multi_hop": 1, "multi_hop_accuracy": 0}),
        (lambda text: f"not {text}", {"multi_hop": 1, "edit_wise": 0}),
        (lambda text: f"{text}ish", {"multi_hop": 0, "edit_wise": 0}),
    ):
        changed = pd.DataFrame(row(case, one, said(one.expected.text)) for one in questions)
        found = score(changed).iloc[0]
        assert {name: found[name] for name in metrics} == metrics
    low = pd.DataFrame(row(case, one, one.expected.text.lower()) for one in questions)
    assert score(low, format="mquake_remastered")["masked_accuracy"].eq(1).all()
    assert "masked_accuracy" not in score(low)


def test_hop_wise_wants_every_hop_in_the_thoughts_in_order():
    case = next(case for case in CASES if case.position == "last" and case.n_hops == 2)
    first, last = (hop.answer.text for hop in case.new_hops)
    for thought, right in (
        (f"It was written by {first}. {first} is a citizen of {last}.", 1),
        (f"{first}, of {last}.", 1),
        (f"It is {last}. It was written by {first}.", 0),
        (f"It is {last}.", 0),
        ("", 0),  # answered at once: no hop is named
    ):
        rows = pd.DataFrame(
            row(case, one, last, None if one.cloze else thought) for one in case_questions(case, {})
        )
        assert list(score(rows)["hop_wise"]) == [right]
    wrong = rows.assign(lenient=False, path=1.0)
    assert list(score(wrong)["hop_wise"]) == [0]


def test_seeds_are_scored_apart():
    rows = by_hand(HAND)
    both = pd.concat([rows.assign(seed=0), rows.assign(seed=1)])
    assert len(score(both)) == 4


# --- what is asked -----------------------------------------------------------------------------


def test_each_case_is_asked_what_its_metrics_need():
    for case in CASES:
        questions = case_questions(case, control_questions(case, QuestionPool.of(CASES, ())))
        assert {q.kind for q in questions} == CHANGED | {"hop"}
        kinds = [q.kind for q in questions]
        assert kinds.count("efficacy") == kinds.count("paraphrase") == case.n_edits
        assert kinds.count("hop") == case.n_hops and kinds.count("multi_hop") == 3
        hops = [q for q in questions if q.kind == "hop"]
        assert [q.cloze for q in hops] == [i in case.edited_hops for i in range(case.n_hops)]
        assert [q.expected for q in hops] == [hop.answer for hop in case.new_hops]
    assert set(KINDS) == CHANGED | {"hop"} | set(
        control_questions(CASES[0], QuestionPool.of(CASES, ()))
    )


# --- summaries ---------------------------------------------------------------------------------


def conditions() -> pd.DataFrame:
    """Scores of two arms and three seeds on 40 cases of 10 clusters, drawn at random."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "condition": condition,
            "seed": seed,
            "case": f"c{n:02}",
            "cluster": n // 4,
            "kind": kind,
            "index": i,
        }
        | {"position": ("first", "last")[n % 2], "n_hops": 2, "n_edits": 1}
        | dict.fromkeys(MATCHES, bool(rng.random() < share))
        | {"path": np.nan, "old": False}
        for condition, share in (("ace", 0.7), ("rome", 0.4))
        for seed in range(3)
        for n in range(40)
        for kind in ("efficacy", "multi_hop", "control_two_hop")
        for i in range(1 if kind == "efficacy" else 3)
    ]
    return score(pd.DataFrame(rows))


SCORES = conditions()


def test_a_summary_is_the_clustered_bootstrap_of_case_means():
    lines = summary(SCORES)
    means = SCORES.groupby(["condition", "case"])["net_multi_hop"].mean()
    clusters = SCORES.groupby(["condition", "case"])["cluster"].first()
    for condition in ("ace", "rome"):
        found = lines[
            (lines["condition"] == condition) & (lines["metric"] == "net_multi_hop")
        ].iloc[0]
        want = bootstrap_mean(means[condition].to_numpy(), clusters=list(clusters[condition]))
        assert list(found[["value", "low", "high"]]) == pytest.approx(list(map(float, want)))
        assert (found["cases"], found["clusters"]) == (40, 10)
    assert "paraphrase" not in set(lines["metric"])


def test_a_summary_by_position_splits_the_cases():
    lines = summary(SCORES, by=["position", "n_hops"])
    assert list(lines.columns[:3]) == ["condition", "position", "n_hops"]
    whole = summary(SCORES).set_index(["condition", "metric"])["value"]
    parts = lines.groupby(["condition", "metric"])["value"].mean()  # both positions have 20 cases
    for key, value in parts.items():
        assert value == pytest.approx(whole[key])
    assert set(lines["cases"]) == {20}
    with pytest.raises(PlanError, match="no column 'colour'"):
        summary(SCORES, by=["colour"])


def test_one_arm_without_a_name_needs_none():
    lines = summary(score(by_hand(HAND))).set_index("metric")
    assert lines.loc["multi_hop", "value"] == 0.5 and lines.loc["multi_hop", "cases"] == 2
    assert lines.loc["net_multi_hop", "cases"] == 1
    assert lines.loc["net_multi_hop", "high"] == np.inf  # one cluster bounds nothing


def test_a_comparison_is_paired():
    lines = compare(SCORES, "ace", "rome").set_index("metric")
    wide = SCORES.pivot_table("multi_hop", "case", "condition")
    difference = (wide["ace"] - wide["rome"]).to_numpy()
    clusters = list(SCORES.groupby("case")["cluster"].first())
    want = bootstrap_mean(difference, clusters=clusters)
    line = lines.loc["multi_hop"]
    assert list(line[["value", "low", "high"]]) == pytest.approx(list(map(float, want)))
    right = wide > 0.5
    b, c = (right["ace"] & ~right["rome"]).sum(), (~right["ace"] & right["rome"]).sum()
    assert (line["only_first"], line["only_other"]) == (b, c)
    assert line["p"] == pytest.approx(mcnemar(int(b), int(c)))
    assert np.isnan(lines.loc["net_multi_hop", "p"]) and np.isnan(lines.loc["control_two_hop", "p"])
    back = compare(SCORES, "rome", "ace").set_index("metric")
    assert back.loc["multi_hop", "value"] == pytest.approx(-line["value"])


def test_an_arm_against_itself_differs_by_nothing():
    twin = pd.concat([SCORES, SCORES[SCORES["condition"] == "ace"].assign(condition="twin")])
    lines = compare(twin, "ace", "twin", by=["position"])
    assert lines[["value", "low", "high"]].eq(0).all(axis=None)
    assert list(lines["position"].unique()) == ["first", "last"]
    assert lines.loc[lines["metric"] == "multi_hop", "p"].eq(1).all()


def test_arms_on_different_cases_are_not_compared():
    fewer = SCORES[~((SCORES["condition"] == "rome") & (SCORES["case"] == "c07"))]
    with pytest.raises(PlanError, match="different cases .1 only in one, such as 'c07'"):
        compare(fewer, "ace", "rome")
    with pytest.raises(PlanError, match="no scores of 'memit'; the table has 'ace', 'rome'"):
        compare(SCORES, "ace", "memit")


def test_the_interval_of_a_harmonic_mean_is_a_clustered_bootstrap():
    rng = np.random.default_rng(0)
    names = ["x", "y", "z"]
    scores = pd.DataFrame(rng.random((40, 3)), columns=names)
    scores = scores.assign(case=range(40), cluster=[n // 2 for n in range(40)])
    line = summary(scores, harmonic=("score", names)).set_index("metric").loc["score"]
    clusters = scores[names].to_numpy().reshape(20, 2, 3)
    draws = stats.hmean(clusters[rng.integers(20, size=(2000, 20))].mean((1, 2)), axis=1)
    assert (line["cases"], line["clusters"]) == (40, 20)
    assert [line["low"], line["high"]] == pytest.approx(
        np.quantile(draws, [0.025, 0.975]), abs=0.01
    )


def test_fluency_by_hand():
    assert ngram_entropy("a b c d e") == pytest.approx((2 / 3 * 2 + 4 / 3 * np.log2(3)) / 2)
    assert ngram_entropy("no no no no no no") == 0
    assert ngram_entropy("") == ngram_entropy("word") == 0
    assert ngram_entropy("a, b") == ngram_entropy("a , b")
    assert ngram_entropy("a b a b a b a b") < ngram_entropy("a b c d e f g h")


def test_rows_that_would_be_lost_or_counted_twice_are_refused():
    row = {"case": "a", "kind": "multi_hop", "index": 0, "path": np.nan, "old": False}
    row |= dict.fromkeys(MATCHES, True)
    assert score(pd.DataFrame([row]))["multi_hop"].tolist() == [1]
    with pytest.raises(PlanError, match="a question is there twice"):
        score(pd.DataFrame([row, row]))
    with pytest.raises(PlanError, match="no question is of kind 'other'"):
        score(pd.DataFrame([row | {"kind": "other"}]))


def test_every_yes_or_no_metric_has_a_p_value_and_no_share_has_one():
    scores = pd.DataFrame({"condition": ["a"] * 4 + ["b"] * 4, "case": [0, 1, 2, 3] * 2})
    scores = scores.assign(
        masked_accuracy=[1, 1, 1, 1, 0, 0, 0, 0],
        efficacy_score=[1, 1, 1, np.nan, 0, 0, 0, 0],
        multi_hop=[1, 1, 1, 0.75, 0, 0, 0, 0],  # of RippleEdits, a share of tests
    )
    p = compare(scores, "a", "b").set_index("metric")["p"]
    assert p["masked_accuracy"] == mcnemar(4, 0) and p["efficacy_score"] == mcnemar(3, 0)
    assert np.isnan(p["multi_hop"])
