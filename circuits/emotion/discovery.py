"""`Discovery`: everything found about a model's emotions, as one value and one folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.circuit import (
    Differences,
    EmotionCircuit,
    Unit,
    by_layer,
    check_model,
    manifest,
)
from circuits.emotion.data import EMOTIONS
from circuits.emotion.directions import STREAMS, Directions
from circuits.emotion.influence import Final, Influence
from circuits.emotion.scores import Kind, Scores
from circuits.emotion.selection import Circuits, Size, as_arrays, from_arrays
from interp.brief import brief
from interp.model.model import Model
from interp.results import folder

KIND = "emotion discovery"
SITES = ("z", "mlp_post")
TABLES = ("readings", "projections")


@brief
@dataclass(frozen=True)
class Settings:
    """How a discovery goes about it; the defaults are the clean preset.

    Attributes:
        styles: frames and word sets that texts take turns in.
        double_bos: chat prompts begin with two BOS tokens, as in the released code.
        normed_final: the last block's stream is read after the final norm, as released.
        normed_heads: heads of the ``paper`` presets are scored on the MLP's normed input; set
            aside for parallel blocks, which have none.
        final: where influence reads the final state.
        alphas: sizes of the nudges.
        n_neutral: neutral prompts that influence and feedback levels come from, each of another
            scenario; None: all texts.
        n_demonstrations: texts read after demonstrations, by which the layer is chosen.
        size: of the circuits.
    """

    styles: tuple[str, ...] = ("felt:A", "felt:B", "felt:C", "day:A", "day:B", "day:C")
    double_bos: bool = False
    normed_final: bool = False
    normed_heads: bool = True
    final: Final = "stream"
    alphas: tuple[float, ...] = (0.3,)
    n_neutral: int | None = 48
    n_demonstrations: int = 24
    size: Size = Size()

    @classmethod
    def paper(cls, style: str = "paper:names") -> "Settings":
        """As Wang et al. 2025 (arXiv 2510.11328) released it: use the ``paper-influence`` circuits.

        Args:
            style: a frame with a system turn that asks for the emotion, and the word set of the
                emotions' names.
        """
        return cls(
            styles=(style,),
            double_bos=True,
            normed_final=True,
            final="normed",
            alphas=(0.1, 0.3, 0.5, 0.7),
            n_neutral=None,
            n_demonstrations=0,
            size=Size(paper=True),
        )


@brief
@dataclass(frozen=True)
class Means:
    """Mean activations over all prompts, in all emotions: what mean-ablation puts in place.

    Attributes:
        z: of what the heads' output projection reads.
        mlp_post: of what the MLP's output projection reads.
    """

    z: Float[Tensor, "layer head d_head"]
    mlp_post: Float[Tensor, "layer neuron"]


@brief
@dataclass(frozen=True)
class Discovery:
    """What was found.

    Attributes:
        model, weights_hash: in what.
        settings: how.
        directions: where emotions point.
        by_style: the same of each style alone, for transfer tests.
        differences: what activations in an emotion have over the mean of all.
        means: mean activations.
        scores: ``paper`` and ``centred`` scores of all components.
        influence: of every sublayer.
        circuits: preset -> emotion -> circuit.
        references: site -> layer -> root mean square on the discovery prompts.
        low: mean cosine of neutral prompts' states with each direction.
        high: the same of prompts in the emotion.
        layer: where states are read best, by discovery data alone.
        readings: accuracy by layer of the tests that chose it, and of the trap.
        projections: states of some groups on the main axes of a few layers, for a figure.
        cost: seconds and forwards.
        provenance: versions, machine and command line, filled when saved.
    """

    model: str
    weights_hash: str
    settings: Settings
    directions: Directions
    by_style: Mapping[str, Directions]
    differences: Differences
    means: Means
    scores: Mapping[Kind, Scores]
    influence: Influence
    circuits: Mapping[str, Circuits]
    references: Mapping[str, Mapping[int, float]]
    low: Float[Tensor, "emotion layer"]
    high: Float[Tensor, "emotion layer"]
    layer: int
    readings: pd.DataFrame
    projections: pd.DataFrame
    cost: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> Float[Tensor, "emotion d_model"]:
        """v_ref of each emotion."""
        return self.directions.reference()

    def of(self, model: Model) -> "Discovery":
        """The same, which is a model's own.

        Raises:
            PlanError: it was made in other weights.
        """
        check_model("the discovery", self.model, self.weights_hash, model)
        return self

    def save(self, path: str | Path) -> Path:
        """Write a folder that names the model's weights."""
        arrays = {site: getattr(self.directions, site).numpy() for site in STREAMS}
        arrays |= {
            f"{style} {site}": getattr(own, site).numpy()
            for style, own in self.by_style.items()
            for site in STREAMS
        }
        arrays |= {f"difference_{s}": getattr(self.differences, s).numpy() for s in SITES}
        arrays |= {f"mean_{s}": getattr(self.means, s).numpy() for s in SITES}
        arrays |= as_arrays(self.scores)
        arrays |= {"influence": self.influence.values.numpy()}
        arrays |= {"low": self.low.numpy(), "high": self.high.numpy()}
        arrays |= {
            f"reference_{s}": np.array([row[layer] for layer in sorted(row)])
            for s, row in self.references.items()
        }
        said = manifest(KIND, self.model, self.weights_hash) | {
            "settings": asdict(self.settings),
            "n_groups": {s: own.n_groups for s, own in self.by_style.items()},
            "layer": self.layer,
            "cost": dict(self.cost),
            "circuits": {
                preset: {emotion: _row(circuit) for emotion, circuit in circuits.items()}
                for preset, circuits in self.circuits.items()
            },
        }
        written = {name: getattr(self, name) for name in TABLES}
        return folder.write(Path(path), said, written, arrays)

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "Discovery":
        """Read what `save` wrote; `of` tells whose it is.

        Raises:
            RunFolderError: the folder is missing or damaged.
        """
        read, tables, arrays = folder.read(path, KIND, TABLES)
        settings, counts = _settings(read["settings"]), read["n_groups"]
        t = {name: torch.from_numpy(array) for name, array in arrays.items()}
        n_layers, n_heads = t["mean_z"].shape[:2]
        sizes = t["mean_mlp_post"].shape[1], n_heads, n_layers
        return cls(
            model=read["model"],
            weights_hash=read["weights"],
            settings=settings,
            directions=Directions(
                t["resid_mid"], t["resid_post"], tuple(counts), sum(counts.values())
            ),
            by_style={
                style: Directions(t[f"{style} resid_mid"], t[f"{style} resid_post"], (style,), n)
                for style, n in counts.items()
            },
            differences=Differences(t["difference_z"], t["difference_mlp_post"]),
            means=Means(t["mean_z"], t["mean_mlp_post"]),
            scores=from_arrays(arrays),
            influence=Influence(t["influence"], settings.alphas, settings.final),
            circuits={
                preset: {emotion: _circuit(emotion, row, sizes) for emotion, row in rows.items()}
                for preset, rows in read["circuits"].items()
            },
            references={s: dict(enumerate(map(float, arrays[f"reference_{s}"]))) for s in SITES},
            low=t["low"],
            high=t["high"],
            layer=read["layer"],
            **tables,
            cost=read["cost"],
            provenance=read["provenance"] | {"weights": read["weights"]},
        )

    def summary(self) -> dict[str, Any]:
        """The main figures, for a JSON line."""
        sizes = {
            preset: {e: circuit.size for e, circuit in circuits.items()}
            for preset, circuits in self.circuits.items()
        }
        chosen = self.readings[self.readings["layer"] == self.layer]
        return {
            "emotions": list(EMOTIONS),
            "n_groups": self.directions.n_groups,
            "layer": self.layer,
            "readings": [dict(row) for _, row in chosen.drop(columns="layer").iterrows()],
            "sizes": sizes,
            "cost": dict(self.cost),
        }


def _settings(row: Mapping[str, Any]) -> Settings:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
    }
    values["size"] = Size(**row["size"])
    return Settings(**values)


def _row(circuit: EmotionCircuit) -> dict[str, Any]:
    parts = {part: circuit.units(part) for part in ("neurons", "heads")}
    return {"method": circuit.method, **{p: [list(u) for u in units] for p, units in parts.items()}}


def _circuit(emotion: str, row: Mapping[str, Any], sizes: tuple[int, int, int]) -> EmotionCircuit:
    neurons, heads = (by_layer(_units(row[part])) for part in ("neurons", "heads"))
    return EmotionCircuit(emotion, neurons, heads, *sizes, row["method"])


def _units(rows: list[list[int]]) -> list[Unit]:
    return [(layer, unit) for layer, unit in rows]
