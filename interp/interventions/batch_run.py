"""`Run`: a plan on a batch of prompts, whichever engine carries it out; `binding` makes it.

Forward by forward the engine tells the run which tokens come in (all of them, or with a KV cache
only the new ones), as a `Window`; each `BoundEdit` then finds the tokens that its scope covers and
rewrites them. Rows may end and leave the batch: `Run.rows` says which are still there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.brief import brief
from interp.errors import PlanError
from interp.interventions.plan import Feedback
from interp.interventions.rewrite import Rewrite
from interp.model.sites import SITES, Site


@brief
@dataclass(frozen=True)
class Window:
    """The tokens of one forward call.

    Attributes:
        row: of each row of the batch, which of the bound prompts it is.
        pos: position of every token so far in its own prompt, padding left out.
        real: which tokens are not padding.
        start: first column that this call computes; the earlier ones are in the KV cache.
        cache: the KV cache, or ``None``.
    """

    row: Int[Tensor, " row"]
    pos: Int[Tensor, "row column"]
    real: Bool[Tensor, "row column"]
    start: int
    cache: Any = None
    _tokens: dict[int, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        real: Bool[Tensor, "row column"],
        start: int = 0,
        cache: Any = None,
        row: Int[Tensor, " row"] | None = None,
    ) -> "Window":
        """A window from the attention mask; by default of all prompts in order."""
        pos = (real.long().cumsum(-1) - 1).clamp(min=0)
        return cls(torch.arange(len(real)) if row is None else row, pos, real, start, cache)

    @property
    def n_new(self) -> int:
        """How many columns this call computes."""
        return self.real.shape[1] - self.start

    def first(self, n: int) -> "Window":
        """The first `n` rows."""
        return Window(self.row[:n], self.pos[:n], self.real[:n], self.start, self.cache)

    def tokens(self, scope: "Scope") -> tuple[Tensor, ...]:
        """Row and, among the new ones, column of the tokens in a scope."""
        if id(scope) not in self._tokens:
            self._tokens[id(scope)] = scope.columns(self, self.start).nonzero(as_tuple=True)
        return self._tokens[id(scope)]


@brief
@dataclass(frozen=True)
class Scope:
    """Positions resolved against the prompts of a batch.

    Attributes:
        prompt: which positions of each are in; ``None`` for every token there is.
        length: of each prompt.
        rows: which prompts the plan is for.
        decoded: whether tokens after the prompt are in.
    """

    prompt: Bool[Tensor, "prompt pos"] | None
    length: Int[Tensor, " prompt"]
    rows: Bool[Tensor, " prompt"]
    decoded: bool

    def columns(self, window: Window, start: int = 0) -> Bool[Tensor, "row column"]:
        """Which of the tokens from column `start` on are in."""
        real, pos, row = window.real[:, start:], window.pos[:, start:], window.row
        if self.prompt is None:
            return real
        known = self.prompt[row].gather(1, pos.clamp(max=self.prompt.shape[1] - 1))
        chosen = torch.where(pos < self.length[row, None], known, torch.tensor(self.decoded))
        return chosen & real & self.rows[row, None]


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
        numbers: of each prompt, its entry in values that differ by prompt.
        positional: the length of the values' position axis, where they have one.
        dosed: whether it follows the plan's `Feedback`.
    """

    site: Site
    layer: int
    scope: Scope
    features: Int[Tensor, " feature"] | None
    rewrite: Rewrite
    numbers: Int[Tensor, " prompt"] | None
    positional: int | None
    dosed: bool = False

    def __call__(self, activation: Float[Tensor, "row new width"], run: "Run") -> None:
        """Edit the activation, which must be that of the forward call under way, in place."""
        window = run.tokens
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
        dose = run.dose_at(row, new) if self.dosed else None
        if self.features is not None:
            where = [where[0][:, None], where[1][:, None], self.features.to(activation.device)]
        activation[*where] = self.rewrite(activation[*where], prompt, pos, dose)

    def tokens(self, window: Window) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The tokens edited in a forward call: row, column among the new, entry, position."""
        row, new = window.tokens(self.scope)
        pos, prompt, n = window.pos[row, new + window.start], window.row[row], self.positional
        if n is not None:
            known = n if self.scope.prompt is None else self.scope.length[prompt].clamp(max=n)
            if bool((pos >= known).any()):
                raise PlanError(
                    f"the value for {self.site.at(self.layer)} has a position axis of {n} and "
                    f"none of it belongs to token {int(pos.max())}; restrict it to "
                    "positions='prompt', or give one value for all positions."
                )
        return row, new, prompt if self.numbers is None else self.numbers[prompt], pos


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
        queries = self.queries.columns(window, window.start)
        keys = self.keys.columns(window, offset)[:, :n_keys]
        keys = nn.functional.pad(keys, (0, n_keys - keys.shape[1]))
        cut = (queries[:, :, None] & keys[:, None, :])[:, None]
        if self.heads is None:
            return cut
        chosen = torch.zeros(n_heads, dtype=torch.bool)
        chosen[list(self.heads)] = True
        return cut & chosen[None, :, None, None]


@brief
@dataclass(frozen=True)
class BoundFeedback:
    """Reads the residual stream after a layer, and sets the dose of each row's next token."""

    step: Feedback
    numbers: Int[Tensor, " prompt"]
    layer: int
    site: Site = SITES["resid_post"]

    def __call__(self, activation: Float[Tensor, "row new width"], run: "Run") -> None:
        """Read; the activation stays as it is."""
        step, entry = self.step, self.numbers[run.tokens.row]
        held = (step.directions, step.low, step.high)
        direction, low, high = (value[entry].to(activation.device).float() for value in held)
        cosine = nn.functional.cosine_similarity(activation[:, -1].float(), direction, dim=-1)
        run.set_dose(((high - cosine) / (high - low)).clamp(0.0, step.most))


