"""Recording activations: what a site holds in runs of prompts, labelled by token."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp.data.prompts import Positions, Prompts, TokenPrompt, as_prompts, batches
from interp.errors import PlanError
from interp.forward.budget import default_budget
from interp.forward.hooks import attention_weights, hooked
from interp.forward.prefix_cache import PrefixCache
from interp.interventions.binding import (
    attending_layers,
    bind,
    check_values,
    chosen_layers,
    site_layers,
)
from interp.interventions.native import hooked_run
from interp.interventions.plan import AnyPlan, Plan, as_plan
from interp.model.model import Model
from interp.model.sites import PATTERN, Site, parse_site

Values = dict[int, Float[Tensor, "*prompt_pos width"]]
"""A value for each layer."""

Layers = int | Sequence[int] | None
Places = Sequence[tuple[int, ...]]
"""Of each prompt, the positions that are recorded."""


@dataclass(frozen=True, eq=False, repr=False)
class Activations(Mapping[int, Tensor]):
    """A site's activations by layer: ``found[8]`` is layer 8's.

    `Patch`, `Add` and `Ablate` take the whole object and write each value at the token that it was
    recorded at. A tensor taken out of it, ``found[8]``, is a value for them only where every token
    was recorded (``at="all"``); `aligned` gives a layer as such a tensor.

    Attributes:
        by_layer: layer -> [prompt, pos, width], NaN beyond a shorter prompt's last token;
            [prompt, width] where one token of each prompt was recorded. Of the site ``"pattern"``
            [prompt, head, query, key], or [prompt, head, key].
        site: the site's short name.
        positions: of each prompt, the recorded positions, counted from 0.
        tokens: all tokens of each prompt, as text.
    """

    by_layer: Mapping[int, Float[Tensor, "prompt *axes"]]
    site: str
    positions: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[str, ...], ...]

    def __getitem__(self, layer: int) -> Float[Tensor, "prompt *axes"]:
        return self.by_layer[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self.by_layer)

    def __len__(self) -> int:
        return len(self.by_layer)

    @property
    def lengths(self) -> Int[Tensor, " prompt"]:
        """How many tokens of each prompt were recorded."""
        return torch.tensor([len(places) for places in self.positions])

    def aligned(self, layer: int) -> Float[Tensor, "prompt pos width"]:
        """A layer's values at their positions in the prompt, NaN where nothing was recorded."""
        if self.site == PATTERN.name:
            raise PlanError("attention patterns can be read and cut (KnockOut), not written.")
        values = self.by_layer[layer]
        values = values[:, None] if values.ndim == 2 else values
        shape = (len(values), max(map(len, self.tokens)), values.shape[-1])
        out = values.new_full(shape, torch.nan)
        for row, value, places in zip(out, values, self.positions, strict=True):
            row[list(places)] = value[: len(places)]
        return out

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes of each layer's values."""
        n = next(iter(self.by_layer.values())).ndim
        if self.site == PATTERN.name:
            return ("prompt", "head", "query", "key") if n == 4 else ("prompt", "head", "key")
        return ("prompt", "pos", "feature") if n == 3 else ("prompt", "feature")

    def to_xarray(self) -> xr.DataArray:
        """All layers in one array: dims ``("layer", *dims)``, in fp32 where the model is bf16.

        Coordinates: ``token`` (prompt, pos), ``length`` (prompt), and ``position``, the number of
        each token in its prompt (-1 where there is none).
        """
        stacked = torch.stack(list(self.by_layer.values()))
        if stacked.dtype == torch.bfloat16:
            stacked = stacked.float()
        dims = self.dims
        axis = next((dim for dim in ("pos", "query") if dim in dims), None)
        rows = zip(self.positions, self.tokens, strict=True)
        tokens = [[row[p] for p in places] for places, row in rows]
        coords: dict[str, Any] = {"layer": list(self.by_layer), "length": ("prompt", self.lengths)}
        coords["position"] = _padded(self.positions, axis, -1)
        coords["token"] = _padded(tokens, axis, "")
        if self.site == PATTERN.name:
            coords["key_token"] = _padded(self.tokens, "key", "")
        return xr.DataArray(stacked.numpy(), coords, ("layer", *dims), self.site)

    def __repr__(self) -> str:
        first = next(iter(self.by_layer.values()))
        axes = " x ".join(f"{d} {n}" for d, n in zip(self.dims, first.shape, strict=True))
        layers = list(self.by_layer)
        shown = str(layers) if len(layers) < 6 else f"{layers[0]} to {layers[-1]}"
        return f"Activations({self.site}, layers {shown}: {axes}, {first.dtype})"

    def _repr_html_(self) -> str:
        from interp.results.token_figures import activations_html

        return activations_html(repr(self), self.positions, self.tokens)


def _padded(rows: Sequence[Sequence[Any]], axis: str | None, empty: Any) -> tuple[Any, Any]:
    """A coordinate over prompts, and over `axis` where there is one."""
    if axis is None:
        return "prompt", [row[0] for row in rows]
    width = max(map(len, rows))
    return ("prompt", axis), [[*row, *[empty] * (width - len(row))] for row in rows]


