"""`Run`: a plan on a batch of prompts, whichever engine carries it out; `binding` makes it.

Before each forward the engine notes which tokens come in (with a KV cache only the new ones) as a
`Window`; each `BoundEdit` then rewrites those that its scope covers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.brief import brief
from interp.errors import PlanError
from interp.model.sites import Site


@brief
@dataclass(frozen=True)
class Window:
    """The tokens of one forward call.

    Attributes:
        row: of each row of the batch, which of the bound prompts it is.
        pos: position of every token so far in its own prompt, padding left out.
        start: first column that this call computes; the earlier ones are in the KV cache.
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

    `prompt` says which positions of each are in (``None``: every token there is), `rows` which
    prompts the plan is for, `decoded` whether tokens after the prompt are in.
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
class Fade:
    """How the dose of an edit ends while text is generated; fields as of `Shift`."""

    hold: int | Literal["sentence"]
    half_life: float | None = None

    def part(
        self, new: Int[Tensor, " token"], sentence: Float[Tensor, " token"]
    ) -> Float[Tensor, " token"]:
        """The part of the dose at each token, 1 at first.

        `new` is how many new tokens there are up to and with it, 0 in the prompt; `sentence` how
        many the first sentence has, infinite until it has ended.
        """
        hold = sentence if self.hold == "sentence" else torch.tensor(float(self.hold))
        behind = (new - hold + 1).clamp(min=0)
        return 0.5 ** (behind / self.half_life) if self.half_life else (behind == 0).float()


@brief
@dataclass(frozen=True)
class Rewrite:
    """What an edit does to the selected features x of a token: keep x + add - x B Bᵀ.

    Attributes:
        add: what is added: one vector, one per position, or one per prompt and position; before it
            is given to its layers, one per layer, prompt and position.
        basis: B, orthonormal directions that are projected out.
        of_norm: whether what is added (or `bounds`) is multiplied by the L2 norm of x.
        bounds: with these, x is instead moved along `add` until its coordinate
            (x - origin)·add / add·add is within them.
        origin: where that coordinate is 0, of the shape of `add`; ``None``: at zero.
    """

    keep: float = 1.0
    add: Float[Tensor, "*prompt_pos feature"] | None = None
    basis: Float[Tensor, "feature direction"] | None = None
    of_norm: bool = False
    bounds: tuple[float | None, float | None] | None = None
    origin: Float[Tensor, "*prompt_pos feature"] | None = None

    def of_layers(self, n: int) -> "list[Rewrite]":
        """The rewrite of each of `n` layers."""
        if self.add is None or self.add.ndim < 4:
            return [self] * n
        origins = [None] * n if self.origin is None else self.origin
        return [replace(self, add=a, origin=o) for a, o in zip(self.add, origins, strict=True)]

    @staticmethod
    def of_tokens(
        value: Float[Tensor, "*prompt_pos feature"] | None,
        prompt: Int[Tensor, " token"],
        pos: Int[Tensor, " token"],
    ) -> Float[Tensor, "token_or_one feature"] | None:
        """A value at each token, `prompt` and `pos` indexing the axes that there are."""
        if value is None or value.ndim == 1:
            return None if value is None else value[None]
        prompt, pos = prompt.to(value.device), pos.to(value.device)
        place = pos if value.shape[-2] > 1 else torch.zeros_like(pos)
        found = value[place] if value.ndim == 2 else value[prompt, place]
        missing = found.isnan().any(-1)
        if bool(missing.any()):
            raise PlanError(
                f"the value holds NaN for token {int(pos[missing][0])} of a prompt: nothing was "
                "recorded there (a shorter prompt, or other tokens); choose `positions` that were."
            )
        return found

    def __call__(
        self,
        x: Float[Tensor, "token feature"],
        prompt: Int[Tensor, " token"],
        pos: Int[Tensor, " token"],
        part: Float[Tensor, " token"] | None = None,
    ) -> Float[Tensor, "token feature"]:
        """The new features of some tokens; `part` of what is added, by default all."""
        # 0 x inf is not a number, and what is replaced may be infinite.
        new = x * self.keep if self.keep else torch.zeros_like(x)
        add = self.of_tokens(self.add, prompt, pos)
        if self.basis is not None:
            wide = torch.promote_types(x.dtype, torch.float32)
            basis = self.basis.to(x.device, wide)
            new = new - ((x.to(wide) @ basis) @ basis.T).to(x.dtype)
        if add is None:
            return new
        add = add.to(x.device)
        size = x.float().norm(dim=-1, keepdim=True) if self.of_norm else 1.0
        if self.bounds is not None:
            add = add.float()
            low, high = (None if one is None else one * size for one in self.bounds)
            origin = self.of_tokens(self.origin, prompt, pos)
            moved = x.float() if origin is None else x.float() - origin.to(x.device)
            now = (moved * add).sum(-1, keepdim=True) / add.square().sum(-1, keepdim=True)
            size = now.clamp(low, high) - now  # pyright: ignore[reportArgumentType, reportCallIssue]
        if part is not None:
            size = size * part.to(x.device)[:, None]
        return new + (add * size).to(x)


