"""What each pair loses when circuits are ablated, on the cells of a split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from circuits.recall_reasoning.cells import Data
from circuits.recall_reasoning.designs import Ability
from circuits.recall_reasoning.filter import candidates
from interp.ablation.ablate import ablate
from interp.ablation.result import AblationResult
from interp.brief import brief
from interp.data.pairs import PromptPairs, tokenise
from interp.interventions.run import sweep_plans
from interp.model.components import Sets
from interp.model.model import Model

Lost = Mapping[str, Float[np.ndarray, "pair set"]]
"""Cell -> what each pair loses under each set."""


@brief
@dataclass(frozen=True)
class Losses:
    """What the pairs of each cell lose under each set.

    Attributes:
        accuracy: 1 where a right answer became wrong.
        effect: logit difference lost, as a fraction of the cell's total effect.
        clusters: cell -> bridge entity of each pair.
        nll: nats per token that neutral text loses; ``None`` without such a text.
    """

    accuracy: Lost
    effect: Lost
    clusters: Mapping[str, list[str]]
    sets: tuple[str, ...]
    nll: Float[np.ndarray, "window set"] | None = None

    def column(self, name: str) -> int:
        """Where a set is."""
        return self.sets.index(name)

    def readings(self) -> Mapping[str, Lost]:
        """Both kinds of loss by name."""
        return {"accuracy": self.accuracy, "effect": self.effect}

    def selectivity(self, ability: Ability, reading: str = "effect") -> np.ndarray:
        """Own minus other loss of every set, each cell counting as much."""
        lost = self.readings()[reading]
        own, other = (np.mean([lost[c].mean(0) for c in side], axis=0) for side in ability.sides)
        return own - other


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

    Means are over the selection split of the same cell. At most `most` pairs per cell are run; the
    perplexity of `neutral` text is read with the first cell.
    """
    accuracy: dict[str, np.ndarray] = {}
    effect: dict[str, np.ndarray] = {}
    nll = None
    rows = {cell: data.of(split, cell, most) for cell in data.cells}
    for cell, pairs in rows.items():
        found = ablate(
            model,
            pairs,
            sets,
            ablation,
            readouts=("logit_diff", "accuracy"),
            candidates=candidates(pairs, data.candidates[cell]),
            reference=data.of("selection", cell) if ablation == "mean" else None,
            neutral=neutral if cell == data.cells[0] else None,
            n_random=0,
            cluster_by=lambda pair: data.bridge[pair.id],
            out=out / f"{split}-{ablation}-{cell}",
        )
        accuracy[cell] = _lost(found, "accuracy")
        effect[cell] = _lost(found, "logit_diff") / total_effect(model, pairs)
        nll = -_lost(found, "nll") if "nll" in found.readings else nll
    clusters = {cell: data.clusters(pairs) for cell, pairs in rows.items()}
    return Losses(accuracy, effect, clusters, tuple(sets), nll)


def _lost(result: AblationResult, readout: str) -> np.ndarray:
    data = result.reading(readout)
    return data["baseline"].values[:, None] - data["ablated"].values


def total_effect(model: Model, pairs: PromptPairs) -> float:
    """m(clean) - m(corrupt), in logits, over pairs."""
    rows, _ = tokenise(model, pairs)
    clean, corrupt = (
        float(sweep_plans(model, rows, {"none": ()}, run=side).mean())
        for side in ("clean", "corrupt")
    )
    return clean - corrupt


def pooled(
    values: Lost, clusters: Mapping[str, Sequence[str]], cells: Sequence[str]
) -> tuple[Float[np.ndarray, "pair set"], list[str]]:
    """The pairs of several cells in a row, so weighted that each cell counts as much."""
    n = sum(len(values[cell]) for cell in cells)
    weighted = [values[c] * (n / (len(cells) * len(values[c]))) for c in cells]
    return np.concatenate(weighted), [one for cell in cells for one in clusters[cell]]
