"""Measure the judges on blind labels of replies that no judge was fitted on.

    python -m benchmarks.emotion_judges smollm2-135m --published REPLIES

The model is the one under test; the first judge reads the activations of the other one.
`--published` names judged replies of a third model (see `benchmarks.emotion_control`).
"""

import argparse
from typing import Any

import numpy as np
import torch
from sklearn.metrics import cohen_kappa_score

from benchmarks.emotion_control import MODELS, judges_of
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--published", help="judged replies of another model")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = blind_rows(given.model)
    blind = [row["label"] for row in rows]
    scenarios = [row["situation"].rpartition("_")[0] for row in rows]
    for name, judge in judges_of(given.model, given.published).items():
        labels = judge.labels([row["reply"] for row in rows])
        hits = np.array([one == other for one, other in zip(labels, blind, strict=True)], float)
        value, low, high = map(float, bootstrap_mean(hits, clusters=scenarios))
        kappa = cohen_kappa_score(labels, blind)
        print(f"{name}: {value:.3f} [{low:.3f}, {high:.3f}], n = {len(hits)}, kappa {kappa:.3f}")


if __name__ == "__main__":
    main()