@brief
@dataclass
class Run:
    """Plans resolved against a batch, and the tokens of the forward call under way.

    Attributes:
        edits: in plan order.
        knock_outs: in plan order.
        feedback: of the plan, if any.
        lengths: of the prompts; ``None`` where any batch will do.
        rows: which of the prompts the batches that are run have; ``None`` for all.
        window: the forward call under way.
        dose: of each prompt at each column so far, where the plan has feedback.
    """

    edits: list[BoundEdit]
    knock_outs: list[BoundKnockOut]
    feedback: list[BoundFeedback]
    lengths: Int[Tensor, " prompt"] | None
    rows: Int[Tensor, " row"] | None = None
    window: Window | None = None
    dose: Float[Tensor, "prompt column"] | None = None

    @property
    def tokens(self) -> Window:
        """The forward call under way."""
        if self.window is None:
            raise PlanError("a plan applies to forward passes of the whole model, not of a part.")
        return self.window

    def enter(self, ids: Tensor, mask: Tensor | None, start: int, cache: Any = None) -> None:
        """Note the tokens of a forward call; `PlanError` if they are not those of the prompts.

        Args:
            ids: token ids or embeddings of the new tokens, rows first.
            mask: which of all tokens so far are real; ``None`` for all.
            start: how many tokens are in the KV cache.
            cache: the KV cache, or ``None``.
        """
        n = start + ids.shape[1]
        real = torch.ones(len(ids), n, dtype=torch.bool)
        if mask is not None and mask.ndim == 2:
            real = mask[:, :n].bool().cpu()
        if self.lengths is not None:
            known = self.lengths if self.rows is None else self.lengths[self.rows]
            _check_batch(real.sum(-1).tolist(), known.tolist())
        self.window = Window.of(real, start, cache, self.rows)

    def dose_at(self, row: Tensor, new: Tensor) -> Float[Tensor, " token"] | None:
        """The dose at some of the new tokens."""
        if self.dose is None:
            return None
        at = (self.tokens.row[row], new + self.tokens.start)
        return self.dose[tuple(index.to(self.dose.device) for index in at)]

    def set_dose(self, dose: Float[Tensor, " row"]) -> None:
        """Set the dose of the token that comes next in each row."""
        n, row = self.tokens.real.shape[1], self.tokens.row.to(dose.device)
        known = dose.new_ones(len(dose) if self.lengths is None else len(self.lengths), n + 1)
        if self.dose is not None:
            known[:, :n] = self.dose[:, :n]
        known[row, n] = dose
        self.dose = known


def _check_batch(run: Sequence[int], known: Sequence[int]) -> None:
    """Compare the lengths of a batch's rows with those of the prompts."""
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
