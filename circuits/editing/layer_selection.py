"""`LayerSelection`: the layers that the ACE presets edit, chosen for a model; shipped for some."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from circuits.editing.change import Place
from circuits.editing.edit import ledger
from circuits.editing.methods import QUERY_NEURONS, VALUE_NEURONS
from interp.brief import brief
from interp.errors import DataError
from interp.model.model import Model
from interp.results.folder import reading
from interp.results.report import Figure, Part, Report, Section, Table, cell_text
from interp.results.result import Result
from interp.results.style import BLUE, GREY, styled
from interp.statistics.ties import near_ties, rounding

SHIPPED = Path(__file__).with_name("layer_selections")
"""Chosen for built-in models on the design half of the shipped ``multihop_chains``."""
RISE = 0.05
"""Half of the match score over which neurons rise."""


@brief
@dataclass(frozen=True)
class LayerSelection(Result):
    """The layers that were chosen for a two-stage edit.

    Attributes:
        query: layers where the subject's own token is written.
        value: deeper layers where the last token of a two-hop prompt is written.
        covariances: by layer, the covariance within facts of what its FFN reads
            (`circuits.editing.moments.within_fact`); without them queries are small over text.
        threshold: match score at which value neurons write half of their target, if chosen.
        direct_threshold: the same of facts without implicit phrases; without it value neurons
            leave these out.
        until: mean negative log-likelihood of the target at which the query neurons' search ends.
        separation: by deep layer, how well match scores tell questions through a fact from others
            (AUROC).
        weights_hash: of the weights without any edit, rounded to bfloat16: the same in float32.
    """

    KIND = "layer selection"

    query: tuple[int, ...]
    value: tuple[int, ...]
    by: str = ""
    covariances: dict[int, Float[torch.Tensor, "d_model d_model"]] = field(
        default_factory=dict, repr=False, compare=False
    )
    threshold: float | None = None
    direct_threshold: float | None = None
    until: float = QUERY_NEURONS.search.until
    separation: dict[int, float] = field(default_factory=dict, repr=False)
    model: str = ""
    weights_hash: str = ""

    def __post_init__(self) -> None:
        both = sorted({*self.query} & {*self.value})
        if both:
            raise DataError(
                f"layers {both} are to be both query and value layers; give other ones."
            )
        for name in ("threshold", "direct_threshold", "until"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise DataError(f"{name} is {value}; give a number, 0 or more.")

    @property
    def ramp(self) -> tuple[float, float]:
        """Match scores at which value neurons begin and have ceased to rise."""
        if self.threshold is None:
            return VALUE_NEURONS.ramp
        return self.threshold - RISE, self.threshold + RISE

    @property
    def direct_ramp(self) -> tuple[float, float] | None:
        """The same of facts without implicit phrases."""
        at = self.direct_threshold
        return None if at is None else (at - RISE, at + RISE)

    @property
    def moments(self) -> dict[Place, torch.Tensor]:
        """The covariances by the projection that reads."""
        return {("gate", layer): found.double() for layer, found in self.covariances.items()}

    def summary(self) -> dict[str, Any]:
        """What was chosen, without the covariances."""
        return {
            "query": list(self.query),
            "value": list(self.value),
            **self.named("by", "threshold", "direct_threshold", "until"),
            "separation": {str(layer): value for layer, value in self.separation.items()},
        }

    def section(self) -> Section:
        """The chosen layers, and the picture of what chose them, where that is known."""
        parts: list[Part] = [
            f"Query layers {cell_text(self.query)}; value layers {cell_text(self.value)}. Chosen "
            f"by: {self.by}."
        ]
        if not self.separation:
            return Section("Layers", parts)
        best = max(self.separation, key=lambda layer: self.separation[layer])
        caption = (
            f"Blue: the value layers. The largest separation is "
            f"{cell_text(self.separation[best])}, in layer {best}. Separation: area under the ROC "
            "curve; .5 is chance, 1 tells them apart without error. "
        )
        names = [f"layer {at}" for at in self.separation]
        caption += near_ties(names, [*self.separation.values()], rounding(1))
        figure = plot_separation(self.separation, self.value, self.model)
        title = "Separation of a fact's questions from others"
        parts.append(Figure(title, caption.strip(), figure))
        return Section("Why these layers", parts)

    def report(self) -> Report:
        """The layers chosen for the ACE presets, and why."""
        settings = {
            "query layers": list(self.query),
            "value layers": list(self.value),
            "match score at which value neurons are half active": self.threshold,
            "the same, of facts without implicit names": self.direct_threshold,
            "NLL at which the search for query neurons ends": self.until,
        }
        rows = [{"setting": name, "value": cell_text(value)} for name, value in settings.items()]
        return Report(
            title=f"Layers for edits of {self.model}",
            lead=f"Query layers {cell_text(self.query)}; value layers {cell_text(self.value)}.",
            sections=[
                Section("Settings", [Table("What was chosen", pd.DataFrame(rows))]),
                self.section(),
            ],
            method=(f"Chosen by: {self.by or 'not recorded'}.",),
            provenance=self.provenance | {"weights": self.weights_hash},
        )


def plot_separation(
    separation: Mapping[int, float], chosen: Collection[int], model: str
) -> go.Figure:
    """How well each deep layer tells a fact's questions from others."""
    figure = go.Figure()
    for name, colour, mine in (("value layers", BLUE, True), ("others", GREY, False)):
        at = [layer for layer in separation if (layer in chosen) is mine]
        y = [separation[layer] for layer in at]
        figure.add_bar(x=at, y=y, name=name, marker={"color": colour})
    return styled(
        figure,
        f"{model}: which layer tells a fact's questions from others",
        xaxis={"title": "layer", "dtick": 1},
        yaxis={"title": "separation (AUROC; .5 is chance)", "range": [0.5, 1]},
        height=380,
    )


def selection_for(model: Model, path: Path | None, *methods: str) -> LayerSelection | None:
    """The layers for the methods that need some, from a folder or, of a built-in model, shipped.

    Raises `DataError` where there are none for this model, or they are another model's.
    """
    if not any(name.startswith("ace") for name in methods):
        return None
    if path is None:
        if model.name not in {at.name for at in SHIPPED.iterdir()}:
            raise _unselected("the package has no layers", model)
        path = SHIPPED / model.name
    found = LayerSelection.load(path)
    with ledger(model).suspended(model):
        own = model.hash_in(torch.bfloat16)
    if found.weights_hash != own:
        raise _unselected(f"{path} has the layers of {found.model!r}, other weights", model)
    with reading(path):
        model.check_layers([*found.query, *found.value])
    return found


def _unselected(why: str, model: Model) -> DataError:
    return DataError(
        f"{why}; choose those of {model.name} with `interp edit place --model {model.name} --cases "
        "… --out layers` and give --placement layers."
    )
