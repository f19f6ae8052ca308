"""Do directions read emotions where they were not found: under other words, other frames, none?

Accuracy by layer, chance 1/6, with an interval over scenarios and a permutation null.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from circuits.emotion.data import EMOTIONS
from circuits.emotion.directions import Directions
from circuits.emotion.states import States
from interp.brief import brief
from interp.errors import DataError
from interp.statistics import bootstrap_mean

N_PERMUTATIONS = 999
COLUMNS = ["test", "layer", "n", "clusters", "accuracy", "low", "high", "null", "p", "rank"]


@brief
@dataclass(frozen=True)
class Reading:
    """What directions said of states whose emotion is known, layer by layer.

    Attributes:
        name: of the test.
        said: the emotion read.
        true: the emotion that is there; each as its place in `EMOTIONS`.
        clusters: what intervals resample, such as the scenario.
        blocks: within which labels are shuffled under the null: the texts' groups, or one block.
    """

    name: str
    said: Int[np.ndarray, "state layer"]
    true: Int[np.ndarray, " state"]
    clusters: Sequence[Hashable]
    blocks: Int[np.ndarray, " state"]

    @property
    def right(self) -> Bool[np.ndarray, "state layer"]:
        """Which states were read rightly."""
        return self.said == self.true[:, None]

    @property
    def confusion(self) -> Float[np.ndarray, "layer true said"]:
        """How often each emotion was read as each: rows sum to 1."""
        n = len(EMOTIONS)
        said = np.eye(n)[self.said]  # state, layer, emotion
        return np.stack([said[self.true == e].mean(0) for e in range(n)], 1)

    def table(self, seed: int = 0) -> pd.DataFrame:
        """One row a layer.

        Args:
            seed: of the bootstrap and of the shuffles.

        Returns:
            ``test``, ``layer``, ``n`` states, ``clusters``, ``accuracy`` with its 95 % interval
            ``low`` and ``high``, ``null``: the 95th percentile of `N_PERMUTATIONS` shuffles of the
            labels within blocks, ``p`` by them, and ``rank``: how many of the 720 assignments of
            the six labels fit at least as well as the true one.
        """
        found = bootstrap_mean(self.right.astype(float), seed, clusters=self.clusters)
        null = self._shuffled(seed)
        p = (1 + (null >= found.value - 1e-12).sum(0)) / (1 + len(null))
        columns: dict[str, Any] = {
            "test": self.name,
            "layer": np.arange(self.said.shape[1]),
            "n": len(self.true),
            "clusters": len(set(self.clusters)),
            "accuracy": found.value,
            "low": found.low,
            "high": found.high,
            "null": np.quantile(null, 0.95, axis=0),
            "p": p,
            "rank": self._ranks(),
        }
        return pd.DataFrame(columns, columns=COLUMNS)

    def _shuffled(self, seed: int) -> Float[np.ndarray, "shuffle layer"]:
        """Accuracy under labels shuffled within blocks."""
        rng, order = np.random.default_rng(seed), np.argsort(self.blocks, kind="stable")
        true, said, blocks = self.true[order], self.said[order], self.blocks[order]
        out = np.empty((N_PERMUTATIONS, said.shape[1]))
        for i in range(N_PERMUTATIONS):
            mixed = true[np.lexsort((rng.random(len(true)), blocks))]
            out[i] = (said == mixed[:, None]).mean(0)
        return out

    def _ranks(self) -> Int[np.ndarray, " layer"]:
        """Place of the true assignment of labels among all 720; ties count against it."""
        table, n = self.confusion, len(EMOTIONS)
        maps = np.array(list(permutations(range(n))))
        fits = np.stack([table[:, np.arange(n), one].sum(-1) for one in maps])
        return (fits >= fits[0] - 1e-12).sum(0)


def read_groups(directions: Directions, found: States, name: str) -> Reading:
    """Read complete groups, group-centred; clusters are scenarios."""
    n_groups, n = found.resid_post.shape[:2]
    said = directions.read(found.resid_post)
    return Reading(
        name,
        said.flatten(0, 1).numpy(),
        np.tile(np.arange(n), n_groups),
        [scenario for scenario in found.scenarios for _ in range(n)],
        np.repeat(np.arange(n_groups), n),
    )


def read_states(
    directions: Directions,
    x: Float[torch.Tensor, "state layer d_model"],
    emotions: Sequence[str],
    origin: Float[torch.Tensor, "layer d_model"],
    name: str,
) -> Reading:
    """Read single states less an origin, such as the mean of neutral ones; each its own cluster."""
    true = np.array([EMOTIONS.index(emotion) for emotion in emotions])
    said = directions.read(x, origin).numpy()
    return Reading(name, said, true, list(range(len(true))), np.zeros(len(true), dtype=int))


def left_out(train: States, test: States, name: str) -> Reading:
    """Read each theme by directions from the other themes, where both are of the same texts.

    With `train` itself as `test` this is the trap: where the word is visible it is near 1 from
    layer 0 on, and shows nothing more.

    Raises:
        DataError: no theme of `test` leaves any other in `train`.
    """
    readings: list[Reading] = []
    for theme in dict.fromkeys(test.themes):
        rest = [i for i, other in enumerate(train.themes) if other != theme]
        own = [i for i, other in enumerate(test.themes) if other == theme]
        if rest:
            readings.append(read_groups(Directions.of(train.only(rest)), test.only(own), name))
    if not readings:
        raise DataError(f"all groups are of the theme {test.themes[0]!r}; give a second one.")
    return joined(readings, name)


def across(found: States, pairs: Sequence[tuple[str, str]]) -> list[Reading]:
    """Read one style by directions of another, theme by theme from the other themes' texts.

    Args:
        found: groups of several styles.
        pairs: (style of the directions, style read): synonyms, frames, or both at once.
    """
    return [
        left_out(found.of_style(source), found.of_style(target), f"{source}→{target}")
        for source, target in pairs
    ]


def joined(readings: Sequence[Reading], name: str) -> Reading:
    """Several readings as one."""
    offsets = np.cumsum([0, *(int(r.blocks.max()) + 1 for r in readings)])
    return Reading(
        name,
        np.concatenate([r.said for r in readings]),
        np.concatenate([r.true for r in readings]),
        [cluster for r in readings for cluster in r.clusters],
        np.concatenate([r.blocks + at for r, at in zip(readings, offsets, strict=False)]),
    )


def tables(readings: Sequence[Reading]) -> pd.DataFrame:
    """The tables of several readings, one below the other."""
    found = [reading.table() for reading in readings]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COLUMNS)


def best_layer(readings: Sequence[Reading]) -> int:
    """The layer of the best mean accuracy over tests, smoothed over its two neighbours."""
    mean = np.mean([reading.right.mean(0) for reading in readings], 0)
    return int(np.convolve(np.pad(mean, 1, mode="edge"), np.ones(3), "valid").argmax())
