"""Recorded activations: tensors by layer, labelled arrays, and arrays as values that plans write.

A labelled array has the dims ``prompt``, ``layer``, ``pos`` and those of its site: ``d_model``;
``head`` and ``d_head``; ``kv_head`` and ``d_head``; ``neuron``; ``expert``, with ``d_model`` or
``neuron`` where each has several; ``feature``. Its coordinates say what each entry is: ``token``
and ``position`` (a token's text and its number in the prompt, ``""`` and -1 beyond a shorter
prompt's end, where the values are NaN), ``length``, and of pairs ``pair`` and ``side``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.data.prompts import whole_numbers
from interp.errors import PlanError, shown
from interp.model.sites import PATTERN, Site, parse_site

UNIT_AXES = {
    "d_model": ("d_model",),
    "vector": ("feature",),
    "head": ("head", "d_head"),
    "kv_head": ("kv_head", "d_head"),
    "neuron": ("neuron",),
    "expert": ("expert",),
    "expert_vector": ("expert", "d_model"),
    "expert_neuron": ("expert", "neuron"),
}
"""The axes that a site's width is made of, by its units."""

COUNTED = ("head", "kv_head", "neuron", "expert")
"""Unit axes whose entries are numbered, so that they can be selected by number."""


@brief
@dataclass(frozen=True)
class RecordedTokens:
    """What labels the prompts and positions of a recording.

    Attributes:
        positions: of each prompt, the recorded positions, counted from 0.
        tokens: all tokens of each prompt, as text.
        pairs: of each prompt, its pair's id and its side; empty where prompts are no pairs.
        one: whether one token of each prompt was recorded, so that there is no position axis.
    """

    positions: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[str, ...], ...]
    pairs: tuple[tuple[str, str], ...] = ()
    one: bool = False

    @property
    def width(self) -> int:
        """Length of the position axis."""
        return max(map(len, self.positions))

    def coords(self, pos: str) -> dict[str, Any]:
        """Coordinates of prompts and of their positions, along an axis called `pos`."""
        rows = zip(self.positions, self.tokens, strict=True)
        tokens = [[row[p] for p in places] for places, row in rows]
        axis = None if self.one else pos
        coords: dict[str, Any] = {"length": ("prompt", [len(row) for row in self.positions])}
        longest = max(self.positions, key=len)
        if axis and all(own == longest[: len(own)] for own in self.positions):
            coords[axis] = list(longest)
        coords["position"] = _padded(self.positions, axis, -1)
        coords["token"] = _padded(tokens, axis, "")
        if self.pairs:
            ids, sides = zip(*self.pairs, strict=True)
            coords |= {"pair": ("prompt", list(ids)), "side": ("prompt", list(sides))}
        return coords


def _padded(rows: Sequence[Sequence[Any]], axis: str | None, empty: Any) -> tuple[Any, Any]:
    """A coordinate over prompts, and over `axis` where there is one."""
    if axis is None:
        return "prompt", [row[0] for row in rows]
    width = max(map(len, rows))
    return ("prompt", axis), [[*row, *[empty] * (width - len(row))] for row in rows]


