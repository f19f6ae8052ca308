"""Replicate the published statistics, and measure what prompt length alone explains of them.

The published prompts ask for a capital in some 7 tokens and for a continent, which the prompt
states, in some 22. Lengths do not overlap, so a test of anything that depends on length finds it.
Beside them the same tests run on matched prompts: recall (A) and the same question answered in the
prompt (C), of one template and one length.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from circuits.recall_reasoning.cells import Data
from circuits.recall_reasoning.published import (
    LastToken,
    head_table,
    last_token,
    layer_table,
    neuron_counts,
)
from interp.brief import brief
from interp.data.datasets import locate
from interp.data.records import Row, Text, checked, read_jsonl, read_rows
from interp.errors import DataError
from interp.model.model import Model
from interp.results import folder
from interp.statistics import auroc

KIND = "recall_replication"
N_PUBLISHED = 30
TABLES = ("confounds", "layers", "heads")
RECALL = "What is the capital of {country}?"
REASONING = (
    "If X is the capital of {country} and {country} is in {continent}, what continent is X in?"
)

Prompts = tuple[list[str], list[str]]
"""Recall and reasoning prompts."""


def published_prompts(path: str | Path) -> Prompts:
    """The published prompts from a file of triples or of finished prompts.

    Args:
        path: the released JSON file, a list of records with ``recall`` and ``reasoning``; or
            the shipped ``recall_facts``, whose first 30 countries are put in the same words.

    Raises:
        DataError: the file is missing or of another form.
    """
    path = locate(path, "a file of published prompts")
    if path.suffix == ".jsonl":
        lines = read_jsonl(path, "country and continent")[:N_PUBLISHED]
        rows = [checked(_Country, row, f"{path}, line {n}") for n, row in lines]
        found = [template.format(**dict(row)) for template in (RECALL, REASONING) for row in rows]
    else:
        listed = read_rows(path, "recall and reasoning prompts")
        pairs = [checked(_Released, row, f"{path}, row {n}") for n, row in enumerate(listed, 1)]
        found = [row.recall for row in pairs] + [row.reasoning for row in pairs]
    n = len(found) // 2
    if n < 3:
        raise DataError(f"{path} holds {n} rows; the tests need 3 or more.")
    return found[:n], found[n:]


class _Country(Row):
    country: Text
    continent: Text


class _Released(Row):
    recall: Text
    reasoning: Text


def matched_prompts(data: Data, recall: str, other: str, n: int) -> Prompts:
    """Clean prompts of two cells of the selection split, as many of each length.

    Args:
        data: matched cells.
        recall: cell on the recall side.
        other: cell on the other side.
        n: at most so many of each.
    """
    first, second = (data.of("selection", cell)[:n] for cell in (recall, other))
    return [pair.clean for pair in first], [pair.clean for pair in second]


@brief
@dataclass(frozen=True)
class Replication:
    """The published tests on one or several sets of prompts.

    Attributes:
        confounds: a row a set of prompts: how many, their lengths, the AUC of length alone and of
            mean attention entropy alone, and how many layers, heads and neurons are "specialised".
        layers: a row a set and layer.
        heads: a row a set and head.
        model: which.
        provenance: filled when saved.
    """

    confounds: pd.DataFrame
    layers: pd.DataFrame = field(repr=False)
    heads: pd.DataFrame = field(repr=False)
    model: str
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        labels: Any = self.layers.groupby(["prompts", "label"]).size()
        return {
            "model": self.model,
            "confounds": self.confounds.to_dict("records"),
            "layer_labels": labels.reset_index(name="layers").to_dict("records"),
        }

    def save(self, path: str | Path) -> Path:
        """Write a run folder.

        Raises:
            RunFolderError: the path holds something that is not a run folder.
        """
        manifest = {
            "kind": KIND,
            "model": self.model,
            "provenance": folder.provenance() | self.provenance,
        }
        return folder.write(
            Path(path), manifest, {name: getattr(self, name) for name in TABLES}, {}
        )

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "Replication":
        """Read a run folder back.

        Raises:
            RunFolderError: missing, incomplete or damaged folder.
        """
        manifest, tables, _ = folder.read(path, KIND, TABLES)
        return cls(**tables, model=manifest["model"], provenance=manifest["provenance"])


def replicate(model: Model, sets: dict[str, Prompts]) -> Replication:
    """Run the published layer, head and neuron tests on each set of prompts.

    Args:
        model: with gated MLPs.
        sets: name -> recall and reasoning prompts, such as ``published`` and ``matched``.

    Raises:
        PlanError: the model has no gate projection.
    """
    confounds: list[dict[str, Any]] = []
    layers: list[pd.DataFrame] = []
    heads: list[pd.DataFrame] = []
    for name, (first, second) in sets.items():
        recall, reasoning = last_token(model, first), last_token(model, second)
        by_layer: Any = layer_table(recall, reasoning)
        by_head: Any = head_table(recall, reasoning)
        confounds.append(
            {
                "prompts": name,
                **_confounds(recall, reasoning),
                "layers": len(by_layer),
                "layers_labelled": int((by_layer["label"] != "mixed").sum()),
                "heads": len(by_head),
                "heads_specialised": int(by_head["specialised"].sum()),
                **{
                    f"heads_{label}": _labelled(by_head, label) for label in ("recall", "reasoning")
                },
                "head_effect": float(by_head.loc[by_head["specialised"], "effect"].mean()),
                **{f"neurons_{k}": v for k, v in neuron_counts(recall, reasoning).items()},
            }
        )
        layers.append(by_layer.assign(prompts=name))
        heads.append(by_head.assign(prompts=name))
    return Replication(
        pd.DataFrame(confounds),
        pd.concat(layers, ignore_index=True),
        pd.concat(heads, ignore_index=True),
        model.name,
    )


def _labelled(heads: Any, label: str) -> int:
    return int((heads["specialised"] & (heads["label"] == label)).sum())


def _confounds(recall: LastToken, reasoning: LastToken) -> dict[str, Any]:
    """How well length alone, and attention entropy alone, tell the two sets apart."""
    labels = np.arange(len(recall.lengths) + len(reasoning.lengths)) >= len(recall.lengths)
    entropy = [one.heads["entropy"].mean((1, 2)) for one in (recall, reasoning)]
    areas = {
        "length_auc": auroc(np.concatenate([recall.lengths, reasoning.lengths]), labels),
        "entropy_auc": auroc(np.concatenate(entropy), labels),
    }
    return {
        "n_recall": len(recall.lengths),
        "n_reasoning": len(reasoning.lengths),
        "tokens_recall": float(recall.lengths.mean()),
        "tokens_reasoning": float(reasoning.lengths.mean()),
        # which of the two classes is longer does not matter
        **{name: max(area, 1 - area) for name, area in areas.items()},
    }
