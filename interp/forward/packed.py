"""The packed batch: many patched runs as rows of one batch that grows layer by layer.

A row is one prompt with one intervention. It joins the batch at the first layer its intervention
touches, and holds only the tokens from its first changed position on: with causal attention
nothing before that position, and nothing below that layer, can differ from the unpatched run,
whose own row is in the batch from the start. Each layer is called once, on the tokens that may
differ, packed without padding into one sequence::

                        base 0     base 1   row a  row b   row c
    layers 5 to 11    | A B C D E | F G H | D'E' | C'D'E' | G'H' |   row c joins at layer 5
    layers 2 to 4     | A B C D E | F G H | D'E' | C'D'E' |          a and b join at layer 2
    layers 0 and 1    | A B C D E | F G H |                          the prompts, unpatched

In attention row b reads the keys of A B C'D'E': its own, and before them its base row's.

Models whose attention does not go through transformers' attention interface (GPT-J) run the same
batch with whole, padded rows and the masks as Hugging Face made them.
"""

import contextlib
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.brief import brief
from interp.errors import ModelError
from interp.forward.argument_axes import ArgumentAxes, BlockState, mapped
from interp.forward.blocks import first_output
from interp.forward.hooks import hooked
from interp.forward.layer_calls import LayerCalls, arguments_of
from interp.model.model import Model
from interp.model.sites import SITES, Site

ROWS_ATTENTION = "interp_rows"


@brief
@dataclass(frozen=True)
class Rows:
    """The rows of a batch, ordered by the layer they enter; the base rows come first.

    Attributes:
        prompt: which recorded prompt each row continues.
        start: first padded position held; everything before is read from the base row.
        stop: one past the last padded position held.
        read: the padded position, or positions, whose final residual stream is wanted.
        entry: how many rows are in the batch in each layer and after the last one.
        n_base: the first `n_base` rows are the unpatched prompts in full, in prompt order.
    """

    prompt: Int[Tensor, " row"]
    start: Int[Tensor, " row"]
    stop: Int[Tensor, " row"]
    read: Int[Tensor, "row *node"]
    entry: Sequence[int]
    n_base: int

    @classmethod
    def beside(
        cls,
        model: Model,
        mask: Bool[Tensor, "prompt pos"],
        prompt: Int[Tensor, " row"],
        start: Int[Tensor, " row"],
        entry: Int[Tensor, " row"],
        columns: Int[Tensor, "prompt node"],
    ) -> "Rows":
        """The prompts in full and, beside them, rows that continue them.

        `mask` says which tokens of the prompts are real; `start` is each row's first changed token,
        counted in its prompt, `entry` the first layer that needs it, in ascending order; `columns`
        are those that each prompt is read at.
        """
        length, left = mask.sum(-1).cpu(), mask.int().argmax(-1).cpu()
        base = torch.arange(len(mask))
        which = torch.cat([base, prompt])
        first = left[which] + torch.cat([0 * base, start])
        stop = left[which] + length[which]
        if not shares_prefixes(model):
            first, stop = torch.zeros_like(first), torch.full_like(stop, mask.shape[1])
        present = [len(base) + int((entry <= at).sum()) for at in range(model.arch.n_layers + 1)]
        return cls(which, first, stop, columns[which], present, len(base))


