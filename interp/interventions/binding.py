"""A plan resolved against a model and a batch of prompts, whichever engine carries it out.

`bind` checks a plan and gives a `Run`. Forward by forward the engine tells the run which tokens
come in (all of them, or with a KV cache only the new ones), as a `Window`; each `BoundEdit`
then finds the tokens that its scope covers and rewrites them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.interventions.plan import Edit, KnockOut, Plan, Positions
from interp.interventions.rewrite import Rewrite
from interp.model.model import Model
from interp.model.sites import Site


@brief
@dataclass(frozen=True)
class Window:
    """The tokens of one forward call.

    Attributes:
        pos: position of every token so far in its own prompt, padding left out.
        real: which tokens are no padding.
        start: first column that this call computes; the earlier ones are in the KV cache.
        cache: the KV cache, or ``None``.
    """

    pos: Int[Tensor, "row column"]
    real: Bool[Tensor, "row column"]
    start: int
    cache: Any = None

    @classmethod
    def of(cls, real: Bool[Tensor, "row column"], start: int = 0, cache: Any = None) -> "Window":
        """A window from the attention mask."""
        return cls((real.long().cumsum(-1) - 1).clamp(min=0), real, start, cache)

    @property
    def n_new(self) -> int:
        """How many columns this call computes."""
        return self.real.shape[1] - self.start

    def first(self, n: int) -> "Window":
        """The first `n` rows."""
        return Window(self.pos[:n], self.real[:n], self.start, self.cache)


@brief
@dataclass(frozen=True)
class Scope:
    """Positions resolved against the rows of a batch.

    Attributes:
        prompt: which prompt positions are in; ``None`` for every token there is.
        length: of each row's prompt.
        rows: which rows the plan is for.
        decoded: whether tokens after the prompt are in.
    """

    prompt: Bool[Tensor, "row pos"] | None
    length: Int[Tensor, " row"]
    rows: Bool[Tensor, " row"]
    decoded: bool

    def columns(self, window: Window) -> Bool[Tensor, "row column"]:
        """Which of the tokens so far are in."""
        if self.prompt is None:
            return window.real
        n = len(window.pos)  # a sweep's rows join layer by layer
        known = self.prompt[:n].gather(1, window.pos.clamp(max=self.prompt.shape[1] - 1))
        inside = window.pos < self.length[:n, None]
        chosen = torch.where(inside, known, torch.tensor(self.decoded))
        return chosen & window.real & self.rows[:n, None]


@brief
@dataclass(frozen=True)
class BoundEdit:
    """An edit at one site of one layer, resolved against model and prompts.

    Attributes:
        site: where.
        layer: in which block.
        scope: at which tokens.
        features: the features of the selected units; ``None`` for all.
        rewrite: the arithmetic.
        numbers: of each row's prompt, for values that differ by prompt; ``None``: its own.
        positional: the length of the values' position axis, where they have one.
    """

    site: Site
    layer: int
    scope: Scope
    features: Int[Tensor, " feature"] | None
    rewrite: Rewrite
    numbers: Int[Tensor, " row"] | None
    positional: int | None

    def __call__(self, activation: Float[Tensor, "row new width"], window: Window) -> None:
        """Edit the activation in place.

        Raises:
            PlanError: the activation is not that of the window's tokens.
        """
        if activation.shape[:2] != (len(window.real), window.n_new):
            raise PlanError(
                f"{self.site.at(self.layer)} came with shape {tuple(activation.shape)} in a pass "
                f"over {len(window.real)} x {window.n_new} tokens; plans apply to forward passes "
                "of the whole model, not to sweeps."
            )
        row, new, prompt, pos = self.tokens(window)
        if not len(row):
            return
        where = [row.to(activation.device), new.to(activation.device)]
        if self.features is not None:
            where = [where[0][:, None], where[1][:, None], self.features.to(activation.device)]
        activation[*where] = self.rewrite(activation[*where], prompt, pos)

    def tokens(self, window: Window) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The tokens edited in a forward call: row, column among the new, prompt, position.

        Raises:
            PlanError: a value with a position axis has none for one of them.
        """
        row, new = self.scope.columns(window)[:, window.start :].nonzero(as_tuple=True)
        pos = window.pos[row, new + window.start]
        self._check(row, pos)
        return row, new, row if self.numbers is None else self.numbers[row], pos

    def _check(self, row: Tensor, pos: Tensor) -> None:
        if self.positional is None:
            return
        known = self.scope.length[row] if self.scope.prompt is not None else self.positional
        if bool(((pos >= known) | (pos >= self.positional)).any()):
            raise PlanError(
                f"the value for {self.site.at(self.layer)} has a position axis of "
                f"{self.positional} and none of it belongs to token {int(pos.max())}; restrict it "
                "to positions='prompt', or give one value for all positions."
            )


