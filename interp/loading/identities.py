"""The identities that a map must fulfil, measured on the model itself, block by block.

One forward pass runs a few tokens while *every* site is edited, so that a site counts only if what
is written there has the effect that interp takes it to have:

    resid_pre + a attn_out = resid_mid,  resid_mid + b mlp_out = resid_post     (or in parallel)
    z through the output projection is attn_out, mlp_post through the down-projection is mlp_out
    a head's z moves with its own query, key and value, and with no other head's
    resid_post of a layer is resid_pre of the next one

The rows hold the same tokens. In the second the last token is another one, which shows whether
tokens read later ones. In the others the queries, keys or values of some heads are altered; behind
`z` these rows are set back, so that every layer sees equal rows. Weights under which a site moves
nothing on this model do not count against it: what is zero is moved off zero first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from interp.brief import brief
from interp.loading.block_checks import error, held, not_whole, projected_fails, same, stream_fails
from interp.loading.block_records import Batch, Edits, Records, recorded_blocks
from interp.model.architecture import BlockMap, ModulePoint
from interp.model.model import Model
from interp.model.sites import EXPERT_SITES, MIXER_SITES, SITES
from interp.model.weights import quantised

N_POS = 4
CODED = {"q": (2, 3), "k": (4, 5), "v": (6, 7)}
"""Rows in which the queries, keys or values of the heads with the first, or second, bit of their
number modulo 3, plus 1, are altered; row 0 is never, row 1 has another last token."""

N_ROWS = 8
ALTERED = {"q": 1, "k": 0, "v": 0}
"""The position at which they are. A query moves its own token alone; a key moves all but the first
token, which has nothing else to read; a value moves that, too."""

NUDGE = 0.1
"""How far edits move every activation, in root mean squares of its own (sublayers' outputs: of the
residual stream)."""


@brief
@dataclass
class Measured:
    """What the pass showed: the maps with what failed taken out, the last stream, and the logits.

    `failed` are the (layer, site) pairs that were taken out; `gap` is how far the input of a layer
    is from the output of the one before: (layer, relative difference), of the layer with the most.
    """

    layers: list[BlockMap]
    failed: dict[tuple[int, str], str] = field(default_factory=dict)
    gap: tuple[int, float] = (0, 0.0)
    n_blocks: int = 0
    final: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


def tolerance(model: Model) -> float:
    """Largest relative error of an identity put down to rounding; edits move ten times as far."""
    exact = model.dtype in (torch.float32, torch.float64) and not quantised(model.hf)
    return 1e-4 if exact else 0.02


def measured(model: Model, ids: Tensor) -> Measured:
    """Run `ids` (two rows that differ in their last token) with every site edited."""
    run = _Run(model)
    rows = torch.cat([ids[:, :N_POS], ids[:1, :N_POS].expand(N_ROWS - 2, -1)])
    with torch.no_grad(), recorded_blocks(model, run.done, run.edits(), run.paths):
        run.out.logits = model.hf(input_ids=rows, use_cache=False).logits[:2]
    return run.out


class _Run:
    """The edits of one pass, and what the blocks show under them."""

    def __init__(self, model: Model):
        self.model, self.allowed = model, tolerance(model)
        self.out = Measured(list(model.arch.layers))
        self.stream: Batch | None = None
        self.heads: dict[str, str] = {}
        self.noise = torch.Generator().manual_seed(0)

    def paths(self, layer: int) -> set[str]:
        """The modules of a block that its map names."""
        block = self.model.arch.layers[layer]
        parts = block.parts
        named = {point.path for _, point in _plain(block)}
        named |= {parts.mlp, *parts.beside, *parts.beside_mlp}
        norms = (parts.ln1, parts.ln1_post, parts.ln2, parts.ln2_post)
        norms = (*norms, parts.carry, parts.carry_mlp)
        return named | {path for path in norms if path is not None}

    # --- edits ------------------------------------------------------------------------------------

    def edits(self) -> Edits:
        """Every site's edit, by layer, path and side."""
        found: dict[tuple[int, str, str], list[tuple[object, Callable[[Tensor], None]]]] = {}
        for layer, block in enumerate(self.model.arch.layers):
            for name, point in _plain(block):
                edit = {
                    "resid_pre": self._enter,
                    "z": partial(self._heads, layer),
                    "attn_out": self._nudge_write,
                    "mlp_out": self._nudge_write,
                }.get(name, self._nudge)
                if name in CODED:
                    edit = partial(self._alter, layer, name)
                found.setdefault((layer, point.path, point.side), []).append((point, edit))
        return found  # pyright: ignore[reportReturnType]

    def _nudge(self, activation: Tensor, size: Tensor | None = None) -> None:
        """Move it by noise, the same in every row; what is zero by `NUDGE` itself."""
        size = _rms(activation) if size is None else size
        size = torch.where(size > 0, size, 1.0)
        noise = self._noise(activation.shape[-2:]).to(activation.device)
        activation += (NUDGE * size * noise).to(activation.dtype)

    def _noise(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(*shape, generator=self.noise)

    def _enter(self, activation: Tensor) -> None:
        self.heads = {}
        self._nudge(activation)
        self.stream = activation.clone()

    def _nudge_write(self, activation: Tensor) -> None:
        assert self.stream is not None
        self._nudge(activation, _rms(self.stream))

    def _alter(self, layer: int, site: str, activation: Tensor) -> None:
        """Turn the features of some heads of some rows around: their norm and sum stay.

        What no turn changes, as zeros, is noise first, in every row. Queries and keys are shrunk to
        a root mean square of 1, so that heads that attend to one token alone show what moves them.
        """
        n, width = (f(SITES[site], layer) for f in (self.model.n_units, self.model.width))
        if "z" not in self.model.arch.layers[layer].points or activation.shape[-1] != width:
            return
        by_head = activation.unflatten(-1, (n, -1)).clone()
        size, noise = _rms(by_head), self._noise(by_head.shape[1:]).to(by_head)
        flat = _rms(by_head - by_head.roll(1, -1)) <= 0.01 * size
        by_head += torch.where(flat, torch.where(size > 0, size, 1.0), 0.0).to(noise) * noise
        if site != "v":
            by_head /= _rms(by_head).clamp(min=1).to(noise)
        for bit, row in enumerate(CODED[site]):
            chosen = _coded(n, bit).to(activation.device)
            own = by_head[row, ALTERED[site]]
            by_head[row, ALTERED[site]] = torch.where(chosen[:, None], own.roll(1, -1), own)
        activation.copy_(by_head.flatten(-2))

    def _heads(self, layer: int, activation: Tensor) -> None:
        block = self.model.arch.layers[layer]
        for site in CODED:
            if site in block.points and activation.shape[-1] == block.n_heads * block.d_head:
                why = _moved_heads(activation, site, block, self.allowed, self.model.arch.causal)
                if why is not None:
                    self.heads[site] = why
        activation[2:] = activation[:1]
        self._nudge(activation)

    # --- what a block shows -----------------------------------------------------------------------

    def done(self, layer: int, records: Records) -> None:
        """Check a block's identities and take out what does not hold."""
        block, whole = self.model.arch.layers[layer], records[""]
        assert whole.came is not None and whole.gave is not None and whole.left is not None
        if layer:
            gap = error(whole.came, self.out.final, whole.came)
            self.out.gap = max(self.out.gap, (layer, gap), key=lambda found: found[1])
        self.out.final, self.out.n_blocks = whole.left, self.out.n_blocks + 1
        failed = self._misfits(layer, records)
        for site, of in (("resid_pre", whole.read), ("resid_post", whole.left)):
            if site not in failed and not same(held(block, records, site)[1], of, self.allowed):
                failed[site] = "it is not what enters or leaves the block"
        block = without(block, failed)
        for check in (stream_fails, projected_fails):
            block, more = check(block, records, self.allowed)
            failed |= more
            block = without(block, more)
        more = {site: why for site, why in self.heads.items() if site in block.points}
        if "z" not in block.points:
            why = f"without 'z' nothing shows what it does ({block.missing.get('z')})"
            more = {site: why for site in CODED if site in block.points}
        block = without(block, more)
        failed |= more
        self.out.failed |= {(layer, site): why for site, why in failed.items()}
        self.out.layers[layer] = replace(block, whole=not_whole(block, records, self.allowed))

    def _misfits(self, layer: int, records: Records) -> dict[str, str]:
        """The sites of a block that were not computed, or not with their shape, and why."""
        found: dict[str, str] = {}
        for name, point in _plain(self.model.arch.layers[layer]):
            record = records.get(point.path)
            seen = None if record is None else record.read if point.side == "in" else record.left
            width = self.model.width(SITES[name], layer)
            if record is None or not record.calls:
                found[name] = f"its module {point.path!r} is never called"
            elif record.calls > 1:
                found[name] = f"its module {point.path!r} is called {record.calls} times"
            elif seen is None:
                found[name] = f"its module {point.path!r} has no axes of rows and tokens there"
            elif (
                own := seen.shape[-1] if point.features is None else len(point.features)
            ) != width:
                found[name] = f"it would have width {width}, but {point.path!r} has {own}"
        return found


def _plain(block: BlockMap) -> list[tuple[str, ModulePoint]]:
    """The sites that are measured here; those inside experts and mixers are in `inner_sites`."""
    inner = {*EXPERT_SITES, *MIXER_SITES}
    return [(name, point) for name, point in block.points.items() if name not in inner]


def without(block: BlockMap, failed: Mapping[str, str]) -> BlockMap:
    """A block's map without the sites that failed, and why they did."""
    points = {name: point for name, point in block.points.items() if name not in failed}
    return replace(block, points=points, missing={**block.missing, **failed})


def _rms(x: Tensor) -> Tensor:
    """Root mean square over the last axis, which stays."""
    return x.float().square().mean(-1, keepdim=True).sqrt()


def _coded(n: int, bit: int) -> Tensor:
    """Which of n heads have a bit of their number modulo 3, plus 1."""
    return (torch.arange(n) % 3 + 1).bitwise_and(1 << bit) > 0


# --- single identities ---------------------------------------------------------------------------


def _moved_heads(z: Tensor, site: str, block: BlockMap, allowed: float, causal: bool) -> str | None:
    """Why a site is not the heads' queries, keys or values; ``None`` if it is.

    Without a causal mask any token's z moves with any key and value.
    """
    by_head = z.float().unflatten(-1, (block.n_heads, -1))
    size = by_head[0].norm(dim=-1)
    size = size + 0.01 * size.mean() + 1e-30
    group = 1 if site == "q" else block.n_heads // block.n_kv_heads
    most, least = 0.0, 0.0
    for bit, row in enumerate(CODED[site]):
        moved = (by_head[row] - by_head[0]).norm(dim=-1) / size  # position, head
        chosen = _coded(block.n_heads // group, bit).repeat_interleave(group).to(z.device)
        where = torch.zeros(len(moved), dtype=torch.bool, device=z.device)
        where[(1 if site == "k" else ALTERED[site]) if causal or site == "q" else 0 :] = True
        if site == "q":
            where[ALTERED[site] + 1 :] = False
        expected = where[:, None] & chosen
        if site == "k" and causal:  # beside a sink, the first token moves along its own value
            own = by_head[0].square().sum(-1).clamp(min=1e-30)
            along = ((by_head[row] * by_head[0]).sum(-1) / own).abs()
            across = (by_head[row] - by_head[0] * along[..., None]).norm(dim=-1)
            moved = torch.where(where[:, None] | ~chosen, moved, across / size)
        most = max([most, *moved[expected].tolist()])
        least = max([least, *moved[~expected].tolist()])
    name = {"q": "query", "k": "key", "v": "value"}[site]
    if least > 4 * allowed:
        return (
            f"altering the {name} of some heads moves other heads or tokens (z by {least:.1%}), so "
            f"it is not the heads' {site}"
        )
    unused = not causal  # as some heads of compiled programs are
    return None if most > least or unused else f"altering the {name} of a head does not move its z"