class Pack:
    """Index tables between rows and the flat sequence of their tokens.

    Attributes:
        row, pos, prompt: row, padded position and prompt of each token.
        offset: flat index of each row's token at its `start`.
        parent: flat index of the base row's token at the same position.
        grid: flat index of the token that a row reads at each padded position.
    """

    def __init__(self, rows: Rows, n_pos: int):
        length = rows.stop - rows.start
        self.rows, self.n_pos = rows, n_pos
        self.row = torch.repeat_interleave(torch.arange(len(length)), length)
        self.offset = length.cumsum(0) - length
        self.ends = [0, *length.cumsum(0).tolist()]
        self.pos = torch.arange(len(self.row)) - self.offset[self.row] + rows.start[self.row]
        self.prompt = rows.prompt[self.row]
        self.first_patched = min(rows.start[rows.n_base :].tolist(), default=0)
        base = self.offset[: rows.n_base] - rows.start[: rows.n_base]
        self.parent = base[self.prompt] + self.pos
        every = torch.arange(n_pos)
        own = self.offset[:, None] + every - rows.start[:, None]
        inherited = base[rows.prompt][:, None] + every
        first = rows.start[: rows.n_base][rows.prompt][:, None]
        grid = torch.where(every >= rows.start[:, None], own, inherited)
        real = (every >= first) & (every < rows.stop[:, None])
        self.grid = torch.where(real, grid, self.offset[:, None])

    def token(self, row: Int[Tensor, " n"], pos: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Flat index of a row's token at a padded position that the row holds."""
        return self.offset[row] + pos - self.rows.start[row]

    @property
    def read(self) -> Int[Tensor, "row *node"]:
        """Flat indices of the tokens that each row is read at."""
        begin = (self.offset - self.rows.start).view(-1, *[1] * (self.rows.read.ndim - 1))
        return begin + self.rows.read

    def n_tokens(self, n_rows: int) -> int:
        """Tokens held by the first `n_rows` rows."""
        return self.ends[n_rows]

    def to(self, device: torch.device) -> "Pack":
        """Move the per-token tables to where the layers run."""
        for name in ("row", "pos", "parent", "grid", "prompt"):
            setattr(self, name, getattr(self, name).to(device))
        return self


class BatchEdit(Protocol):
    """Anything that changes in place, or reads, the batch's activation at a site of a layer."""

    @property
    def site(self) -> Site:
        """Where."""
        ...

    @property
    def layer(self) -> int:
        """In which block."""
        ...

    def __call__(self, activation: Float[Tensor, "... width"]) -> None:
        """Apply, in place."""
        ...


@brief
@dataclass(frozen=True)
class Write:
    """Activations written into tokens of the batch, at one site of one layer.

    `into` are the flat indices of the tokens changed, `source` those copied from, or the values
    themselves; `features` are changed, per token, by default all.
    """

    site: Site
    layer: int
    into: Int[Tensor, " n"]
    source: Int[Tensor, " n"] | Float[Tensor, "n width"]
    features: Int[Tensor, "n width"] | None = None

    def __call__(self, activation: Float[Tensor, "... width"]) -> None:
        """Apply to the activation of the whole batch, in place."""
        flat = activation.reshape(-1, activation.shape[-1])
        into, source = self.into.to(flat.device), self.source.to(flat.device)
        given = source.to(flat.dtype) if source.is_floating_point() else None
        if self.features is None:
            flat[into] = flat[source] if given is None else given
        else:
            features = self.features.to(flat.device)
            new = flat[source[:, None], features] if given is None else given
            flat[into[:, None], features] = new
        if flat.data_ptr() != activation.data_ptr():  # a copy, as convolutions' outputs are turned
            activation.copy_(flat.view_as(activation))


# --- attention over rows -----------------------------------------------------------------------


@brief
@dataclass(frozen=True)
class RowsMask:
    """Travels to the attention function in place of a mask.

    `mask` is the padded prompts' own, or ``None`` where plain causality is enough;
    `implementation` names the attention function that the model would have used.
    """

    pack: Pack
    n_rows: int
    mask: Tensor | None
    implementation: str


def rows_attention(
    module: nn.Module,
    query: Float[Tensor, "1 head token d_head"],
    key: Float[Tensor, "1 kv_head token d_head"],
    value: Float[Tensor, "1 kv_head token d_head"],
    attention_mask: RowsMask,
    **kwargs: Any,
) -> tuple[Float[Tensor, "1 token head d_head"], None]:
    """The model's own attention, in which each row sees its tokens and, before, its base row's.

    Patched rows attend from the earliest position that any of them holds.
    """
    rows, pack = attention_mask, attention_mask.pack
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", _no_eager)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(rows.implementation, eager)

    def attended(lo: int, hi: int, first: int) -> Float[Tensor, "token head d_head"]:
        grid = pack.grid[lo:hi]
        k, v = (x[0].transpose(0, 1)[grid].transpose(1, 2) for x in (key, value))
        q = query[0].transpose(0, 1)[grid[:, first:]].transpose(1, 2)
        mask = rows.mask
        if mask is None and first:  # spell out what Hugging Face means by no mask
            causal = torch.ones(pack.n_pos, pack.n_pos, dtype=torch.bool, device=q.device)
            mask = causal.tril()[None, None]
        if mask is not None:
            prompt = pack.rows.prompt[lo:hi].to(mask.device)
            mask = mask[:, :, first:] if mask.shape[0] == 1 else mask[prompt][:, :, first:]
        out, _ = attend(module, q, k, v, mask, **kwargs)
        span = slice(pack.n_tokens(lo), pack.n_tokens(hi))
        return out[pack.row[span] - lo, pack.pos[span] - first]

    n_base = pack.rows.n_base
    parts = [attended(0, n_base, 0)]
    if rows.n_rows > n_base:
        parts.append(attended(n_base, rows.n_rows, pack.first_patched))
    return torch.cat(parts)[None], None


def _no_eager(*_: Any, **__: Any) -> Any:
    raise ModelError("this model defines no eager attention; load it with 'sdpa'.")


ALL_ATTENTION_FUNCTIONS.register(ROWS_ATTENTION, rows_attention)


# --- running the batch ---------------------------------------------------------------------------


def run_packed(
    model: Model, calls: LayerCalls, rows: Rows, edits: Sequence[BatchEdit]
) -> tuple[Float[Tensor, "token d_model"], Pack]:
    """Run every row through the layers it needs, each layer called once.

    `edits` name tokens by their flat numbers (`Pack.token`). Returns the residual stream after the
    last block at every token, and the tables that find them.
    """
    pack = Pack(rows, calls.mask.shape[1]).to(calls.embeddings.device)
    layout = _packed if shares_prefixes(model) else _padded
    by_layer: dict[int, list[BatchEdit]] = {}
    for edit in edits:
        by_layer.setdefault(edit.layer, []).append(edit)
    base = slice(0, pack.n_tokens(rows.n_base))
    hidden = calls.embeddings[pack.prompt[base], pack.pos[base]]
    with layout(model, calls, pack) as call:
        for layer in range(model.arch.n_layers):
            here = by_layer.get(layer, [])
            hidden = _join(hidden, pack, rows.entry[layer])
            _apply(here, "resid_pre", hidden)
            inside = [w for w in here if w.site.name not in ("resid_pre", "resid_post")]
            with hooked(model, [(w.site, layer, w) for w in inside]):
                hidden = call(layer, hidden, rows.entry[layer])
            if any(w.site.name == "resid_post" for w in here):
                hidden = _join(hidden, pack, rows.entry[layer + 1])
                _apply(here, "resid_post", hidden)
    return hidden, pack


def final_resid_of_rows(
    model: Model, calls: LayerCalls, rows: Rows, edits: Sequence[BatchEdit]
) -> Float[Tensor, "row *node d_model"]:
    """As `run_packed`, but only at the positions that each row is read at."""
    hidden, pack = run_packed(model, calls, rows, edits)
    return hidden[pack.read.to(hidden.device)]


def _join(hidden: Float[Tensor, "token d"], pack: Pack, n_rows: int) -> Float[Tensor, "more d"]:
    """Add the rows that enter here: copies of their base row's tokens."""
    new = pack.parent[len(hidden) : pack.n_tokens(n_rows)]
    return torch.cat([hidden, hidden[new.to(hidden.device)]]) if len(new) else hidden


def _apply(edits: list[BatchEdit], site: str, hidden: Float[Tensor, "token d"]) -> None:
    for edit in edits:
        if edit.site == SITES[site]:
            edit(hidden)


Call = Callable[[int, Tensor, int], Tensor]
"""(layer, flat hidden states, rows present) -> flat hidden states."""


def shares_prefixes(model: Model) -> bool:
    """Whether tokens meet in attention that dispatches by name alone, so rows can share prefixes.

    Blocks with a convolution over tokens (Mamba, linear attention, LFM2) mix them there, too.
    """
    layers = range(model.arch.n_layers)
    if not model.arch.causal or not all(_dispatches(model, layer) for layer in layers):
        return False
    return model.attention_implementation in ("sdpa", "eager") and arguments_of(model).by_token


def _dispatches(model: Model, layer: int) -> bool:
    attention, block = model.attention(layer), model.blocks[layer]
    if attention is None:
        return False
    code = vars(sys.modules[type(attention).__module__])
    mixes = any(isinstance(module, nn.Conv1d) for module in block.modules())
    mixes = mixes or hasattr(attention, "prepare_dynamic_mask")  # Doge's, made of all values
    return hasattr(attention, "config") and "ALL_ATTENTION_FUNCTIONS" in code and not mixes


@contextlib.contextmanager
def _packed(model: Model, calls: LayerCalls, pack: Pack) -> Generator[Call]:
    """One sequence of all tokens; attention goes through `rows_attention`."""
    implementation = model.attention_implementation
    gathered: dict[int, Any] = {}

    def by_token(value: Tensor, axes: ArgumentAxes | None) -> Tensor:
        """What HF laid out as (prompt or 1, pos, ...), laid out by token."""
        if axes is None or not axes.tokens:
            return value
        if id(value) not in gathered:
            prompt = pack.prompt if axes.prompts == 0 else torch.zeros_like(pack.prompt)
            gathered[id(value)] = value[prompt.to(value.device), pack.pos.to(value.device)][None]
        return gathered[id(value)]

    def per_token(name: str, value: Any, n_tokens: int) -> Any:
        return mapped(
            value, name, calls.arguments.axes, lambda x, axes: by_token(x, axes)[:, :n_tokens]
        )

    def call(layer: int, hidden: Tensor, n_rows: int) -> Tensor:
        given = dict(calls.kwargs[layer])
        mask = RowsMask(pack, n_rows, given.pop("attention_mask", None), implementation)
        kwargs = {name: per_token(name, value, len(hidden)) for name, value in given.items()}
        return first_output(model.blocks[layer](hidden[None], **kwargs, attention_mask=mask))[0]

    with model.attention_named(ROWS_ATTENTION):
        yield call


@contextlib.contextmanager
def _padded(model: Model, calls: LayerCalls, pack: Pack) -> Generator[Call]:
    """Whole padded rows, with the masks and tables Hugging Face made, one copy per row."""
    state, joined = BlockState(calls.arguments), 0

    def call(layer: int, hidden: Tensor, n_rows: int) -> Tensor:
        nonlocal joined
        state.join(pack.rows.prompt[joined:n_rows])
        joined = n_rows
        kwargs = state.given(calls.of_rows(layer, pack.rows.prompt[:n_rows]))
        batch = hidden.view(n_rows, pack.n_pos, -1)
        return state.after(model.blocks[layer](batch, **kwargs)).flatten(0, 1)

    yield call