@brief
@dataclass(frozen=True)
class BoundKnockOut:
    """A knock-out in one layer, resolved against model and prompts."""

    layer: int
    queries: Scope
    keys: Scope
    heads: tuple[int, ...] | None

    def cut(
        self, window: Window, n_keys: int, offset: int, n_heads: int
    ) -> Bool[Tensor, "row head query key"]:
        """Which scores become minus infinity, for the keys from column `offset` on."""
        queries = self.queries.columns(window)[:, window.start :]
        keys = self.keys.columns(window)[:, offset : offset + n_keys]
        keys = nn.functional.pad(keys, (0, n_keys - keys.shape[1]))
        cut = (queries[:, :, None] & keys[:, None, :])[:, None]
        if self.heads is None:
            return cut
        chosen = torch.zeros(n_heads, dtype=torch.bool)
        chosen[list(self.heads)] = True
        return cut & chosen[None, :, None, None]


@brief
@dataclass
class Run:
    """Plans resolved against a batch, and the tokens of the forward call under way.

    Attributes:
        edits: in plan order.
        knock_outs: in plan order.
        lengths: of the prompts in the batch; ``None`` where any batch will do.
        window: the forward call under way.
    """

    edits: list[BoundEdit]
    knock_outs: list[BoundKnockOut]
    lengths: Sequence[int] | None
    window: Window | None = None

    @property
    def tokens(self) -> Window:
        """The forward call under way."""
        if self.window is None:
            raise PlanError("a plan applies to forward passes of the whole model, not of a part.")
        return self.window

    def enter(self, ids: Tensor, mask: Tensor | None, start: int, cache: Any = None) -> None:
        """Note the tokens of a forward call.

        Args:
            ids: token ids or embeddings of the new tokens, rows first.
            mask: which of all tokens so far are real; ``None`` for all.
            start: how many tokens are in the KV cache.
            cache: the KV cache, or ``None``.

        Raises:
            PlanError: the batch is not that of the prompts.
        """
        n = start + ids.shape[1]
        real = torch.ones(len(ids), n, dtype=torch.bool)
        if mask is not None and mask.ndim == 2:
            real = mask[:, :n].bool().cpu()
        if self.lengths is not None:
            self._check_batch(real.sum(-1).tolist(), self.lengths)
        self.window = Window.of(real, start, cache)

    def _check_batch(self, run: Sequence[int], known: Sequence[int]) -> None:
        if len(run) != len(known):
            raise PlanError(
                f"the plan was applied to {len(known)} prompts but a batch of {len(run)} was run."
            )
        short = [row for row in range(len(known)) if run[row] < known[row]]
        if short:
            raise PlanError(
                f"the plan was applied to a prompt of {known[short[0]]} tokens, but row {short[0]} "
                f"of the batch has {run[short[0]]}; run the prompts that the plan was applied to."
            )


# --- resolving a plan --------------------------------------------------------------------------


def bind(
    model: Model,
    plan: Plan,
    prompts: Sequence[TokenPrompt] | None,
    numbers: Sequence[int] | None = None,
    rows: Bool[Tensor, " row"] | None = None,
) -> Run:
    """Resolve a plan against a model and a batch, and check that it can be carried out.

    Args:
        model: the model.
        plan: the plan.
        prompts: the rows of the batch; ``None`` where they are not known, which only
            interventions at all positions can do without.
        numbers: which entry of a value's prompt axis each row takes; by default its own.
        rows: which rows the plan is for; by default all.

    Raises:
        PlanError: a site, layer or unit that the model does not have.
        PlanError: a vector of the wrong width, an unknown span, a position out of range.
    """
    n = len(prompts) if prompts is not None else 0
    which = torch.ones(n, dtype=torch.bool) if rows is None else rows
    of_row = None if prompts is None else torch.tensor(numbers or range(n))
    if prompts is not None and numbers is None:
        check_values(plan, prompts)
    run = Run([], [], None if prompts is None else [len(prompt.ids) for prompt in prompts])
    for step in plan:
        if isinstance(step, KnockOut):
            run.knock_outs += _bind_knock_out(model, step, prompts, which)
        else:
            run.edits += _bind_edit(model, step, prompts, which, of_row)
    return run


def _bind_edit(
    model: Model,
    step: Edit,
    prompts: Sequence[TokenPrompt] | None,
    rows: Bool[Tensor, " row"],
    numbers: Int[Tensor, " row"] | None,
) -> list[BoundEdit]:
    site, layers = site_layers(model, step.site, step.layers)
    scope = resolve(step.positions, prompts, rows)
    features = _features(model, site, step.units)
    value = _vector(model, site, step)
    axes = _axes(step, value)
    if len(axes) == 2 and (numbers is None or bool((numbers[rows] >= axes[0]).any())):
        raise PlanError(
            f"the value for {step.site} holds one entry for each of {axes[0]} prompts; apply it "
            "to those prompts."
        )
    rewrites = step.rewrite(features).of_layers(len(layers))
    positional = axes[-1] if axes else None
    return [
        BoundEdit(site, layer, scope, features, rewrite, numbers, positional)
        for layer, rewrite in zip(layers, rewrites, strict=True)
    ]


