"""Measure the judges on blind labels of replies that no judge was fitted on.

    python -m benchmarks.emotion_judges smollm2-135m --published REPLIES

The model is the one under test; the first judge reads the activations of the other one.
`--published` names judged replies of a third model (see `benchmarks.emotion_control`).
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.emotion_control import JUDGE_MODEL, judges_of
from circuits.emotion import LABELS
from circuits.emotion.texts import load_labelled
from interp.data import datasets
from interp.data.records import read_jsonl
from interp.statistics import bootstrap_mean

BLIND = datasets.folder() / "emotion_blind_labels.jsonl"


def blind_rows(model: str) -> list[dict[str, Any]]:
    """Labelled replies of a model to test texts, of which no judge is fitted on any."""
    load_labelled(BLIND, "test")  # a bad row is refused
    rows = (row for _, row in read_jsonl(BLIND))
    return [row for row in rows if (row["model"], row["part"]) == (model, "test")]


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Agreement of two labellings beyond chance.

    Source: Cohen 1960.
    """
    codes = [np.array([LABELS.index(label) for label in one]) for one in (first, second)]
    observed = float((codes[0] == codes[1]).mean())
    shares = [np.bincount(one, minlength=len(LABELS)) / len(one) for one in codes]
    expected = float(shares[0] @ shares[1])
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=tuple(JUDGE_MODEL))
    parser.add_argument("--published", help="judged replies of another model")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = blind_rows(given.model)
    blind = [row["label"] for row in rows]
    for name, judge in judges_of(given.model, given.published).items():
        labels = judge.labels([row["reply"] for row in rows])
        hits = np.array([one == other for one, other in zip(labels, blind, strict=True)], float)
        value, low, high = map(float, bootstrap_mean(hits))
        kappa = cohen_kappa(labels, blind)
        print(f"{name}: {value:.3f} [{low:.3f}, {high:.3f}], n = {len(hits)}, kappa {kappa:.3f}")


if __name__ == "__main__":
    main()