@brief
@dataclass(frozen=True)
class BoundEdit:
    """An edit at one site of one layer, resolved against model and prompts.

    Attributes:
        features: the features of the selected units; ``None`` for all.
        numbers: of each prompt, its entry in values that differ by prompt.
        positional: the length of the values' position axis, where they have one.
        fade: how the dose ends while text is generated; ``None``: it does not.
    """

    site: Site
    layer: int
    scope: Scope
    features: Int[Tensor, " feature"] | None
    rewrite: Rewrite
    numbers: Int[Tensor, " prompt"] | None
    positional: int | None
    fade: Fade | None = None

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
        if self.features is not None:
            where = [where[0][:, None], where[1][:, None], self.features.to(activation.device)]
        part = None
        if self.fade is not None:
            part = self.fade.part(*run.new_tokens(window.row[row], pos))
        activation[*where] = self.rewrite(activation[*where], prompt, pos, part)

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
@dataclass
class Run:
    """Plans resolved against a batch, and the tokens of the forward call under way.

    Attributes:
        edits, knock_outs: in plan order.
        lengths: of the prompts; ``None`` where any batch will do.
        rows: which of the prompts are still in the batch; ``None`` for all.
        window: the forward call under way.
        ends_sentence: whether a token ends a sentence; ``None`` where no edit asks.
        sentence: how many new tokens the first sentence of each prompt's text has, infinite until
            it has ended.
    """

    edits: list[BoundEdit]
    knock_outs: list[BoundKnockOut]
    lengths: Int[Tensor, " prompt"] | None
    rows: Int[Tensor, " row"] | None = None
    window: Window | None = None
    ends_sentence: Callable[[int], bool] | None = None
    sentence: Float[Tensor, " prompt"] = field(default_factory=lambda: torch.zeros(0))

    @property
    def tokens(self) -> Window:
        """The forward call under way."""
        if self.window is None:
            raise PlanError("a plan applies to forward passes of the whole model, not of a part.")
        return self.window

    def enter(self, ids: Tensor, mask: Tensor | None, start: int, cache: Any = None) -> None:
        """Note the tokens of a forward call; `PlanError` if they are not those of the prompts.

        `ids` are the new tokens or their embeddings, `mask` says which of all tokens so far are
        real (``None``: all), `start` how many are in the KV cache.
        """
        n = start + ids.shape[1]
        real = torch.ones(len(ids), n, dtype=torch.bool)
        if mask is not None and mask.ndim == 2:
            real = mask[:, :n].bool().cpu()
        if self.lengths is not None:
            known = self.lengths if self.rows is None else self.lengths[self.rows]
            if len(real) != len(known):
                raise PlanError(
                    f"the plan was applied to {len(known)} prompts but a batch of {len(real)} was "
                    "run."
                )
            n_real = real.sum(-1)
            for row in (n_real < known).nonzero()[:1, 0].tolist():
                raise PlanError(
                    f"the plan was applied to a prompt of {int(known[row])} tokens, but row {row} "
                    f"of the batch has {int(n_real[row])}; run the prompts that the plan was "
                    "applied to."
                )
        self.window = Window.of(real, start, cache, self.rows)
        if self.ends_sentence is not None:
            self._note_sentences(ids, self.window, self.ends_sentence)

    def new_tokens(
        self, prompt: Int[Tensor, " token"], pos: Int[Tensor, " token"]
    ) -> tuple[Int[Tensor, " token"], Float[Tensor, " token"]]:
        """How many new tokens there are up to each token, and in its text's first sentence."""
        assert self.lengths is not None  # `bind` refuses a dose that ends where they are not known
        new = (pos - self.lengths[prompt] + 1).clamp(min=0)
        known = len(self.sentence) > 0
        return new, self.sentence[prompt] if known else torch.full(new.shape, torch.inf)

    def _note_sentences(self, ids: Tensor, window: Window, ends: Callable[[int], bool]) -> None:
        """Note where first sentences end among the new tokens of a forward call."""
        assert self.lengths is not None
        if not len(self.sentence) or not window.start:
            self.sentence = torch.full((len(self.lengths),), torch.inf)
        lengths = self.lengths[window.row, None]
        decoded = window.real[:, window.start :] & (window.pos[:, window.start :] >= lengths)
        for row, column in decoded.nonzero().tolist():
            if ids.ndim != 2:
                raise PlanError(
                    "hold='sentence' needs the tokens, and embeddings were given; hold for a "
                    "number of tokens."
                )
            prompt, pos = window.row[row], window.pos[row, window.start + column]
            if torch.isinf(self.sentence[prompt]) and ends(int(ids[row, column])):
                self.sentence[prompt] = pos - self.lengths[prompt] + 1