@dataclass(frozen=True, eq=False, repr=False)
class Activations(Mapping[int, Tensor]):
    """A site's activations by layer: ``found[8]`` is layer 8's, ``found.array`` all, labelled.

    `Patch`, `Add` and `Ablate` take the whole object, or its array, and write each value at the
    token that it was recorded at. A tensor taken out of it, ``found[8]``, is a value for them only
    where every token was recorded (``at="all"``).

    Attributes:
        stacked: [layer, prompt, pos, unit, feature], NaN beyond a shorter prompt's last token;
            without a position axis where one token of each prompt was recorded. Of the site
            ``"pattern"`` [layer, prompt, head, query, key], or [layer, prompt, head, key].
        layers: the number of each layer.
        where: the site.
        sizes: of each layer, how many units it has and how many features each; layers with
            fewer than others have NaN behind them.
        labels: the prompts and their recorded tokens.
    """

    stacked: Float[Tensor, "layer prompt *axes"]
    layers: tuple[int, ...]
    where: Site
    sizes: tuple[tuple[int, int], ...]
    labels: RecordedTokens

    def __getitem__(self, layer: int) -> Float[Tensor, "prompt *axes"]:
        if layer not in self.layers:
            raise KeyError(layer)
        number = self.layers.index(layer)
        values, (units, each) = self.stacked[number], self.sizes[number]
        if self.where is PATTERN:
            return values[:, :units]
        return values[..., :units, :each].flatten(-2)

    def __iter__(self) -> Iterator[int]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def site(self) -> str:
        """The site's short name."""
        return self.where.name

    @property
    def positions(self) -> tuple[tuple[int, ...], ...]:
        """Of each prompt, the recorded positions, counted from 0."""
        return self.labels.positions

    @property
    def tokens(self) -> tuple[tuple[str, ...], ...]:
        """All tokens of each prompt, as text."""
        return self.labels.tokens

    @property
    def lengths(self) -> Int[Tensor, " prompt"]:
        """How many tokens of each prompt were recorded."""
        return torch.tensor([len(places) for places in self.positions])

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes of each layer's values."""
        pos = () if self.labels.one else ("query" if self.where is PATTERN else "pos",)
        if self.where is PATTERN:
            return ("prompt", "head", *pos, "key")
        return ("prompt", *pos, "feature")

    @cached_property
    def array(self) -> xr.DataArray:
        """All layers as one labelled array; it shares memory, but is fp32 where these are bf16."""
        values = self.stacked.float() if self.stacked.dtype == torch.bfloat16 else self.stacked
        dims, axes = ("layer", *self.dims), UNIT_AXES[self.where.units]
        if self.where is not PATTERN:
            values = values.flatten(-2) if len(axes) == 1 else values
            dims = (*dims[:-1], *axes)
        coords = self.labels.coords("query" if self.where is PATTERN else "pos")
        coords |= {"layer": list(self.layers)}
        coords |= {a: range(n) for a, n in zip(dims, values.shape, strict=True) if a in COUNTED}
        if self.where is PATTERN:
            coords["key_token"] = _padded(self.tokens, "key", "")
        return xr.DataArray(values.numpy(), coords, dims, self.site).transpose("prompt", ...)

    def __repr__(self) -> str:
        sizes = zip(self.dims, self[self.layers[0]].shape, strict=True)
        axes, layers = " x ".join(f"{dim} {n}" for dim, n in sizes), list(self)
        listed = str(layers) if len(layers) < 6 else f"{layers[0]} to {layers[-1]}"
        return f"Activations({self.site}, layers {listed}: {axes}, {self.stacked.dtype})"

    def _repr_html_(self) -> str:
        from interp.results.token_figures import activations_html

        return activations_html(repr(self), self.positions, self.tokens)


@dataclass(frozen=True, eq=False, repr=False)
class ActivationCache(Mapping[str, xr.DataArray]):
    """Several sites of the same runs, as labelled arrays by name.

    ``cache["z"]`` has all recorded layers; ``cache["blocks.7.attn.hook_z"]`` and ``cache["z", 7]``
    are layer 7's. `Patch`, `Add` and `Ablate` take the arrays, and what is computed from them.

    Attributes:
        arrays: site -> [prompt, layer, pos, …]; ``"logits"`` -> [prompt, pos, vocab], fp32.
        labels: the prompts and their recorded tokens.
    """

    arrays: Mapping[str, xr.DataArray]
    labels: RecordedTokens = field(repr=False)

    def __getitem__(self, name: str | tuple[str, int]) -> xr.DataArray:
        if isinstance(name, tuple):
            site, layer = name
        elif name in self.arrays:
            return self.arrays[name]
        else:
            where, layer = parse_site(name)
            site = where.name
        if site not in self.arrays:
            recorded = ", ".join(self.arrays)
            raise PlanError(f"{site!r} was not recorded; the sites recorded are {recorded}.")
        array = self.arrays[site]
        if layer is None or "layer" not in array.dims or layer not in array["layer"]:
            layers = shown(array["layer"].values.tolist()) if "layer" in array.dims else "none"
            raise PlanError(f"{site!r} was not recorded in layer {layer}; its layers are {layers}.")
        return array.sel(layer=layer)

    def __contains__(self, name: object) -> bool:
        return name in self.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __repr__(self) -> str:
        n = len(self.labels.positions)
        size = sum(array.nbytes for array in self.arrays.values()) / 1e9
        sites = ", ".join([*self.arrays][:12]) + ", …" * (len(self) > 12)
        return f"ActivationCache({sites}: {n} prompts, {size:.2g} GB)"

    def _repr_html_(self) -> str:
        from interp.results.token_figures import activations_html

        lines = [
            f"{name}: " + " x ".join(f"{dim} {n}" for dim, n in array.sizes.items())
            for name, array in self.arrays.items()
        ]
        title = "\n".join([repr(self), *lines])
        return activations_html(title, self.labels.positions, self.labels.tokens)


