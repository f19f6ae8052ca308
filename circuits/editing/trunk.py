"""`Trunk`: prompts of many edits, run once up to a layer, above which all runs begin.

What edits change above a layer makes no difference below it. So there prompts are run once for all
edits, and once for everything that is read or searched above.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from circuits.editing.change import Changes, under
from circuits.editing.fact_prompts import EditPrompt
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.forward.blocks import first_output
from interp.forward.budget import default_budget
from interp.forward.prefix_cache import PrefixCache, States, only_keys, separable
from interp.model.model import Model


@brief
@dataclass(frozen=True)
class TrunkRow:
    """A prompt's first `n` tokens, as they are under the changes of an edit."""

    prompt: EditPrompt
    n: int
    edit: int

    @property
    def tokens(self) -> TokenPrompt:
        """The tokens read."""
        return TokenPrompt(self.prompt.ids[: self.n])


Beginning = tuple[int, tuple[int, ...], int]
"""An edit (or the one without changes), a prompt's tokens, and how many of these are shown."""


def apart(
    edits: Sequence[Changes], owner: Sequence[int], layers: range
) -> tuple[list[Changes], list[int]]:
    """Each edit's changes in some layers; owners without any share an edit at the end of the list.

    So what they read there is the same for all of them.
    """
    here = [tuple(c for c in changes if c.layer in layers) for changes in edits]
    return [*here, ()], [i if here[i] else len(here) for i in owner]


@brief
@dataclass(frozen=True)
class Trunk:
    """What enters a layer at the tokens of prompts: those shown before them, and the rest.

    Without a layer below, or where the blocks of a model cannot be run apart, nothing is kept, and
    runs begin at the bottom.
    """

    model: Model
    layer: int
    states: dict[Beginning, tuple[States, States]] = field(repr=False)
    edits: Sequence[Changes] = field(repr=False)

    @classmethod
    @torch.no_grad()
    def of(
        cls, model: Model, readings: Sequence[TrunkRow], edits: Sequence[Changes], layer: int
    ) -> "Trunk":
        """Run prompts up to a layer, each of them once per edit that changes something below."""
        trunk = cls(model, layer, {}, edits)
        if not layer or not separable(model):
            return trunk
        longest: dict[Beginning, TrunkRow] = {}
        for reading in readings:
            at = trunk.beginning(reading)
            if at not in longest or longest[at].n < reading.n:
                longest[at] = reading
        rows = list(longest.values())
        owner = [at[0] for at in longest]
        for group in batched(rows, owner, default_budget(model)):
            some = [rows[i] for i in group]
            for reading, states in zip(some, trunk._run(some), strict=True):
                trunk.states[trunk.beginning(reading)] = states
        return trunk

    def beginning(self, reading: TrunkRow) -> Beginning:
        """What decides a reading's states: its edit, if that changes layers below, and tokens."""
        edit = reading.edit if self._changed[reading.edit] else len(self._changed)
        return edit, reading.prompt.ids, reading.prompt.n_shown

    @cached_property
    def _changed(self) -> list[bool]:
        return [any(c.layer < self.layer for c in changes) for changes in self.edits]

    def _run(self, rows: Sequence[TrunkRow]) -> list[tuple[States, States]]:
        model, below = self.model, range(self.layer)
        edits, owner = apart(self.edits, [row.edit for row in rows], below)
        begun = [
            (edit, row.prompt.ids[: row.prompt.n_shown])
            for edit, row in zip(owner, rows, strict=True)
        ]
        shown: dict[tuple[int, tuple[int, ...]], States] = {}
        heads = [head for head in dict.fromkeys(begun) if head[1]]
        if heads:
            cache = PrefixCache.of(model, [TokenPrompt(ids) for _, ids in heads], layers=below)
            shown |= zip(heads, self._left(cache, edits, [edit for edit, _ in heads]), strict=True)
        rest = self._left(_shared(model, rows, edits, owner, below), edits, owner)
        cut = (
            x[x.shape[0] - row.n + row.prompt.n_shown :] for x, row in zip(rest, rows, strict=True)
        )
        return [(shown.get(head, x[:0]), x) for head, x in zip(begun, cut, strict=True)]

    def _left(
        self, cache: PrefixCache, edits: Sequence[Changes], owner: Sequence[int]
    ) -> list[States]:
        """What the last layer below gives at the unread tokens of each row."""
        left: list[Tensor] = []

        def look(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            left.append(first_output(output))

        real = cache.mask[:, cache.n_read :]
        hook = self.model.blocks[self.layer - 1].register_forward_hook(look)
        try:
            with under(self.model, edits, torch.tensor(owner)):
                cache.read(self.model)
        finally:
            hook.remove()
        return [states[where] for states, where in zip(left[0], real, strict=True)]

    def cache(
        self, rows: Sequence[TrunkRow], edits: Sequence[Changes], owner: Sequence[int], last: int
    ) -> PrefixCache:
        """The rows in one batch, to be run from the trunk's layer to `last`; what is shown is read.

        Each is read under the changes of the edit that `owner` numbers.
        """
        if not separable(self.model):
            return _shared(self.model, rows, edits, owner, None)
        layers = range(self.layer, last + 1)
        states = [self._entering(row) for row in rows] if self.states else None
        return _shared(self.model, rows, edits, owner, layers, states)

    def _entering(self, row: TrunkRow) -> tuple[States, States]:
        shown, rest = self.states[self.beginning(row)]
        return shown, rest[: row.n - len(shown)]


def _shared(
    model: Model,
    rows: Sequence[TrunkRow],
    edits: Sequence[Changes],
    owner: Sequence[int],
    layers: range | None,
    states: Sequence[tuple[States, States]] | None = None,
) -> PrefixCache:
    """Rows in one batch, of which what is shown before the prompts is read, once for each edit."""
    if not only_keys(model):  # a tail is then the whole prompt
        return PrefixCache.of(model, [row.tokens for row in rows], keep=False)
    return PrefixCache.sharing(
        model,
        [row.tokens for row in rows],
        [row.prompt.n_shown for row in rows],
        owner=owner,
        during=lambda owners: under(model, edits, owners),
        room=0,
        layers=layers,
        states=states,
    )


def batched(rows: Sequence[TrunkRow], owner: Sequence[int], tokens: int) -> list[list[int]]:
    """Rows with, and rows without, a shared beginning, a batch of at most so many tokens.

    Those of one edit are neighbours, so that what they share is read once, and of like length.
    """
    groups: list[list[int]] = []
    longest, own = 0, [row.n - row.prompt.n_shown for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (rows[i].prompt.n_shown > 0, owner[i], own[i]))
    for i in order:
        n = own[i]
        longest = max(longest, n)
        fits = groups and (len(groups[-1]) + 1) * longest <= tokens
        if fits and bool(rows[groups[-1][0]].prompt.n_shown) == bool(rows[i].prompt.n_shown):
            groups[-1].append(i)
        else:
            groups.append([i])
            longest = n
    return groups
