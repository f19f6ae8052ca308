"""Recording activations: what sites hold in runs of prompts, labelled by token."""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args, overload

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.data.prompts import (
    Positions,
    Prompts,
    TokenPrompt,
    as_prompts,
    batches,
    listed,
    pairs_of,
    prompts_of,
)
from interp.errors import PlanError, did_you_mean
from interp.forward.budget import check_memory, default_budget
from interp.forward.hooks import Weights, attention_weights, hooked
from interp.forward.prefix_cache import PrefixCache
from interp.forward.readout import LOGITS_AT_ONCE
from interp.interventions.binding import (
    attending_layers,
    bind,
    check_values,
    chosen_layers,
    site_layers,
)
from interp.interventions.labelled import ActivationCache, Activations, RecordedTokens
from interp.interventions.native import hooked_run
from interp.interventions.plan import AnyPlan, Plan, as_plan
from interp.model.model import Model
from interp.model.sites import PATTERN, Site, parse_site

Side = Literal["clean", "corrupt", "both"]
Values = dict[int, Float[Tensor, "*prompt_pos width"]]
"""A value for each layer."""

Layers = int | Sequence[int] | None
Places = Sequence[tuple[int, ...]]
"""Of each prompt, the positions that are recorded."""

ALL, LOGITS = "all", "logits"
"""Every site that can be patched; the model's output."""


@overload
def activations(  # pyright: ignore[reportOverlappingOverload]
    model: Model,
    prompts: Prompts,
    sites: Literal["all"] | list[str] | tuple[str, ...],
    layers: Layers = None,
    *,
    at: Positions = "all",
    side: Side = "clean",
    plan: AnyPlan = (),
) -> ActivationCache: ...


@overload
def activations(
    model: Model,
    prompts: Prompts,
    sites: str,
    layers: Layers = None,
    *,
    at: Positions = "all",
    side: Side = "clean",
    plan: AnyPlan = (),
) -> Activations: ...


def activations(
    model: Model,
    prompts: Prompts,
    sites: str | Sequence[str],
    layers: Layers = None,
    *,
    at: Positions = "all",
    side: Side = "clean",
    plan: AnyPlan = (),
) -> Activations | ActivationCache:
    """Activations of one site by layer, or of several sites of the same runs as labelled arrays.

    `Patch`, `Add` and `Ablate` take either as it is.

    Args:
        model: the model.
        prompts: texts, chat messages, token prompts, or pairs.
        sites: a site's short name, or a hook name for one layer; or ``"pattern"``, the attention
            weights after the softmax. A list of them, in which ``"all"`` stands for every site
            that can be patched and ``"logits"`` for the model's output, gives an
            `ActivationCache`; so does ``"all"`` alone.
        layers: all that have the site by default.
        at: which tokens: ``"all"``; ``"last"``, each prompt's own last token; a span's name, or
            its name with ``_last``; or token numbers. Of ``"pattern"``, which queries. One token
            of each prompt leaves no position axis.
        side: of pairs, the ``"clean"`` or the ``"corrupt"`` prompts, or ``"both"``: first all
            clean, then all corrupt ones.
        plan: interventions under which the prompts run; none by default.

    Raises:
        PlanError: a site or layer that the model does not have; `at` names no token of some
            prompt, or one beyond its end; or the plan cannot be carried out.
        OutOfMemory: what would be recorded is larger than the memory that is free.
    """
    rows, pairs = _sided(model, prompts, side)
    places = places_of(rows, at)
    tokens = tuple(tuple(model.token(t) for t in row.ids) for row in rows)
    labels = RecordedTokens(tuple(places), tokens, pairs, _one_token(at, rows))
    if isinstance(sites, str) and sites != ALL:
        if sites == LOGITS:
            raise PlanError("the logits have no layers; ask for ['logits'], a labelled array.")
        wanted = _points(model, [sites], layers)
        return _record(model, rows, wanted, False, labels, as_plan(plan))[0][0]
    names = [sites] if isinstance(sites, str) else list(sites)
    if not names:
        raise PlanError("sites is empty, so nothing would be recorded; name at least one.")
    wanted = _points(model, [name for name in names if name != LOGITS], layers)
    found, logits = _record(model, rows, wanted, LOGITS in names, labels, as_plan(plan))
    arrays = {one.site: one.array for one in found}
    if logits is not None:
        dims = ("prompt", "vocab") if labels.one else ("prompt", "pos", "vocab")
        coords = labels.coords("pos")
        arrays[LOGITS] = xr.DataArray(logits.numpy(), coords, dims, LOGITS)
    return ActivationCache(arrays, labels)


