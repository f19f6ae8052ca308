"""Measure the judges: on sources they never saw, on plain replies, on blind labels, by what they read.

    python -m benchmarks.emotion_judges smollm2-135m --published ../shared/data/sev/prompted_replies_judged.jsonl

The model is the one under test; its judges read with the other one. `--published` names judged
replies of a third model; without them only the shipped, self-written replies are used.
"""  # noqa: E501

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

import interp
from benchmarks.emotion_control import BLIND, READER, plain
from circuits.emotion import LABELS, load_replies
from circuits.emotion.judge import (
    Judge,
    Labelled,
    Make,
    agreement,
    by_words,
    calibration_error,
    cross_validate,
    fit_judge,
    load_labelled,
    load_verdicts,
)
from circuits.emotion.label_judge import LabelJudge, label_judge
from circuits.emotion.panel import EVERY, WORDS_KEPT, cohen_kappa, reading, training_replies
from interp.data.records import read_jsonl
from interp.model.model import Model
from interp.statistics import bootstrap_mean

N_ASKED = 120
PARTS = ("words", "reader", "labels")


def said(name: str, right: np.ndarray, groups: list[str], note: str = "") -> None:
    value, low, high = (float(x) for x in bootstrap_mean(right, clusters=groups))
    print(f"{name}: {value:.3f} [{low:.3f}, {high:.3f}], n = {len(right)} {note}", flush=True)


def right(judge: Judge | LabelJudge, rows: list[Labelled]) -> np.ndarray:
    labels = judge.labels([row.text for row in rows])
    return np.array([one == row.label for one, row in zip(labels, rows, strict=True)], float)


def blind_rows(model: str) -> list[dict[str, Any]]:
    """Labelled replies of a model to test texts, of which no judge is fitted on any."""
    rows = (row for _, row in read_jsonl(Path(BLIND)))
    return [row for row in rows if (row["model"], row["part"]) == (model, "test")]


def measure(kind: str, make: Make, model: str, published: str | None) -> None:
    replies, neutral = load_replies("datasets/emotion_replies.jsonl"), plain(READER[model])
    labelled = load_labelled(BLIND, "tuning")
    own, fitted_on = list(training_replies(replies)), training_replies(replies, (), neutral)
    found = cross_validate(own, 4, make=make)
    for view in found.views:
        said(f"{kind}, self-written, by event, {view}", found.right(view), list(found.groups))
    after, before = (
        calibration_error(one, found.truth) for one in (found.views["whole"], found.raw)
    )
    print(f"{kind}, calibration error {after:.3f}, before calibration {before:.3f}")
    judge = fit_judge(fitted_on, 4, make)
    if published:
        verdicts = load_verdicts(published)
        chosen = set(sorted({v.group for v in verdicts})[::EVERY])
        unseen = [v for v in verdicts if v.group not in chosen][:: 1 if kind == "words" else 3]
        texts = [Labelled(" ".join(v.text.split()[:WORDS_KEPT]), v.target, v.group) for v in unseen]
        groups = [v.group for v in unseen]
        said(f"{kind}, self-written → published", right(judge, texts), groups)
        judge = fit_judge(training_replies(replies, verdicts, neutral, labelled), 4, make)
        said(f"{kind}, both → published, unseen scenarios", right(judge, texts), groups)
        said(f"{kind}, agreement with verdicts", agreement(judge, unseen), groups,
             f"(positive: {np.mean([v.match for v in unseen]):.3f})")  # fmt: skip
    plain_said = Counter(judge.labels(plain(model)))
    print(f"{kind}, plain replies of {model}:", {label: plain_said[label] for label in LABELS})
    on_blind_labels(kind, judge, model)
    verdicts = load_verdicts(published) if published else ()
    without = fit_judge(training_replies(replies, verdicts, neutral), 4, make)
    on_blind_labels(f"{kind} without blind labels", without, model)


def on_blind_labels(name: str, judge: Judge | LabelJudge, model: str) -> None:
    rows = blind_rows(model)
    labels = judge.labels([row["reply"] for row in rows])
    blind = [row["label"] for row in rows]
    hits = np.array([one == other for one, other in zip(labels, blind, strict=True)], float)
    said(f"{name}, blind labels", hits, [row["id"] for row in rows],
         f"kappa {cohen_kappa(labels, blind):.3f}")  # fmt: skip
    shown = np.array([(s == r["emotion"]) == (r["label"] == r["emotion"])
                      for s, r in zip(labels, rows, strict=True)], float)  # fmt: skip
    said(f"{name}, blind labels, target shown or not", shown, [row["id"] for row in rows])


def measure_labels(reader: Model, model: str, published: str | None) -> None:
    """The judge that asks for labels, on samples: it is slow."""
    replies = load_replies("datasets/emotion_replies.jsonl")
    judge = label_judge(reader, replies)
    shown = "".join(judge.questions)
    own = [row for row in training_replies(replies) if row.text not in shown]
    sources = {"self-written": sample(own)}
    if published:
        accepted = [v for v in load_verdicts(published) if v.match]
        sources["published"] = sample(
            [Labelled(" ".join(v.text.split()[:WORDS_KEPT]), v.target, v.group) for v in accepted]
        )
    for source, rows in sources.items():
        said(f"labels asked for, {source}", right(judge, rows), [row.group for row in rows])
    on_blind_labels("labels asked for", judge, model)


def sample(rows: list[Labelled]) -> list[Labelled]:
    chosen = np.random.default_rng(0).permutation(len(rows))[:N_ASKED]
    return [rows[i] for i in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=tuple(READER))
    parser.add_argument("--published", help="judged replies of another model")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    reader = interp.load_model(READER[given.model], device="cpu", dtype="float32")
    if "words" in given.parts:
        measure("words", by_words, given.model, given.published)
    if "reader" in given.parts:
        measure("reader", reading(reader), given.model, given.published)
    if "labels" in given.parts:
        measure_labels(reader, given.model, given.published)


if __name__ == "__main__":
    main()