# --- labelled arrays as values -----------------------------------------------------------------

ORDER = ("layer", "prompt", "pos")
"""Axes in front of the units, as interventions hold them."""


def written(
    array: xr.DataArray, site: str, layers: int | Sequence[int] | None, what: str
) -> tuple[tuple[int, ...] | None, Float[Tensor, "*layer_prompt_pos width"]]:
    """The layers that an array's values are for, and the values as an intervention holds them.

    Each value stands at the position that it was recorded at, NaN where nothing was. Layers are
    `layers`, the one in the site's name, or all in the array; ``None`` where it does not say.

    Raises:
        PlanError: another site, a layer that is not in it, an axis too many or too few, or
            positions that are not known.
    """
    where, named = parse_site(site)
    if PATTERN.name in (where.name, array.name):
        raise PlanError("attention patterns can be read and cut (KnockOut), not written.")
    if array.name not in (None, where.name):
        raise PlanError(
            f"{what} at {site!r} was given activations of the site {array.name!r}; record "
            f"{where.name!r}."
        )
    units = UNIT_AXES[where.units]
    order = [axis for axis in ORDER if axis in array.dims]
    if {*order, *units} != set(array.dims):
        raise PlanError(
            f"{what} at {site!r} was given an array with dims {list(array.dims)}; it takes "
            f"{list(units)}, and before them {', '.join(ORDER)} where there are any."
        )
    chosen = _layers(array, named if layers is None else layers, where.name)
    if "layer" in order:
        array = array.sel(layer=list(chosen or ()))
        if "prompt" not in order and array.sizes["layer"] > 1:
            raise PlanError(
                f"{what} at {site!r} was given one value for all prompts in each of "
                f"{array.sizes['layer']} layers; make one intervention per layer, of "
                "array.sel(layer=…)."
            )
    if bool(array.notnull().any()):
        for axis in units:  # layers with fewer units than others have NaN behind them
            array = array.dropna(axis, how="all")
    values = array.transpose(*order, *units).values
    flat = torch.from_numpy(values.reshape(*values.shape[: len(order)], -1))
    value = _at_positions(flat, array, f"{what} at {site!r}")
    alone = "layer" in order and len(value) == 1
    return chosen, value[0] if alone else value


def _layers(
    array: xr.DataArray, wanted: int | Sequence[int] | None, site: str
) -> tuple[int, ...] | None:
    """Those of the wanted layers, all by default, which the array must have if it has any."""
    numbers = None if wanted is None else whole_numbers(wanted, "layers")
    if "layer" not in array.coords:
        return numbers
    held = [int(n) for n in np.atleast_1d(array["layer"].values)]
    missing = [layer for layer in numbers or () if layer not in held]
    if missing:
        other = "" if "layer" in array.dims else " (or drop the label: .drop_vars('layer'))"
        raise PlanError(
            f"the activations of {site!r} hold layers {shown(held)}, not {missing[0]}; record "
            f"that layer{other}."
        )
    return numbers or tuple(held)


def _at_positions(
    value: Float[Tensor, "*layer_prompt_pos width"], array: xr.DataArray, what: str
) -> Float[Tensor, "*layer_prompt_pos width"]:
    """Values along the positions of their prompts, NaN where nothing was recorded.

    Without a position axis, and without prompts whose tokens are known, there is one value for
    whatever positions the intervention names.
    """
    name = next((n for n in ("position", "pos") if n in array.coords), None)
    position = None if name is None else array.coords[name]
    if "pos" not in array.dims:
        if position is None or "prompt" not in position.dims:
            return value.unsqueeze(-2) if "prompt" in array.dims else value
        value, position = value.unsqueeze(-2), position.expand_dims("pos", -1)
    if position is None:
        raise PlanError(
            f"{what} was given an array that has lost the positions of its tokens; select a token "
            "before computing with arrays of different positions, or give them back: "
            ".assign_coords(pos=[…])."
        )
    at = torch.from_numpy(np.array(position.transpose(..., "pos").values))
    # an axis of length 1 would hold for every position
    out = value.new_full((*value.shape[:-2], max(int(at.max()) + 1, 2), value.shape[-1]), torch.nan)
    found = (at >= 0).nonzero(as_tuple=True)
    out[(..., *found[:-1], at[found], slice(None))] = value[(..., *found, slice(None))]
    return out
