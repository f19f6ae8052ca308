"""The published statistics, and what prompt length alone explains of them.

Fartale et al., "Disentangling Recall and Reasoning in Transformer Models through Layer-wise
Attention and Activation Analysis", arXiv 2510.03366. As in its released notebooks, all features are
taken at the last token of the prompt and compared between recall and reasoning prompts, without an
intervention: whatever differs between the two sets of prompts makes components "significant".

The published prompts ask for a capital in some 7 tokens and for a continent, which the prompt
states, in some 22, so a test of anything that depends on length finds it. `replicate` runs the same
tests on matched prompts, too: cells of one template and one length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from circuits.recall_reasoning.cells import Data
from circuits.recall_reasoning.filter import two_sided_auc
from interp.brief import brief
from interp.data.datasets import locate
from interp.data.records import Row, Text, checked_rows
from interp.errors import DataError, PlanError
from interp.forward.blocks import rewriting
from interp.interventions.recording import activations
from interp.interventions.run import forward
from interp.model.model import Model
from interp.results.report import Report, Section, Table, cell_text
from interp.results.result import Result
from interp.statistics import benjamini_hochberg

SPARSE = 0.01
N_PUBLISHED = 30
RECALL = "What is the capital of {country}?"
REASONING = (
    "If X is the capital of {country} and {country} is in {continent}, what continent is X in?"
)

Features = Mapping[str, Float[np.ndarray, "prompt ..."]]
"""Name -> values: of layers [prompt, layer], of heads [prompt, layer, head]."""
Prompts = tuple[list[str], list[str]]
"""Recall and reasoning prompts."""


# --- features of the last token ------------------------------------------------------------------


@brief
@dataclass(frozen=True)
class LastToken:
    """What the published statistics look at, of each prompt's last token.

    `layers`: norm and mean of the residual stream, attention entropy, gate activity; `heads`: shape
    of the attention from it; `gates`: see `last_gates`; `lengths`: tokens of each prompt.
    """

    layers: Features
    heads: Features
    gates: Float[np.ndarray, "prompt layer neuron"]
    lengths: Float[np.ndarray, " prompt"]


def last_token(model: Model, prompts: Sequence[str]) -> LastToken:
    """Run prompts one by one with eager attention, as the notebooks do; raises as `last_gates`."""
    gates = last_gates(model, prompts)
    rows: list[dict[str, np.ndarray]] = []
    states: list[np.ndarray] = []
    with model.attention_named("eager"):
        for text in prompts:
            weights, state = (
                torch.cat(list(activations(model, [text], site, at="last").values())).float()
                for site in ("pattern", "resid_post")
            )
            rows.append(of_heads(weights.numpy()))
            states.append(state.numpy())
    heads = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    entropy, state = heads["entropy"].mean(2), np.stack(states)
    layers = {
        "norm": np.linalg.norm(state, axis=2),
        "mean": state.mean(2),
        "entropy": entropy,
        "concentration": 1 / (1 + entropy),
        "gate": np.abs(gates).mean(2),
        "sparsity": (np.abs(gates) < SPARSE).mean(2),
    }
    lengths = np.array([float(len(model.encode(text))) for text in prompts])
    return LastToken(layers, heads, gates, lengths)


def last_gates(model: Model, prompts: Sequence[str]) -> Float[np.ndarray, "prompt layer neuron"]:
    """What the gate projections give at each prompt's last token, before the activation function.

    `PlanError` where the model has no gated MLPs.
    """
    values: list[Tensor] = []

    def look(_: Tensor, out: Tensor) -> Tensor:
        values.append(out[0, -1].float().cpu())
        return out

    if not all("up" in one.neuron_keys for one in model.arch.layers):
        raise PlanError(
            f"{model.name} has no gate projection in its MLPs; the published neuron statistics "
            "need one (Llama, Qwen, Gemma and Mistral have)."
        )
    places = [("gate", layer, look) for layer in range(model.arch.n_layers)]
    with model.attention_named("eager"), rewriting(model, places):
        for text in prompts:
            forward(model, [text])
    return torch.stack(values).view(len(prompts), len(places), -1).numpy()


def of_heads(weights: Float[np.ndarray, "layer head key"]) -> dict[str, np.ndarray]:
    """Shape of each head's attention from the last token."""
    n = weights.shape[-1]
    rank = 2 * np.arange(1, n + 1) - n - 1
    return {
        "entropy": -(weights * np.log(weights + 1e-10)).sum(-1),
        "max_weight": weights.max(-1),
        "self_focus": weights[..., -1],
        "spread": weights.std(-1),
        "gini": (np.sort(weights, axis=-1) * rank).sum(-1) / (n * weights.sum(-1) + 1e-10),
    }


