"""Ablate circuits on the cells of a split, and keep what each pair loses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from circuits.recall_reasoning.cells import Data
from circuits.recall_reasoning.filtering import candidates
from interp.ablation import AblationResult, ComponentSet, ablate
from interp.brief import brief
from interp.data.pairs import PromptPairs, tokenise
from interp.errors import PlanError
from interp.interventions.run import sweep_plans
from interp.model.model import Model

Sets = Mapping[str, ComponentSet]


@brief
@dataclass(frozen=True)
class Losses:
    """What the pairs of each cell lose under each set.

    Attributes:
        accuracy: cell -> accuracy lost, [pair, set]; 1 where a right answer became wrong.
        effect: cell -> logit difference lost as a part of the cell's total effect, [pair, set].
        clusters: cell -> bridge entity of each pair.
        sets: their names.
        total: cell -> total effect, in logits.
        nll: nats a token that neutral text loses, [window, set]; ``None`` where there was none.
        runs: how many ablated prompts were run.
        seconds: wall time.
    """

    accuracy: Mapping[str, Float[np.ndarray, "pair set"]]
    effect: Mapping[str, Float[np.ndarray, "pair set"]]
    clusters: Mapping[str, list[str]]
    sets: tuple[str, ...]
    total: Mapping[str, float]
    nll: Float[np.ndarray, "window set"] | None
    runs: int
    seconds: float

    def column(self, name: str) -> int:
        """Where a set is."""
        return self.sets.index(name)


def losses(
    model: Model,
    data: Data,
    split: str,
    sets: Sets,
    ablation: str,
    out: Path,
    most: int | None = None,
    neutral: str | None = None,
) -> Losses:
    """Ablate every set on every cell of a split; finished cells are read back from `out`.

    Args:
        model: the model.
        data: what it gets right.
        split: which pairs.
        sets: what to ablate.
        ablation: kind; means are over the selection split of the same cell.
        out: folder of the parts.
        most: at most so many pairs a cell.
        neutral: text whose perplexity is read, too, with the first cell.
    """
    accuracy: dict[str, np.ndarray] = {}
    effect: dict[str, np.ndarray] = {}
    total: dict[str, float] = {}
    nll, seconds = None, 0.0
    for cell in data.cells:
        pairs = data.of(split, cell)[:most]
        found = ablate(
            model,
            pairs,
            dict(sets),
            ablation,
            readouts=("logit_diff", "accuracy"),
            candidates=_one_token(model, data, cell, pairs),
            reference=data.of("selection", cell) if ablation == "mean" else None,
            neutral=neutral if cell == data.cells[0] else None,
            n_random=0,
            cluster_by=lambda pair: data.bridge[pair.id],
            out=out / f"{split}-{ablation}-{cell}",
        )
        accuracy[cell], lost = _lost(found, "accuracy"), _lost(found, "logit_diff")
        total[cell] = total_effect(model, pairs)
        effect[cell] = lost / total[cell]
        nll = -_lost(found, "nll") if "nll" in found.readings else nll
        seconds += found.seconds
    clusters = {cell: data.clusters(data.of(split, cell)[:most]) for cell in data.cells}
    runs = len(sets) * sum(len(rows) for rows in accuracy.values())
    return Losses(accuracy, effect, clusters, tuple(sets), total, nll, runs, seconds)


def _lost(result: AblationResult, readout: str) -> np.ndarray:
    data = result.reading(readout)
    return data["baseline"].values[:, None] - data["ablated"].values


def _one_token(model: Model, data: Data, cell: str, pairs: PromptPairs) -> list[str]:
    """The cell's candidate answers that are one token, spaced as they stand in a text."""
    tokens = candidates(model, tokenise(model, pairs)[0], data.candidates[cell])
    return [model.token(token) for token in tokens]


def total_effect(model: Model, pairs: PromptPairs) -> float:
    """m(clean) - m(corrupt), in logits, over pairs."""
    kept, _ = tokenise(model, pairs)
    clean, corrupt = (
        float(sweep_plans(model, kept, {"none": ()}, run=side).mean())
        for side in ("clean", "corrupt")
    )
    return clean - corrupt


def pooled(
    values: Mapping[str, np.ndarray], clusters: Mapping[str, Sequence[str]], cells: Sequence[str]
) -> tuple[Float[np.ndarray, "pair set"], list[str]]:
    """The pairs of several cells in a row, so weighted that each cell counts as much.

    Raises:
        PlanError: there is no cell.
    """
    if not cells:
        raise PlanError("an ability needs at least one cell.")
    n = sum(len(values[cell]) for cell in cells)
    weighted = [values[c] * (n / (len(cells) * len(values[c]))) for c in cells]
    return np.concatenate(weighted), [one for cell in cells for one in clusters[cell]]
