"""Rows that begin alike: what they share runs once an edit, and the rows go on from its cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from circuits.editing.change import Changes, under
from interp.brief import brief
from interp.forward.prefix_cache import attention_window, cache_argument
from interp.model.model import Model

Tokens = tuple[int, ...]


@brief
@dataclass(frozen=True)
class Row:
    """Tokens under an edit: a beginning that other rows may share, and the rest."""

    edit: int
    shared: Tokens
    rest: Tokens

    @property
    def whole(self) -> "Row":
        """The same tokens without a shared beginning."""
        return Row(self.edit, (), self.shared + self.rest)


@brief
@dataclass
class Run:
    """A batch of rows whose beginnings are in the cache.

    Attributes:
        ids: tokens still to be read, padded on the left.
        mask: which of all columns are real, those in the cache first.
        owner: each row's edit.
        cache: keys and values of the columns read.
    """

    ids: Int[Tensor, "row new"]
    mask: Bool[Tensor, "row pos"]
    owner: Int[Tensor, " row"]
    cache: DynamicCache

    @classmethod
    def start(
        cls, model: Model, rows: Sequence[Row], edits: Sequence[Changes], n_more: int = 0
    ) -> "Run":
        """Read what rows share; `n_more` columns are to be added later.

        Sliding windows count columns, and there is padding between a beginning and the rest, so
        where a window is shorter than the batch nothing is shared.
        """
        longest = max(len(row.shared) for row in rows) + max(len(row.rest) for row in rows)
        window = attention_window(model.hf.config)
        if window is not None and longest + n_more > window:
            rows = [row.whole for row in rows]
        begun = list(dict.fromkeys((row.edit, row.shared) for row in rows))
        number = {key: i for i, key in enumerate(begun)}
        source = torch.tensor([number[row.edit, row.shared] for row in rows], device=model.device)
        first, first_mask = left_padded(model, [shared for _, shared in begun])
        ids, mask = left_padded(model, [row.rest for row in rows])
        cache = DynamicCache()
        if first.shape[1]:
            heads = cls(first, first_mask, torch.tensor([edit for edit, _ in begun]), cache)
            with under(model, edits, heads.owner):
                heads.read(model)
            cache.batch_select_indices(source)
        owner = torch.tensor([row.edit for row in rows])
        return cls(ids, torch.cat([first_mask[source], mask], 1), owner, cache)

    def read(self, model: Model) -> Float[Tensor, "row d_model"]:
        """Read the tokens that are left; the final normed state at each row's last.

        To be called inside ``under(model, edits, run.owner)``.
        """
        positions = (self.mask.long().cumsum(-1) - 1).clamp(min=0)[:, -self.ids.shape[1] :]
        out = model.hf.base_model(
            input_ids=self.ids,
            attention_mask=self.mask.long(),
            position_ids=positions,
            use_cache=True,
            **cache_argument(model.hf.base_model, self.cache),
        )
        return out.last_hidden_state[:, -1]

    def go_on(self, tokens: Int[Tensor, " row"]) -> None:
        """Add a token to each row, to be read next."""
        self.ids = tokens[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all other rows."""
        here = rows.to(self.ids.device)
        self.cache.batch_select_indices(here)
        self.ids, self.mask, self.owner = self.ids[here], self.mask[here], self.owner[rows.cpu()]


def left_padded(
    model: Model, rows: Sequence[Tokens]
) -> tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]:
    """Token ids and which of them are real."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), model.tokenizer.pad_token_id or 0)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        if row:
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = True
    return ids.to(model.device), mask.to(model.device)