# --- tests ---------------------------------------------------------------------------------------


def cohens_d(
    first: Float[np.ndarray, "prompt ..."], second: Float[np.ndarray, "prompt ..."], ddof: int = 0
) -> Float[np.ndarray, "..."]:
    """(mean of second - mean of first) / root of their mean variance; 0 where nothing varies.

    Source: Cohen 1988, section 2.5.
    """
    spread = np.sqrt((first.var(0, ddof=ddof) + second.var(0, ddof=ddof)) / 2)
    gap = second.mean(0) - first.mean(0)
    return np.divide(gap, spread, out=np.zeros_like(gap), where=spread > 0)


def _mann_whitney(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.nan_to_num(stats.mannwhitneyu(first, second, axis=0).pvalue, nan=1.0)


def _compared(first: Features, second: Features, ddof: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cohen's d and adjusted p of every metric, [metric, ...]."""
    d = np.stack([cohens_d(first[name], second[name], ddof) for name in first])
    p = np.stack([_mann_whitney(first[name], second[name]) for name in first])
    return d, benjamini_hochberg(p)


def layer_table(recall: LastToken, reasoning: LastToken) -> pd.DataFrame:
    """The published layer test (H1), a row per layer.

    A metric is significant if Benjamini-Hochberg at 0.01 rejects and |d| > 0.5. A layer is labelled
    by the majority sign of the metrics with |d| > 0.8, of which it needs two.
    """
    d, p = _compared(recall.layers, reasoning.layers)
    columns = {
        "layer": range(d.shape[1]),
        "label": [_label(own, 0.8, 2) for own in d.T],
        "significant_metrics": ((p < 0.01) & (np.abs(d) > 0.5)).sum(0),
    }
    return pd.DataFrame(columns | {f"d_{m}": d[i] for i, m in enumerate(recall.layers)})


def head_table(recall: LastToken, reasoning: LastToken) -> pd.DataFrame:
    """The published head test (H2, second version), a row per head.

    Benjamini-Hochberg at 1e-4 over all heads and metrics, |d| >= 1 with the sample variance,
    |d| > 15 set to 0; a head is specialised if three metrics or more are left.
    """
    d, p = _compared(recall.heads, reasoning.heads, ddof=1)
    large = (p < 1e-4) & (np.abs(d) >= 1) & (np.abs(d) <= 15)
    left, n = np.where(large, d, 0), large.sum(0)
    layers, heads = np.indices(n.shape)
    columns = {
        "layer": layers.ravel(),
        "head": heads.ravel(),
        "label": [_label(own, 0, 3) for own in left.reshape(len(left), -1).T],
        "specialised": n.ravel() >= 3,
        "effect": (np.abs(left).sum(0) / np.maximum(n, 1)).ravel(),
    }
    return pd.DataFrame(columns)


def _label(d: np.ndarray, least: float, needed: int) -> str:
    large = d[np.abs(d) > least]
    if len(large) < needed or (large > 0).sum() == (large < 0).sum():
        return "mixed"
    return "reasoning" if (large > 0).sum() > (large < 0).sum() else "recall"


def neuron_counts(recall: LastToken, reasoning: LastToken) -> dict[str, float]:
    """The published neuron test (H3): Bonferroni at 1e-4 over all neurons and |d| > 1.

    Neurons whose variance is below 0.01 in both sets, or whose mean absolute value is below 0.1,
    are skipped.
    """
    a, b = (one.gates.reshape(len(one.gates), -1) for one in (recall, reasoning))
    size = np.abs(np.concatenate([a, b])).mean(0)
    tested = ~((a.var(0) < 0.01) & (b.var(0) < 0.01)) & (size >= 0.1)
    a, b, total = a[:, tested], b[:, tested], a.shape[1]
    d = cohens_d(a, b)
    found = (_mann_whitney(a, b) * total < 1e-4) & (np.abs(d) > 1)
    firing = np.abs((a > 0).mean(0) - (b > 0).mean(0))
    return {
        "neurons": total,
        "tested": int(tested.sum()),
        "significant": int(found.sum()),
        "share": float(found.sum() / total),
        "recall": int((found & (d < 0)).sum()),
        "reasoning": int((found & (d > 0)).sum()),
        "firing_specificity_top_50": float(np.sort(firing)[-50:].mean()) if len(firing) else 0.0,
    }


# --- prompts and replication ---------------------------------------------------------------------


def published_prompts(path: str | Path) -> Prompts:
    """The published prompts.

    `path` is the released JSON file, a list of records with ``recall`` and ``reasoning``, or the
    shipped ``recall_facts``, whose first 30 countries are put in the same words; `DataError` where
    it is missing or of another form.
    """
    path = locate(path, "a file of published prompts")
    if path.suffix == ".jsonl":
        rows = checked_rows(_Country, path, "country and continent")[:N_PUBLISHED]
        found = [template.format(**dict(row)) for template in (RECALL, REASONING) for row in rows]
    else:
        pairs = checked_rows(_Released, path, "recall and reasoning prompts")
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


def matched_prompts(data: Data, cells: Sequence[str], n: int) -> Prompts:
    """At most `n` clean prompts of each of two cells of the selection split."""
    first, second = ([p.clean for p in data.of("selection", cell, n)] for cell in cells)
    return first, second


@brief
@dataclass(frozen=True)
class Replication(Result):
    """The published tests on one or several sets of prompts.

    Attributes:
        confounds: a row per set of prompts: how many, their lengths, the AUC of length alone and of
            mean attention entropy alone, and how many layers, heads and neurons are "specialised".
        layers: a row per set and layer.
        heads: a row per set and head.
    """

    KIND: ClassVar[str] = "recall_replication"
    confounds: pd.DataFrame
    layers: pd.DataFrame = field(repr=False)
    heads: pd.DataFrame = field(repr=False)
    model: str

    @property
    def labels(self) -> pd.DataFrame:
        """How many layers of each set have each label."""
        sizes: Any = self.layers.groupby(["prompts", "label"]).size()
        return sizes.reset_index(name="layers")

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        return {
            "model": self.model,
            "confounds": self.confounds.to_dict("records"),
            "layer_labels": self.labels.to_dict("records"),
        }

    def report(self) -> Report:
        """The confound table and the labels of layers."""
        sets = self.confounds.to_dict("records")
        rows = [
            {"figure": _words(str(name))} | {str(one["prompts"]): one[name] for one in sets}
            for name in self.confounds.columns.drop("prompts")
        ]
        table = pd.DataFrame(rows, dtype=object)  # counts stay whole numbers
        lengths = [f"{one['prompts']} {cell_text(float(one['length_auc']))}" for one in sets]
        tables = [
            Table("Prompts, and components called specialised", table),
            Table("Layers", self.labels),
        ]
        return Report(
            title=f"Published statistics on {self.model}",
            lead=f"AUC of prompt length alone: {', '.join(lengths)}.",
            sections=[Section("What length alone explains", tables)],
            method=(
                "The published statistics compare prompts and intervene on nothing. Where length "
                "alone tells the two sets apart (AUC 1), whatever depends on length is "
                "significant.",
            ),
            provenance=self.provenance,
        )


def _words(figure: str) -> str:
    """The name of a figure in the confound table."""
    return figure.replace("neurons_neurons", "neurons").replace("_", " ").replace("auc", "AUC")


def replicate(model: Model, sets: Mapping[str, Prompts]) -> Replication:
    """Run the published layer, head and neuron tests on sets of recall and reasoning prompts.

    `PlanError` where the model has no gate projection.
    """
    confounds: list[dict[str, Any]] = []
    tables: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    for name, prompts in sets.items():
        recall, reasoning = (last_token(model, side) for side in prompts)
        by_layer, by_head = layer_table(recall, reasoning), head_table(recall, reasoning)
        special: Any = by_head[by_head["specialised"]]
        counts = {
            "layers": len(by_layer),
            "layers_labelled": sum(by_layer["label"] != "mixed"),
            "heads": len(by_head),
            "heads_specialised": len(special),
            "heads_recall": int((special["label"] == "recall").sum()),
            "heads_reasoning": int((special["label"] == "reasoning").sum()),
            "head_effect": float(special["effect"].mean()),
            **{f"neurons_{k}": v for k, v in neuron_counts(recall, reasoning).items()},
        }
        entropy = (one.heads["entropy"].mean((1, 2)) for one in (recall, reasoning))
        lengths = {
            "n_recall": len(recall.lengths),
            "n_reasoning": len(reasoning.lengths),
            "tokens_recall": float(recall.lengths.mean()),
            "tokens_reasoning": float(reasoning.lengths.mean()),
            "length_auc": two_sided_auc(recall.lengths.tolist(), reasoning.lengths.tolist()),
            "entropy_auc": two_sided_auc(*(values.tolist() for values in entropy)),
        }
        confounds.append({"prompts": name, **lengths, **counts})
        tables.append((by_layer.assign(prompts=name), by_head.assign(prompts=name)))
    layers, heads = (pd.concat(side, ignore_index=True) for side in zip(*tables, strict=True))
    return Replication(pd.DataFrame(confounds), layers, heads, model.name)
