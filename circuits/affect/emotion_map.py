"""`EmotionMap`: emotion vectors on their first two principal components, beside people's ratings.

Two questions per layer and rating y, over the words that have one. Does a component follow it:
Pearson's r of PC1 with valence, of PC2 with arousal? Can it be read off the vectors: r of y with
its prediction by ridge regression on the other words' vectors? Controls: permuted ratings, layer 0.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float

from circuits.affect.emotion_vectors import EmotionVectors
from circuits.affect.emotion_words import NORMS
from interp.brief import brief
from interp.results.report import Figure, Report, Section, Table, cell_text
from interp.results.result import Result
from interp.results.style import AGAINST, FOR, GREY, label, styled
from interp.statistics.correlation import correlation, pearson, ridge_left_out

FEWEST = 6
"""Words with a rating; with fewer nothing is correlated."""
N_DRAWS = 999
"""Permutations of the ratings."""
PLOT = (300, 400)
"""Width and height of the plane on a phone, in pixels, within which names must not overlap."""


def principal(
    x: Float[np.ndarray, "emotion d_model"],
) -> tuple[Float[np.ndarray, "emotion 2"], Float[np.ndarray, "2"]]:
    """Scores on the first two principal components, and the part of the variance of each."""
    left, size, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return left[:, :2] * size[:2], size[:2] ** 2 / (size**2).sum()


@brief
@dataclass(frozen=True)
class EmotionMap(Result):
    """The plane of emotions in every layer, and how it agrees with people's ratings.

    `places` has per layer and emotion the scores on PC1 (``x``) and PC2 (``y``), with signs by
    which they rise with the ratings; `table` per layer, rating and read-out the row of
    `correlation`, of ``n`` words, and for a component the part of the ``variance`` that it
    explains. `layer` is that of the vectors, chosen without ratings.
    """

    KIND: ClassVar[str] = "emotion map"
    places: pd.DataFrame = field(repr=False)
    table: pd.DataFrame = field(repr=False)
    left_out: dict[str, int]
    layer: int
    model: str

    @property
    def chosen(self) -> pd.DataFrame:
        """The rows of `table` at layer 0, the control, and at the chosen layer."""
        return self.table.loc[self.table["layer"].isin([0, self.layer])].reset_index(drop=True)

    def summary(self) -> dict[str, Any]:
        """What was left out, and `chosen`."""
        return super().summary() | {"agreement": self.chosen.to_dict("records")}

    def plot(self, layer: int | None = None) -> go.Figure:
        """The plane of one layer, by default of the chosen one."""
        own: Any = self.places[self.places["layer"] == (self.layer if layer is None else layer)]
        return draw_plane(own, f"{len(own)} emotions in {self.model}")

    def report(self) -> Report:
        """The plane, and the agreement of every layer."""
        own: Any = self.places[self.places["layer"] == self.layer].drop(columns="layer")
        here: Any = self.table[self.table["layer"] == self.layer]
        found = [f"r({one.rating}, {one.read_out}) = {one.r:.2f}" for one in here.itertuples()]
        left_out = cell_text(self.left_out)
        says = (
            "Emotion vectors on their first two principal components; blue: people rate the word "
            "as pleasant, red: as unpleasant. Names that would overlap are left out; point at a "
            "dot to read its name, or see the table."
        )
        return Report(
            title=f"A map of {len(own)} emotions in {self.model}",
            lead=f"At layer {self.layer}: {'; '.join(found) or 'too few words have a rating'}.",
            sections=[
                Section("The plane", [Figure("Emotions", says, self.plot())]),
                Section("Ratings", [Table("Layer 0 and the chosen layer", self.chosen, left_out)]),
                Section("All layers", [Table("Agreement with ratings", self.table)]),
                Section("Places", [Table("The plane", own)]),
            ],
            method=(
                "The layer was chosen by the stability of the vectors, without ratings. What "
                "agrees at layer 0 is in the words already. The ridge read-out predicts a word's "
                "rating from the other words' vectors, with one fixed penalty. Intervals are 95 %, "
                "over words; the null is the 95th percentile of r under permuted ratings, of "
                "components in absolute value, since their sign is arbitrary.",
            ),
            provenance=self.provenance,
        )


def emotion_map(found: EmotionVectors, norms: pd.DataFrame, seed: int = 0) -> EmotionMap:
    """Put emotions on a plane in every layer, and compare it with the ratings of `load_norms`.

    A word without ratings has those of its emotion's name. A rating that fewer than `FEWEST` words
    have, or all alike, is left out of the table.
    """
    both, rng = zip(found.words, found.emotions, strict=True), np.random.default_rng(seed)
    ratings: Any = norms.reindex([word if word in norms.index else name for word, name in both])
    ratings = ratings[NORMS].reset_index(drop=True)
    rated = {name: ratings[name].notna().to_numpy() for name in NORMS}
    y = {name: ratings[name].to_numpy()[some] for name, some in rated.items()}
    mixed = {k: np.stack([rng.permutation(v) for _ in range(N_DRAWS)], 1) for k, v in y.items()}
    rows, places = list[dict[str, Any]](), list[pd.DataFrame]()
    for layer, x in enumerate(found.vectors.double().numpy().transpose(1, 0, 2)):
        scores, part = principal(x)
        for column, (name, some) in enumerate(rated.items()):
            if len(y[name]) < FEWEST or np.ptp(y[name]) == 0:
                continue
            scores[:, column] *= 1 if pearson(scores[some, column], y[name]) >= 0 else -1
            own, mix = scores[some, column], mixed[name]
            left = ridge_left_out(x[some], y[name]), pearson(ridge_left_out(x[some], mix), mix)
            for read, variance, values, null in (
                (f"PC{column + 1}", part[column], own, np.abs(pearson(own[:, None], mix))),
                ("ridge, word left out", np.nan, *left),
            ):
                row = {"layer": layer, "rating": name, "read_out": read, "n": len(own)}
                row |= correlation(values, y[name], null, rng)
                rows.append(row | {"variance": variance})
        at = {"layer": layer, "emotion": found.emotions, "x": scores[:, 0], "y": scores[:, 1]}
        places.append(pd.DataFrame(at).join(ratings))
    columns = ["layer", "rating", "read_out", "n", "r", "low", "high", "null", "p", "variance"]
    left_out = {f"the word has no {name}": int((~some).sum()) for name, some in rated.items()}
    tables = pd.concat(places, ignore_index=True), pd.DataFrame(rows, columns=columns)
    return EmotionMap(*tables, left_out, found.layer, found.model)


def draw_plane(places: pd.DataFrame, title: str) -> go.Figure:
    """Emotions as dots with names, as many names as a phone has room for."""
    x, y, valence = (places[name].to_numpy() for name in ("x", "y", "valence"))
    names = places["emotion"].map(label).to_numpy()
    shown, figure = np.where(readable(x, y, list(names)), names, ""), go.Figure()
    for name, some, colour in (
        ("pleasant", valence > 0, FOR),
        ("unpleasant", valence < 0, AGAINST),
        ("not rated, or 0", np.isnan(valence) | (valence == 0), GREY),
    ):
        dots: dict[str, Any] = {"marker": {"color": colour, "size": 7}, "textfont": {"size": 11}}
        dots |= {"x": x[some], "y": y[some], "text": shown[some], "hovertext": names[some]}
        dots |= {"mode": "markers+text", "textposition": "top center", "name": name}
        figure.add_scatter(**dots, hovertemplate="%{hovertext}<extra></extra>")
    axes = {"xaxis": {"title": "PC1"}, "yaxis": {"title": "PC2"}}
    return styled(figure, title, "principal components of the vectors", height=560, **axes)


def readable(
    x: Float[np.ndarray, " dot"], y: Float[np.ndarray, " dot"], names: list[str]
) -> Bool[np.ndarray, " dot"]:
    """Which names can be written over their dots without overlap, the outermost dots first."""
    across, down = (
        (values - values.mean()) / (np.ptp(values) or 1.0) * size
        for values, size in zip((x, y), PLOT, strict=True)
    )
    half = np.array([3.4 * len(name) for name in names])  # of a name's width, at 11 pixels
    out = np.zeros(len(x), dtype=bool)
    for i in np.argsort(-np.hypot(across, down), kind="stable"):
        near = np.abs(across - across[i]) < half + half[i]
        out[i] = not (out & near & (np.abs(down - down[i]) < 14)).any()
    return out
