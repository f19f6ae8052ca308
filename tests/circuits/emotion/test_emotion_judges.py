"""The offline judge: planted styles, scenarios kept apart, calibration and agreement by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from circuits.emotion.data import LABELS, load_scenarios
from circuits.emotion.judge import (
    Labelled,
    Verdict,
    agreement,
    bare,
    calibration_error,
    cross_validate,
    fit_judge,
    load_labelled,
    load_verdicts,
    log_loss,
    opener,
    without_opener,
)
from circuits.emotion.quality import uncoarse
from interp.errors import DataError

MARKS = dict(zip(LABELS, ["grr", "alas", "hooray", "eek", "whoa", "ugh", "table"], strict=True))
FILLER = [
    "the",
    "road",
    "goes",
    "on",
    "past",
    "a",
    "mill",
    "and",
    "two",
    "barns",
    "to",
    "some",
    "gate",
    "near",
    "our",
    "pond",
]


def planted(n_groups: int = 12, where: int = 0, noise: float = 0.0) -> list[Labelled]:
    """Replies whose label is told by one word, at a place; `noise` of them are told wrongly."""
    rng = np.random.default_rng(0)
    rows = []
    for group in range(n_groups):
        for label in LABELS:
            told = rng.choice(LABELS) if rng.random() < noise else label
            text = list(rng.choice(FILLER, 9))
            text.insert(where, MARKS[told])
            rows.append(Labelled(" ".join(text), label, f"s{group}"))
    return rows


def test_a_planted_style_is_found_where_it_lies():
    found = cross_validate(planted(where=0), folds=3)
    assert found.right("whole").mean() > 0.95
    assert found.right("opener").mean() > 0.95
    assert found.right("without_opener").mean() < 0.4
    late = cross_validate(planted(where=9), folds=3)
    assert late.right("without_opener").mean() > 0.95
    assert late.right("opener").mean() < 0.4
    assert np.trace(found.confusion()) == found.right().sum()
    assert found.confusion().sum(1).tolist() == [12] * 7


def test_no_scenario_is_in_training_and_test():
    # the label is told by the scenario alone, through a word that only this scenario has: a judge
    # that had seen it would be right
    rows = [
        Labelled(f"word{g} {' '.join(FILLER[:5])}", LABELS[g % 7], f"s{g}")
        for g in range(28)
        for _ in range(3)
    ]
    assert cross_validate(rows, folds=4).right().mean() < 0.5


def test_calibration_improves_what_noise_made_too_sure():
    rows = planted(n_groups=30, noise=0.4)
    found = cross_validate(rows, folds=3)
    assert log_loss(found.views["whole"], found.truth) < log_loss(found.raw, found.truth)
    judge = fit_judge(rows, folds=3)
    assert judge.temperature > 1
    shown = judge.probabilities([rows[0].text, rows[1].text])
    assert shown.sum(1) == pytest.approx(1.0)
    assert judge.labels(["eek the mill", "hooray a road"]) == ["fear", "happiness"]


def test_calibration_error_by_hand():
    sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    truth = np.array([0, 1, 1, 1])
    # bin of .9: accuracy .5, gap .4, half of the rows; bin of .6: accuracy 1, gap .4
    assert calibration_error(sure, truth, bins=10) == pytest.approx(0.4)
    assert calibration_error(np.eye(2), np.array([0, 1])) == 0.0
    assert log_loss(sure, truth) == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.6]).mean())


def test_views():
    assert opener("Oh no, not again, please") == "Oh no, not"
    assert without_opener("Oh no, not again, please") == "again, please"
    assert bare("Oh NO, it's-him!") == "oh no  it's him "


def test_agreement_counts_hits_and_rightly_missed_ones():
    judge = fit_judge(planted(), folds=3)
    verdicts = [
        Verdict("eek the mill", "fear", True, "a"),
        Verdict("eek the mill", "fear", False, "a"),
        Verdict("eek the mill", "anger", False, "b"),
        Verdict("eek the mill", "anger", True, "b"),
    ]
    assert agreement(judge, verdicts).tolist() == [1, 0, 1, 0]


def test_what_cannot_be_fitted_is_refused():
    rows = planted()
    with pytest.raises(DataError, match="no reply is labelled neutral"):
        fit_judge([r for r in rows if r.label != "neutral"])
    with pytest.raises(DataError, match="2 scenarios cannot be dealt to 5 folds"):
        cross_validate([r for r in rows if r.group in ("s0", "s1")])


def test_verdicts_are_read_and_bad_rows_named(tmp_path: Path):
    row = {"gen_text": "x", "emotion": "fear", "match": 1, "skeleton_id": "work_00", "more": 1}
    path = tmp_path / "v.jsonl"
    path.write_text(json.dumps(row))
    assert load_verdicts(path) == (Verdict("x", "fear", True, "work_00"),)
    for change in ({"match": 2}, {"gen_text": None}, {"emotion": "awe"}):
        path.write_text(json.dumps(row) + "\n" + json.dumps(row | change))
        with pytest.raises(DataError, match="'(match' is 2|gen_text' is None|emotion' is unk)"):
            load_verdicts(path)


def test_blind_labels_are_read_by_part(tmp_path: Path):
    path = tmp_path / "labels.jsonl"
    rows = [
        {"part": part, "situation": f"work_{part}_00_neutral", "reply": "x", "label": "fear"}
        for part in ("tuning", "test")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_labelled(path, "test") == (Labelled("x", "fear", "work_test_00_neutral"),)
    for wrong in ({"label": "envy"}, {"part": None}):
        path.write_text(json.dumps(rows[0] | wrong) + "\n")
        with pytest.raises(DataError, match="line 1: '(label' is unknown|part' is None)"):
            load_labelled(path, "test")


def test_the_shipped_blind_labels_are_of_tuning_and_test_texts_alone():
    for part in ("tuning", "test"):
        of_part = {s.id for s in load_scenarios(f"datasets/emotion_scenarios_{part}.jsonl")}
        for one in load_labelled("datasets/emotion_blind_labels.jsonl", part):
            assert one.group.rpartition("_")[0] in of_part
            assert uncoarse(one.text) == one.text