def _sided(
    model: Model, prompts: Prompts, side: Side
) -> tuple[list[TokenPrompt], tuple[tuple[str, str], ...]]:
    """Prompts in tokens; of pairs those of the sides asked for, with each one's pair and side."""
    if side not in get_args(Side):
        raise PlanError(f"unknown side {side!r}. {did_you_mean(str(side), get_args(Side))}")
    given = listed(prompts)
    pairs = pairs_of(model, given)
    if not pairs:
        if side != "clean":
            raise PlanError(f"side={side!r} is a choice for prompt pairs, and these are prompts.")
        return as_prompts(model, given), ()
    sides: list[Any] = ["clean", "corrupt"] if side == "both" else [side]
    rows = [row for one in sides for row in prompts_of(pairs, one)]
    return rows, tuple((pair.pair.id, one) for one in sides for pair in pairs)


def _points(model: Model, names: Sequence[str], layers: Layers) -> dict[Site, list[int]]:
    """The layers wanted of each site, sites in the order in which they are named."""
    wanted: dict[Site, set[int]] = {}
    for name in names:
        for one in [*model.arch.sites] if name == ALL else [name]:
            where, named = parse_site(one)
            if where is PATTERN:
                chosen = chosen_layers(model, attending_layers(model), layers, named, one)
            else:
                where, chosen = site_layers(model, one, layers)
            wanted.setdefault(where, set()).update(chosen)
    return {where: sorted(chosen) for where, chosen in wanted.items()}


def _record(
    model: Model,
    rows: Sequence[TokenPrompt],
    wanted: Mapping[Site, Sequence[int]],
    with_logits: bool,
    labels: RecordedTokens,
    plan: Plan,
) -> tuple[list[Activations], Float[Tensor, "prompt *pos vocab"] | None]:
    """Everything wanted, in one pass over the prompts."""
    n, width, keys = len(rows), labels.width, max(len(row.ids) for row in rows)
    sizes = {site: [_size(model, site, i) for i in layers] for site, layers in wanted.items()}
    shapes: dict[Site, tuple[int, ...]] = {}
    for site, own in sizes.items():
        units, each = map(max, zip(*own, strict=True))
        shape = (units, width, keys) if site is PATTERN else (width, units, each)
        shapes[site] = (len(own), n, *shape)
    logits_shape = (n, width, model.n_vocab)
    n_bytes = sum(math.prod(shape) * model.dtype.itemsize for shape in shapes.values())
    check_memory(n_bytes + 4 * math.prod(logits_shape) * with_logits, "the activations")
    stacked = {s: torch.full(shape, torch.nan, dtype=model.dtype) for s, shape in shapes.items()}
    logits = torch.full(logits_shape, torch.nan) if with_logits else None
    points, patterns = dict[tuple[Site, int], Tensor](), dict[int, Tensor]()
    for site, layers in wanted.items():
        for layer, out, (units, each) in zip(layers, stacked[site], sizes[site], strict=True):
            if site is PATTERN:
                patterns[layer] = out[:, :units]
            else:
                points[site, layer] = out[..., :units, :each]
    _run(model, rows, plan, labels.positions, points, patterns, logits)
    if labels.one:
        stacked = {site: x.squeeze(3 if site is PATTERN else 2) for site, x in stacked.items()}
        logits = None if logits is None else logits.squeeze(1)
    found = [
        Activations(stacked[site], tuple(layers), site, tuple(sizes[site]), labels)
        for site, layers in wanted.items()
    ]
    return found, logits


