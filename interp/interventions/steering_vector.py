"""`SteeringVector`: a direction per layer, in units of the texts that it was made from."""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.brief import brief
from interp.data.prompts import Positions, Prompts, as_prompts
from interp.errors import PlanError
from interp.interventions.batch_run import Run
from interp.interventions.control_vector import read_control_vector, write_control_vector
from interp.interventions.native import applied
from interp.interventions.plan import Add, Clamp, Plan
from interp.interventions.recording import activations
from interp.model.model import Model
from interp.results.result import Result
from interp.statistics import wilson

if TYPE_CHECKING:
    from interp.results.report import Report

SITE = "resid_post"


@brief
@dataclass(frozen=True, eq=False)
class SteeringVector(Result):
    """A vector v per layer of the residual stream behind a block (``resid_post``).

    Made of contrast pairs, v leads from the mean of the negative texts to that of the positive
    ones (along the direction, where that is a principal component): the coordinate
    (x - origin)·v / v·v is 0 on average over the negative and 1 over the positive texts.

    Attributes:
        vectors: in the order of `layers`.
        layers: counted from 0.
        model: the model that it was made on.
        family: its ``model_type``, such as ``qwen2``.
        method: how it was made.
        n_pairs: contrast pairs that it was made from; 0 where it was not made here.
        origin: v times the mean coordinate of the negative texts, counted from zero; ``None``
            where it is not known, as of an imported vector.
        norms: per layer, the mean L2 norm of the states that were read (of several tokens of a
            text, of their mean).
        ordered: per layer, in how many of the pairs the positive text has the larger coordinate on
            a direction made of other pairs.
    """

    KIND = "steering vector"

    vectors: Float[Tensor, "layer d_model"]
    layers: tuple[int, ...]
    model: str
    family: str
    method: str
    n_pairs: int = 0
    origin: Float[Tensor, "layer d_model"] | None = None
    norms: tuple[float, ...] | None = None
    ordered: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.vectors) or sorted(set(self.layers)) != [*self.layers]:
            raise PlanError(
                f"a steering vector has {len(self.vectors)} vectors for layers {self.layers}; "
                "give one per layer, layers in rising order."
            )
        empty = [n for n, v in zip(self.layers, self.vectors, strict=True) if not bool(v.any())]
        if empty or not bool(torch.isfinite(self.vectors).all()):
            raise PlanError(
                f"a steering vector holds NaN or infinity, or is zero in layers {empty}: the two "
                "sides do not differ there; leave these layers out, or read another token."
            )

    def __getitem__(self, layer: int) -> Float[Tensor, " d_model"]:
        """The vector of one layer."""
        return self.vectors[self._row(layer)]

    def _row(self, layer: int) -> int:
        if layer not in self.layers:
            raise PlanError(f"no vector for layer {layer}; this one has {self.layers}.")
        return self.layers.index(layer)

    # --- steering ------------------------------------------------------------------------------

    def plan(
        self,
        dose: float | Mapping[int, float] = 1.0,
        layers: int | Sequence[int] | None = None,
        *,
        relative: Literal["norm"] | None = None,
        arrive: bool = False,
        positions: Positions = "all",
        hold: int | Literal["sentence"] | None = None,
        half_life: float | None = None,
    ) -> Plan:
        """The plan that steers with this vector, for `interp.generate`, forwards, and `applied`.

        Args:
            dose: times the vector; or one per layer, by layer.
            layers: all of the vector's by default.
            relative: ``"norm"``: the dose is in units of the norm of the residual stream at each
                token (of the unit vector), in place of the length of the vector.
            arrive: add only what is missing until the coordinate is the dose (1: where the
                positive texts are), or with ``relative="norm"`` until the projection on the
                direction is the dose times the norm; a state that is beyond stays.
            positions: which tokens; ``"generating"`` leaves all but the last token of the prompt.
            hold: how many new tokens get the full dose, or ``"sentence"``: those of the first.
            half_life: behind them, the dose halves every so many tokens; ``None``: it is off at
                once.

        Raises:
            PlanError: no such layer; or arrival of a vector that does not know where its texts
                are, or at a dose that is not positive.
        """
        if isinstance(dose, Mapping) and layers is not None:
            raise PlanError("the dose names layers; leave `layers` out.")
        chosen = (layers,) if isinstance(layers, int) else layers
        chosen = self.layers if chosen is None else chosen
        doses = dose if isinstance(dose, Mapping) else dict.fromkeys(chosen, dose)
        if not doses:
            raise PlanError("the plan steers in no layer; name one, or leave `layers` out for all.")
        if arrive and relative is None and self.origin is None:
            raise PlanError(
                "this vector does not know where its texts are (it was imported or combined), so "
                "no state can arrive there; give relative='norm', or no `arrive`."
            )
        if arrive and min(doses.values()) <= 0:
            raise PlanError("a state arrives at a positive dose; for the other side, use -vector.")
        where: dict[str, Any] = {"positions": positions, "hold": hold, "half_life": half_life}
        steps: list[Add | Clamp] = []
        for layer, own in doses.items():
            row = self._row(layer)
            v, origin = self.vectors[row], None if self.origin is None else self.origin[row]
            if relative is not None:
                v, origin = v / v.norm(), None
            here: dict[str, Any] = where | {"layers": layer, "relative": relative}
            steps.append(
                Clamp(SITE, v, own, origin=origin, **here) if arrive else Add(SITE, v, own, **here)
            )
        return Plan.of(*steps)

    @contextlib.contextmanager
    def applied(
        self,
        model: Model,
        dose: float | Mapping[int, float] = 1.0,
        *,
        prompts: Prompts | None = None,
        **options: Any,
    ) -> Generator[Run]:
        """Steer every forward pass of ``model.hf`` inside the ``with`` block.

        `dose` and `options` as of `plan`. `prompts` are the rows that will be run; without them
        every token is steered, and `hold` is refused.
        """
        with applied(model, self.plan(dose, **options), prompts) as run:
            yield run

    def coordinates(self, model: Model, prompts: Prompts, at: Positions = "last") -> xr.DataArray:
        """Where texts are along the vector: dims (prompt, layer).

        0 is the mean of the negative, 1 that of the positive texts; without an origin, the
        coordinate is counted from zero. `at` as in `mean_states`.
        """
        states = mean_states(model, prompts, self.layers, at)
        origin = torch.zeros_like(self.vectors) if self.origin is None else self.origin
        v = self.vectors.double()
        found = ((states - origin.double()) * v).sum(-1) / v.square().sum(-1)
        coords = {"layer": list(self.layers)}
        return xr.DataArray(found.numpy(), coords, ("prompt", "layer"), "coordinate")

    # --- arithmetic ----------------------------------------------------------------------------

    def only(self, layers: int | Sequence[int]) -> Self:
        """The same for some of its layers."""
        some = (layers,) if isinstance(layers, int) else tuple(sorted(layers))
        rows = [self._row(layer) for layer in some]

        def part(values: tuple[Any, ...] | None) -> Any:
            return None if values is None else tuple(values[row] for row in rows)

        origin = None if self.origin is None else self.origin[rows]
        own = {"norms": part(self.norms), "ordered": part(self.ordered), "origin": origin}
        return replace(self, vectors=self.vectors[rows], layers=some, **own)

    def __neg__(self) -> Self:
        """From the positive to the negative texts."""
        origin = None if self.origin is None else self.origin + self.vectors
        return replace(self, vectors=-self.vectors, origin=origin)

    def __mul__(self, factor: float) -> Self:
        """Longer or shorter, from the same origin; by a negative number, the reverse."""
        if factor < 0:
            return -self * -factor
        return replace(self, vectors=self.vectors * factor)

    __rmul__ = __mul__

    def __add__(self, other: "SteeringVector") -> Self:
        """The sum of two vectors of the same layers, without an origin."""
        if self.layers != other.layers or self.vectors.shape != other.vectors.shape:
            raise PlanError(
                f"vectors of layers {self.layers} and {other.layers}, of widths "
                f"{self.vectors.shape[1]} and {other.vectors.shape[1]}, cannot be added."
            )
        method = f"{self.method} + {other.method}"
        return replace(
            self,
            vectors=self.vectors + other.vectors,
            method=method,
            n_pairs=0,
            origin=None,
            norms=None,
            ordered=None,
        )

    def __sub__(self, other: "SteeringVector") -> Self:
        """The difference of two vectors of the same layers, without an origin."""
        return replace(self + -other, method=f"{self.method} - {other.method}")

    # --- files and pages -----------------------------------------------------------------------

    def export_gguf(self, path: str | Path, dose: float = 1.0) -> Path:
        """Write dose x vector as a control vector of llama.cpp, which adds it at every token.

        Raises:
            PlanError: there is a vector for layer 0, which llama.cpp does not read.
        """
        scaled = dict(zip(self.layers, self.vectors * dose, strict=True))
        return write_control_vector(path, scaled, self.family)

    @classmethod
    def import_gguf(cls, path: str | Path) -> Self:
        """Read a control vector of llama.cpp or repeng; `DataError` where it is not one."""
        found, family = read_control_vector(path)
        return cls(torch.stack([*found.values()]), tuple(found), family, family, "imported")

    def table(self) -> pd.DataFrame:
        """One row per layer.

        ``length`` of the vector; ``part_of_norm``: length / mean norm of the states read;
        ``held_out``: fraction of the pairs that a direction made of other pairs puts in the right
        order, with its 95 % Wilson interval ``low`` to ``high``.
        """
        frame = pd.DataFrame({"layer": self.layers, "length": self.vectors.norm(dim=1).tolist()})
        if self.norms is not None:
            frame["part_of_norm"] = frame["length"] / list(self.norms)
        if self.ordered is not None:
            rates = [wilson(k, self.n_pairs) for k in self.ordered]
            for name, field in (("held_out", "value"), ("low", "low"), ("high", "high")):
                frame[name] = [float(getattr(rate, field)) for rate in rates]
        return frame

    def summary(self) -> dict[str, Any]:
        """What it was made of, and its rows per layer."""
        plain = self.named("model", "method", "n_pairs")
        return {"kind": self.KIND, **plain, "layers": self.table().to_dict("records")}

    def report(self) -> "Report":
        """Its table."""
        from interp.results.report import Report, Section, Table

        table = Table("Layers", self.table(), names={"part_of_norm": "part of the stream's norm"})
        return Report(
            title=f"Steering vector of {self.model}",
            lead=f"{len(self.layers)} layers, made by {self.method} of {self.n_pairs} pairs.",
            sections=[Section("Per layer", [table])],
            method=[
                "The vector leads from the mean of the negative texts to that of the positive "
                "ones, in the residual stream behind each block. Held out: fraction of pairs whose "
                "positive text has the larger coordinate on a direction made of other pairs, with "
                "its 95 % Wilson interval."
            ],
            provenance=self.provenance,
        )


def mean_states(
    model: Model, prompts: Prompts, layers: Sequence[int], at: Positions
) -> Float[Tensor, "prompt layer d_model"]:
    """States behind some blocks in fp64, the mean over the tokens `at` of each prompt.

    ``"prompt"`` leaves out the first token: every token attends to it, and its state is many times
    as large as others. `PlanError` where no other is left.
    """
    rows = as_prompts(model, prompts)
    if at == "prompt":
        spans = [{**row.spans, "rest": tuple(range(1, len(row.ids)))} for row in rows]
        rows = [replace(row, spans=own) for row, own in zip(rows, spans, strict=True)]
        at = "rest"
    found = activations(model, rows, SITE, list(layers), at=at)
    states = torch.stack([found[layer].double() for layer in layers], 1)
    return states if states.ndim == 3 else states.nanmean(2)