def _axes(step: Edit, value: Tensor | None) -> tuple[int, ...]:
    """Sizes of a value's prompt and position axes, as far as it has them."""
    return () if value is None or "directions" in step.tensors else tuple(value.shape[:-1][-2:])


def check_values(plan: Plan, prompts: Sequence[TokenPrompt]) -> None:
    """Refuse values that do not belong to these prompts, before they are run batch by batch.

    Raises:
        PlanError: a value's prompt axis counts other prompts; or a value ``[n, width]``, which has
            a position axis, is as long as there are prompts and no prompt has so many tokens.
    """
    n, longest = len(prompts), max(len(prompt.ids) for prompt in prompts)
    for step in plan:
        if isinstance(step, KnockOut):
            continue
        for name in step.tensors:
            axes, what = _axes(step, getattr(step, name)), f"{type(step).__name__}.{name}"
            if len(axes) == 2 and axes[0] != n:
                raise PlanError(
                    f"{what} at {step.site!r} holds one entry for each of {axes[0]} prompts, but "
                    f"{n} {'is' if n == 1 else 'are'} run; apply it to those prompts."
                )
            if len(axes) == 1 and axes[0] == n != longest and n > 1:
                raise PlanError(
                    f"{what} at {step.site!r} has shape [{n}, width], which means {n} positions, "
                    f"but there are {n} prompts of at most {longest} tokens; for one value per "
                    "prompt, give the recorded Activations themselves or [prompt, pos, width]."
                )


def _bind_knock_out(
    model: Model, step: KnockOut, prompts: Sequence[TokenPrompt] | None, rows: Bool[Tensor, " row"]
) -> list[BoundKnockOut]:
    queries, keys = (resolve(p, prompts, rows) for p in (step.queries, step.keys))
    heads: Any = step.heads
    _check_units(heads, model.arch.n_heads, "head", model)
    return [BoundKnockOut(i, queries, keys, heads) for i in _layers(model, step.layers)]


def resolve(
    positions: Positions, prompts: Sequence[TokenPrompt] | None, rows: Bool[Tensor, " row"]
) -> Scope:
    """Which tokens a scope means in each row.

    Raises:
        PlanError: an unknown span, a number beyond a prompt's end, or prompts not known.
    """
    if prompts is None:
        if positions != "all":
            raise PlanError(
                f"positions={positions!r} needs the prompts; give them: applied(model, plan, "
                "prompts)."
            )
        return Scope(None, torch.zeros(0), rows, True)
    length = torch.tensor([len(prompt.ids) for prompt in prompts])
    table = torch.zeros(len(prompts), int(length.max()), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        if rows[row]:
            table[row, list(prompt.positions(positions))] = True
    return Scope(table, length, rows, positions in ("all", "decoded"))


def site_layers(
    model: Model, site: str, layers: int | Sequence[int] | None
) -> tuple[Site, Sequence[int]]:
    """A site, and its layers: those given, the one in its name, or all.

    Raises:
        PlanError: no such site or layer, or the name says another layer.
    """
    where, named = model.site(site)
    return where, chosen_layers(model, site, named, layers)


def chosen_layers(
    model: Model, site: str, named: int | None, layers: int | Sequence[int] | None
) -> Sequence[int]:
    """The layers given, the one that the site's name says, or all; errors as `site_layers`."""
    chosen = _layers(model, layers if named is None or layers is not None else named)
    if named is not None and tuple(chosen) != (named,):
        raise PlanError(
            f"{site!r} names layer {named}, but layers={layers}; leave one of them out."
        )
    return chosen


def _layers(model: Model, layers: int | Sequence[int] | None) -> Sequence[int]:
    given = (layers,) if isinstance(layers, int) else layers
    chosen = range(model.arch.n_layers) if given is None else given
    if not chosen:
        raise PlanError("layers is empty, so nothing would change; name at least one.")
    model.check_layers(chosen)
    return chosen


def _features(model: Model, site: Site, units: Any) -> Int[Tensor, " feature"] | None:
    """The features of the chosen heads or neurons."""
    if units is None:
        return None
    n = model.n_units(site)
    if site.units == "d_model":
        raise PlanError(f"site {site.name!r} has no heads or neurons; leave `units` out.")
    _check_units(units, n, site.units.replace("_", "-"), model)
    each = model.width(site) // n
    return torch.tensor([u * each + i for u in units for i in range(each)])


def _check_units(units: Sequence[int] | None, n: int, name: str, model: Model) -> None:
    wrong = [u for u in units or () if not 0 <= u < n]
    if wrong:
        raise PlanError(f"{name} {wrong[0]} is out of range: {model.name} has 0 to {n - 1}.")


def _vector(model: Model, site: Site, step: Edit) -> Tensor | None:
    """The tensor of an edit, checked against the site's width."""
    for name in step.tensors:
        value = getattr(step, name)
        if value is not None and value.shape[-1] != model.width(site):
            raise PlanError(
                f"{type(step).__name__}.{name} at {step.site!r} has width {value.shape[-1]}, but "
                f"the site's is {model.width(site)} (give whole vectors; `units` selects)."
            )
        return value
    return None
