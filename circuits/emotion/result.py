"""`EmotionDiscovery` and `EmotionEffects`: what is found about a model's emotions, as folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.components import PARTS, ComponentScores, Influence, ScoreKind
from circuits.emotion.directions import Directions
from circuits.emotion.emotion_circuit import EmotionCircuit, SiteVectors
from circuits.emotion.emotion_settings import EffectSettings, EmotionSettings
from circuits.emotion.figures import (
    plot_circuits,
    plot_effects,
    plot_influence,
    plot_similarity,
    plot_states,
    plot_transfer,
)
from circuits.emotion.texts import EMOTIONS, TRAP, Scenario
from circuits.emotion.transfer import smoothed
from interp.brief import brief
from interp.errors import DataError, PlanError, did_you_mean, shown
from interp.interventions.steering_vector import SteeringVector
from interp.model.model import Model
from interp.results import run_folder
from interp.results.report import Figure, Part, Report, Section, Table, cell_text
from interp.results.result import Result
from interp.statistics import near_ties


@brief
@dataclass(frozen=True)
class EmotionDiscovery(Result):
    """Directions, scores, influence and circuits of a model's emotions.

    Attributes:
        texts: the scenarios that it read.
        by_style: directions of each style alone.
        differences: what activations in an emotion have over the mean of all.
        means: mean activations over all prompts.
        scores: ``paper`` and ``centred`` scores of all components.
        influence: of every sublayer.
        circuits: preset -> emotion -> circuit.
        layer: where states are read best, by discovery data alone.
        readings: accuracy by layer of the tests that chose it, and of the trap.
        projections: states of some groups on the main axes of a few layers, for a figure.
        seconds: of each stage.
    """

    KIND: ClassVar[str] = "emotion discovery"
    model: str
    weights_hash: str
    settings: EmotionSettings
    texts: tuple[str, ...]
    by_style: dict[str, Directions]
    differences: SiteVectors
    means: SiteVectors
    scores: dict[ScoreKind, ComponentScores]
    influence: Influence
    circuits: dict[str, dict[str, EmotionCircuit]]
    layer: int
    readings: pd.DataFrame
    projections: pd.DataFrame
    seconds: dict[str, float]

    @cached_property
    def directions(self) -> Directions:
        """Where emotions point: the mean over styles."""
        return Directions.pooled(list(self.by_style.values()))

    @property
    def reference(self) -> Float[Tensor, "emotion d_model"]:
        """v_ref of each emotion."""
        return self.directions.reference()

    def steering_vector(self, emotion: str) -> SteeringVector:
        """An emotion's directions as a steering vector (unit length, no origin): to save, export.

        Raises:
            PlanError: an unknown emotion.
        """
        if emotion not in EMOTIONS:
            raise PlanError(f"unknown emotion {emotion!r}. {did_you_mean(emotion, EMOTIONS)}")
        own = self.directions.resid_post[EMOTIONS.index(emotion)].float()
        layers = tuple(range(len(own)))
        return SteeringVector(own, layers, self.model, "", f"emotion direction: {emotion}")

    @property
    def fingerprint(self) -> str:
        """What stands for it in the key of a run that is made from it."""
        tensors = (self.reference, *(x for v in (self.differences, self.means) for x in v.both))
        arrays = [x.float().numpy() for x in tensors]
        return run_folder.fingerprint([self.weights_hash, self.settings, self.circuits, *arrays])

    def of(self, model: Model) -> "EmotionDiscovery":
        """The same, which is a model's own; `PlanError` where it was made in other weights."""
        if self.weights_hash != model.weights_hash:
            raise PlanError(
                f"the discovery was made in {self.model!r} with other weights than {model.name}'s; "
                "load that model, or run the discovery again."
            )
        return self

    def refuse_seen(self, scenarios: Sequence[Scenario]) -> None:
        """`DataError` where the discovery read any of these scenarios, which then test nothing."""
        if seen := sorted({scenario.text for scenario in scenarios} & {*self.texts}):
            raise DataError(
                f"{len(seen)} of the scenarios were seen in discovery, e.g. {shown(seen[0])}; "
                "give others, such as emotion_scenarios_test."
            )

    def units(self, preset: str) -> pd.DataFrame:
        """Components of one preset: ``emotion``, ``part``, ``layer``, ``unit``."""
        rows = [
            (emotion, part, *unit)
            for emotion, circuit in self.circuits[preset].items()
            for part in PARTS
            for unit in circuit.units(part)
        ]
        return pd.DataFrame(rows, columns=["emotion", "part", "layer", "unit"])

    @property
    def near_ties(self) -> str:
        """Which layers read as well as the chosen one, in words; empty where none does."""
        tests: Any = self.readings[~self.readings["test"].astype(str).str.startswith(TRAP)]
        if tests.empty:
            return ""
        found = smoothed(tests.groupby("layer")["accuracy"].mean().to_numpy(float))
        return near_ties([f"layer {at}" for at in range(len(found))], found, 0)

    def summary(self) -> dict[str, Any]:
        """The main figures, for a JSON line."""
        chosen: Any = self.readings[self.readings["layer"] == self.layer].drop(columns="layer")
        return {
            "emotions": list(EMOTIONS),
            "n_groups": self.directions.n_groups,
            "layer": self.layer,
            "near_ties": self.near_ties,
            "readings": chosen.to_dict("records"),
            "sizes": {
                preset: {emotion: circuit.size for emotion, circuit in own.items()}
                for preset, own in self.circuits.items()
            },
            "seconds": self.seconds,
        }

    def report(self) -> Report:
        """Where emotions are read, which components write them, and their circuits."""
        return Report(
            title=f"Emotions found in {self.model or 'a model'}",
            lead=f"{self.directions.n_groups} groups of texts in six emotions; states are read "
            f"best in layer {self.layer}. {self.near_ties}".strip(),
            sections=[self.section(), Section("Circuits", self._circuits())],
            method=(
                f"Styles: {', '.join(self.settings.styles)}. Directions: mean difference of an "
                "emotion's states from the mean over emotions, per text. Influence: rise of the "
                "final state along the reference direction per unit of perturbation of a "
                "sublayer's output.",
                f"Seconds: {cell_text(self.seconds)}.",
            ),
            provenance=self.provenance,
        )

    def section(self) -> Section:
        """Directions and influence, for this page and for that of a comparison."""
        n = self.directions.resid_post.shape[1]
        at: Any = self.readings[self.readings["layer"] == self.layer].drop(columns="layer")
        best = float(at["accuracy"].min()) if len(at) else float("nan")
        cosines = {
            layer: self.directions.similarity(layer).numpy()
            for layer in sorted({n // 3, self.layer, n - 1})
        }
        between = cosines[self.layer][~np.eye(len(EMOTIONS), dtype=bool)]
        values = self.influence.values.numpy()
        peaks = values.mean((0, 1)).argmax(-1).tolist()
        parts: list[Part] = [
            Figure(
                "States on the two main axes of their layer",
                "2-D PCA of last-token activations, each text's mean subtracted; one point per "
                "text and emotion. Clusters that part by colour can be told apart in that layer.",
                plot_states(self.projections),
            ),
            Figure(
                "Accuracy of reading, layer by layer",
                f"The line marks layer {self.layer}, where every test is at least "
                f"{cell_text(best)} right. Dotted: chance; dashed: 95th percentile of shuffled "
                "labels.",
                plot_transfer(self.readings, self.layer),
            ),
            Table(f"Accuracy at layer {self.layer}", at, "", {"null": "shuffled labels, 95th"}),
            Figure(
                "Cosines between directions",
                f"Blue: alike; red: opposed. In layer {self.layer} different emotions have "
                f"cosines from {cell_text(float(between.min()))} to "
                f"{cell_text(float(between.max()))}; centring alone makes their mean -0.2.",
                plot_similarity(cosines),
            ),
            Figure(
                "Influence of each sublayer on the final state",
                f"Mean over emotions, attention has most influence in layer {peaks[0]} and the "
                f"MLP in layer {peaks[1]}.",
                plot_influence(values),
            ),
        ]
        return Section("Discovery", parts)

    def _circuits(self) -> list[Part]:
        parts: list[Part] = []
        for name, circuits in self.circuits.items():
            units, (n_layers, _, n_heads) = self.units(name), circuits["anger"].shape
            own: Any = units[units["part"] == "heads"]
            heads = own.value_counts(["layer", "unit"])
            says = (
                "Left: neurons of each emotion by layer; right: how many emotions have a head. "
                f"{int((heads == len(circuits)).sum())} of {len(heads)} heads are in every "
                "emotion's circuit."
            )
            figure = plot_circuits(units, n_layers, n_heads)
            parts.append(Figure(f"Circuits: {name}", says, figure))
        return parts


@brief
@dataclass(frozen=True)
class EmotionEffects(Result):
    """Causal tests of a discovery's circuits on unseen texts.

    The table has one row per test, set of circuits and emotion; see
    `circuits.emotion.circuit_effects.necessity`.
    """

    KIND: ClassVar[str] = "emotion effects"
    model: str
    settings: EffectSettings
    table: pd.DataFrame

    @property
    def overall(self) -> pd.DataFrame:
        """The rows of all emotions together; of random sets the mean and range over draws."""
        rows: Any = self.table[self.table["emotion"] == "all"]
        chosen = rows[rows["name"] != "random"].drop(columns=["emotion", "draw"])
        random = rows[rows["name"] == "random"].groupby(["test", "name", "part", "k"], sort=False)
        columns = {"value": "mean", "low": "min", "high": "max"}
        drawn = random.agg(
            **{name: ("value", how) for name, how in columns.items()}, n=("n", "first")
        )
        order = ["test", "part", "name", "k", "value", "low", "high", "n"]
        found: Any = pd.concat([chosen, drawn.reset_index()], ignore_index=True)[order]
        return found.sort_values(["test", "part"], kind="stable", ignore_index=True)

    def summary(self) -> dict[str, Any]:
        """Necessity and sufficiency of every set of circuits, all emotions together."""
        return {"model": self.model, "tests": self.overall.to_dict("records")}

    def report(self) -> Report:
        """Necessity and sufficiency against random circuits."""
        overall = self.overall
        both: Any = overall[overall["part"] == "both"]
        every: Any = self.table[self.table["part"] == "both"]
        found = {
            name: {str(row.test): float(row.value) for row in rows.itertuples()}
            for name, rows in both.groupby("name")
        }
        figure = Figure(
            "Fraction of the emotion gap, by emotion",
            "Necessity: left after a circuit is taken out under emotion prompts; sufficiency: "
            "recovered when its vectors are added under neutral ones. Crosses: random circuits of "
            "the same layers, or the nearest where a layer has too few others, and like norm.",
            plot_effects(every),
        )
        note = "random: mean and range over draws"
        table = Table("All emotions together", overall, note, {"k": "components, at most"})
        return Report(
            title=f"Causal tests of emotion circuits in {self.model}",
            lead=f"Circuits by centred score: {cell_text(found.get('centred'))}; random circuits: "
            f"{cell_text(found.get('random'))}.",
            sections=[Section("Necessity and sufficiency", [figure, table])],
            method=(
                "Gap: how far the final states of an emotion's prompts lie above those of the "
                "other five along its reference direction, at the last token. Necessity: the "
                f"fraction left when components are set to {self.settings.fill}; 1 intact, 0 gone. "
                "Sufficiency: the fraction recovered by adding the components' difference "
                f"vectors, times {self.settings.strength:g}, under neutral prompts. Removing all "
                "heads at the last token leaves nothing in any model: compare with the random "
                "circuits.",
            ),
            provenance=self.provenance,
        )