def _size(model: Model, site: Site, layer: int) -> tuple[int, int]:
    """How many units a site has in a layer, and how many features each."""
    if site is PATTERN:
        return model.arch.layers[layer].n_heads, 1
    units = model.n_along("expert" if site.units == "expert_neuron" else "head", site, layer)
    return units, model.width(site, layer) // units


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
    chosen = places or [tuple(range(len(row.ids))) for row in rows]
    shape = (len(rows), max(map(len, chosen)))
    out = [torch.zeros(*shape, model.width(site, n), dtype=model.dtype) for site, n in points]
    _run(model, rows, plan, chosen, dict(zip(points, out, strict=True)))
    return out


def _run(
    model: Model,
    rows: Sequence[TokenPrompt],
    plan: Plan,
    places: Places,
    points: Mapping[tuple[Site, int], Float[Tensor, "prompt pos *width"]],
    patterns: Mapping[int, Float[Tensor, "prompt head query key"]] | None = None,
    logits: Float[Tensor, "prompt pos vocab"] | None = None,
) -> None:
    """Run prompts under a plan in batches, and fill in what is recorded at each prompt's `places`.

    Hooks see what the plan wrote. Of patterns, `places` are the queries.
    """
    check_values(plan, rows)
    for group in batches(model, rows, default_budget(model)):
        part = [rows[i] for i in group]
        chosen = _Chosen(part, group, [places[i] for i in group])
        edits = [(*point, partial(chosen.fill, out)) for point, out in points.items()]
        weights: dict[int, Weights] = {}
        with torch.no_grad(), contextlib.ExitStack() as stack:
            stack.enter_context(hooked_run(model, bind(model, plan, part, group)))
            stack.enter_context(hooked(model, edits))
            if patterns:
                stack.enter_context(attention_weights(model, list(patterns), weights))
            states = PrefixCache.of(model, part, keep=False).read(model)
            for layer, found in weights.items():
                chosen.fill_patterns((patterns or {})[layer], found)
            if logits is not None:
                chosen.fill_logits(model, logits, states)


class _Chosen:
    """The tokens of a batch, padded on the left, that are recorded, and where each one goes."""

    def __init__(self, part: Sequence[TokenPrompt], group: Sequence[int], places: Places):
        width = max(len(row.ids) for row in part)
        self.part, self.group, self.places = part, group, places
        every = [(i, j, p) for i, own in enumerate(places) for j, p in enumerate(own)]
        self.row, self.slot, place = torch.tensor(every).T
        self.column = place + torch.tensor([width - len(row.ids) for row in part])[self.row]
        self.prompt = torch.tensor(group)[self.row]

    def of(self, batch: Float[Tensor, "row column width"]) -> Float[Tensor, "token width"]:
        """The chosen tokens."""
        return batch[self.row.to(batch.device), self.column.to(batch.device)]

    def fill(self, out: Float[Tensor, "prompt pos *width"], batch: Tensor) -> None:
        """Copy a site's activation, as a hook that changes nothing."""
        out[self.prompt, self.slot] = self.of(batch).reshape(-1, *out.shape[2:]).to("cpu")

    def fill_patterns(self, out: Float[Tensor, "prompt head query key"], batch: Weights) -> None:
        """Copy attention weights."""
        rows = zip(self.group, self.part, self.places, batch, strict=True)
        for i, row, places, weights in rows:
            n = len(row.ids)
            own = weights[:, -n:, -n:][:, list(places)]
            out[i, :, : len(places), :n] = own.to("cpu")

    def fill_logits(
        self, model: Model, out: Float[Tensor, "prompt pos vocab"], states: Tensor
    ) -> None:
        """Copy the logits of normed final states, some tokens at a time."""
        step = max(1, LOGITS_AT_ONCE // out.shape[-1])
        parts = (x.split(step) for x in (self.of(states), self.prompt, self.slot))
        for some, prompt, slot in zip(*parts, strict=True):
            found = model.unembed(some.to(model.unembed_device)).float()
            out[prompt, slot] = model.arch.logits_transform(found).to("cpu")