def activations(
    model: Model,
    prompts: Prompts,
    site: str,
    layers: Layers = None,
    *,
    at: Positions = "all",
    plan: AnyPlan = (),
) -> Activations:
    """A site's activations, by layer, in the model's dtype; `Patch` takes them as they are.

    Args:
        model: the model.
        prompts: texts, chat messages, token prompts, or pairs (of which the clean prompts run).
        site: a site's short name, or a hook name for one layer; or ``"pattern"``, the attention
            weights after the softmax.
        layers: all by default.
        at: which tokens: ``"all"``; ``"last"``, each prompt's own last token; a span's name, or
            its name with ``_last``; or token numbers. Of ``"pattern"``, which queries. One token
            of each prompt leaves no position axis.
        plan: interventions under which the prompts run; none by default.

    Raises:
        PlanError: a site or layer that the model does not have; `at` names no token of some
            prompt, or one beyond its end; or the plan cannot be carried out.
    """
    rows = as_prompts(model, prompts)
    where, named = parse_site(site)
    places = places_of(rows, at)
    if where is PATTERN:
        chosen = chosen_layers(model, attending_layers(model), layers, named, site)
        values = _patterns(model, rows, chosen, places, as_plan(plan))
    else:
        where, chosen = site_layers(model, site, layers)
        points = [(where, layer) for layer in chosen]
        found = recorded(model, rows, points, places, as_plan(plan))
        count = torch.tensor([len(own) for own in places])
        no_token = torch.arange(max(map(len, places))) >= count[:, None]
        found = (x.masked_fill_(no_token[:, :, None], torch.nan) for x in found)
        values = dict(zip(chosen, found, strict=True))
    if _one_token(at, rows):
        values = {layer: value.select(value.ndim - 2, 0) for layer, value in values.items()}
    tokens = tuple(tuple(model.token(t) for t in row.ids) for row in rows)
    return Activations(values, where.name, tuple(places), tokens)


def places_of(rows: Sequence[TokenPrompt], at: Positions) -> list[tuple[int, ...]]:
    """The positions of each prompt that a scope means; `PlanError` if it is none of a prompt's."""
    places = [row.positions(at) for row in rows]
    if not all(places):
        raise PlanError(f"at={at!r} covers no token of prompt {places.index(())}.")
    return places


def _one_token(at: Positions, rows: Sequence[TokenPrompt]) -> bool:
    """Whether a scope means one token of every prompt, whatever the prompt."""
    if isinstance(at, str):
        return at == "last" or (at.endswith("_last") and not any(at in row.spans for row in rows))
    return not isinstance(at, Iterable)


def site_values(
    model: Model, rows: Sequence[TokenPrompt], site: str, layers: Layers = None
) -> Values:
    """Activations as plans hold them: layer -> [prompt, pos, width], zero beyond a prompt's end."""
    where, chosen = site_layers(model, site, layers)
    found = recorded(model, rows, [(where, layer) for layer in chosen])
    return dict(zip(chosen, found, strict=True))


def recorded(
    model: Model,
    rows: Sequence[TokenPrompt],
    points: Sequence[tuple[Site, int]],
    places: Places | None = None,
    plan: Plan = Plan(),  # noqa: B008 (immutable)
) -> list[Float[Tensor, "prompt pos width"]]:
    """Activations at several points of the same runs, at each prompt's `places`; zero beyond."""
    wanted = places or [tuple(range(len(row.ids))) for row in rows]
    shape = (len(rows), max(map(len, wanted)))
    out = [torch.zeros(*shape, model.width(site, n), dtype=model.dtype) for site, n in points]
    held: dict[int, Tensor] = {}

    def keep(number: int) -> Callable[[Tensor], None]:
        return lambda activation: held.__setitem__(number, activation.clone())

    edits = [(*point, keep(number)) for number, point in enumerate(points)]
    for group in run_batches(model, rows, plan, lambda: hooked(model, edits)):
        for number, found in held.items():
            for i, activation in zip(group, found, strict=True):
                own = activation[-len(rows[i].ids) :][list(wanted[i])]
                out[number][i, : len(own)] = own.to("cpu")
    return out


def _patterns(
    model: Model, rows: Sequence[TokenPrompt], layers: Sequence[int], places: Places, plan: Plan
) -> dict[int, Float[Tensor, "prompt head query key"]]:
    """Attention weights, NaN where a prompt has no such query or key."""
    n_queries, n_keys = max(map(len, places)), max(len(row.ids) for row in rows)
    heads = {layer: model.arch.layers[layer].n_heads for layer in layers}
    out = {
        layer: torch.full((len(rows), n, n_queries, n_keys), torch.nan, dtype=model.dtype)
        for layer, n in heads.items()
    }
    held: dict[int, Tensor] = {}
    for group in run_batches(model, rows, plan, lambda: attention_weights(model, layers, held)):
        for layer, found in held.items():
            for i, weights in zip(group, found, strict=True):
                n = len(rows[i].ids)
                own = weights[:, -n:, -n:][:, list(places[i])]
                out[layer][i, :, : own.shape[1], :n] = own.to("cpu")
    return out


def run_batches(
    model: Model,
    rows: Sequence[TokenPrompt],
    plan: Plan,
    listening: Callable[[], AbstractContextManager[None]],
) -> Iterator[list[int]]:
    """Run prompts under a plan in batches, and yield each time the numbers of those just run.

    `listening` installs hooks for the length of a run; they see what the plan wrote.
    """
    check_values(plan, rows)
    for group in batches(rows, default_budget(model)):
        part = [rows[i] for i in group]
        run = bind(model, plan, part, group)
        with torch.no_grad(), hooked_run(model, run), listening():
            PrefixCache.of(model, part, keep=False).read(model)
        yield group
