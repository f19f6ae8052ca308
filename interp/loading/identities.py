"""The identities that a map must fulfil, measured on the model itself, block by block.

One forward pass runs a few tokens while *every* site is edited, so that a site counts only if what
is written there has the effect that interp takes it to have:

    resid_pre + a attn_out = resid_mid,  resid_mid + b mlp_out = resid_post     (or in parallel)
    z through the output projection is attn_out, mlp_post through the down-projection is mlp_out
    a head's z moves with its own query, key and value, and with no other head's
    resid_post of a layer is resid_pre of the next one

The rows hold the same tokens. In the second the last token is another one, which shows whether
tokens read later ones. In the others the queries, keys or values of some heads are altered; behind
`z` these rows are set back, so that every layer sees equal rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from interp.brief import brief
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
        named |= {parts.ln1, parts.ln1_post, parts.ln2, parts.ln2_post} - {None}  # pyright: ignore
        return named

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
        if size is None:
            size = activation.float().square().mean(-1, keepdim=True).sqrt()
        shape = activation.shape[-2:]
        noise = torch.randn(shape, generator=self.noise).to(activation.device)
        activation += (NUDGE * size * noise).to(activation.dtype)

    def _enter(self, activation: Tensor) -> None:
        self.heads = {}
        self._nudge(activation)
        self.stream = activation.clone()

    def _nudge_write(self, activation: Tensor) -> None:
        assert self.stream is not None
        self._nudge(activation, self.stream.float().square().mean(-1, keepdim=True).sqrt())

    def _alter(self, layer: int, site: str, activation: Tensor) -> None:
        """Turn the features of some heads of some rows around: their norm and sum stay."""
        n, width = (f(SITES[site], layer) for f in (self.model.n_units, self.model.width))
        if "z" not in self.model.arch.layers[layer].points or activation.shape[-1] != width:
            return
        by_head = activation.unflatten(-1, (n, -1))
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
            gap = _error(whole.came, self.out.final, whole.came)
            self.out.gap = max(self.out.gap, (layer, gap), key=lambda found: found[1])
        self.out.final, self.out.n_blocks = whole.left, self.out.n_blocks + 1
        failed = self._misfits(layer, records)
        for site, of in (("resid_pre", whole.read), ("resid_post", whole.left)):
            if site not in failed and not same(_after(block, records, site), of, self.allowed):
                failed[site] = "it is not what enters or leaves the block"
        block = without(block, failed)
        checks = (_stream_fails, _z_fails, _neurons_fail)
        for check in checks:
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
        self.out.layers[layer] = replace(block, whole=_not_whole(block, records, self.allowed))

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


def _coded(n: int, bit: int) -> Tensor:
    """Which of n heads have a bit of their number modulo 3, plus 1."""
    return (torch.arange(n) % 3 + 1).bitwise_and(1 << bit) > 0


def _error(a: Tensor, b: Tensor, size: Tensor) -> float:
    """How far two tensors are apart, relative to the size of a third; infinite between shapes."""
    if a.shape != b.shape:
        return float("inf")
    return float((a.float() - b.float()).norm() / size.float().norm().clamp(min=1e-30))


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


def _after(block: BlockMap, records: Records, site: str) -> Batch | None:
    """What a site of a block holds after its edit; ``None`` where the block has none."""
    point = block.points.get(site)
    if point is None:
        return None
    record = records[point.path]
    return record.read if point.side == "in" else record.left


def _before(block: BlockMap, records: Records, site: str) -> Batch | None:
    """As `_after`, before its edit."""
    point = block.points.get(site)
    if point is None:
        return None
    record = records[point.path]
    return record.came if point.side == "in" else record.gave


def solved(start: Batch, end: Batch, writes: Sequence[Batch]) -> tuple[list[float], float]:
    """How often each write goes from `start` to `end`, and the norm of what is left over."""
    moved = (end.double() - start.double()).flatten()
    if not writes:
        return [], float(moved.norm())
    rows = torch.stack([write.double().flatten() for write in writes])
    times = torch.linalg.pinv(rows @ rows.T, hermitian=True) @ (rows @ moved)
    times = torch.where((times - 1).abs() < 1e-4, 1.0, times)
    return times.tolist(), float((moved - times @ rows).norm())


def stream_size(start: Batch, end: Batch) -> float:
    """What errors of a sum are relative to: where a write is huge, rounding takes the rest."""
    return float(start.double().norm() + 0.1 * end.double().norm())


def _stream_fails(
    block: BlockMap, records: Records, allowed: float
) -> tuple[BlockMap, dict[str, str]]:
    """What of attn_out, resid_mid and mlp_out does not add up to the stream; scales are solved."""
    whole, parts, failed = records[""], block.parts, dict[str, str]()
    middle = _before(block, records, "resid_mid"), _after(block, records, "resid_mid")
    ends = ("resid_pre", whole.read), ("resid_post", whole.gave)
    if middle[0] is None:
        both = (*parts.beside, *parts.beside_mlp)
        halves = [(*ends, ("attn_out", "mlp_out"), both)]
    else:
        first = (ends[0], ("resid_mid", middle[0]), ("attn_out",), parts.beside)
        halves = [first, (("resid_mid", middle[1]), ends[1], ("mlp_out",), parts.beside_mlp)]
    for (start, x), (end, y), names, beside in halves:
        own = {site: write for site in names if (write := _after(block, records, site)) is not None}
        if not own and start == "resid_pre":
            continue
        assert x is not None and y is not None
        more = [write for path in beside if (write := records[path].left) is not None]
        times, left = solved(x, y, [*own.values(), *more])
        error = left / stream_size(x, y)
        if not error <= allowed:
            total = " + ".join([start, *own, *beside])
            involved = {*own, "resid_mid"} if start == "resid_mid" else set(own)
            why = f"{total} differs from {end} by {error:.2%}"
            failed |= dict.fromkeys(involved, why)
            continue
        scales = {"attn_out": "attn_scale", "mlp_out": "mlp_scale"}
        parts = replace(parts, **{scales[site]: n for site, n in zip(own, times, strict=False)})
    return replace(block, parts=parts), failed


def _z_fails(block: BlockMap, records: Records, allowed: float) -> tuple[BlockMap, dict[str, str]]:
    """Whether what reads `z` gives `attn_out`, through a norm on it or not."""
    post, failed = _projected(block, records, "z", "attn_out", block.parts.ln1_post, allowed)
    return replace(block, parts=replace(block.parts, ln1_post=post)), failed


def _neurons_fail(
    block: BlockMap, records: Records, allowed: float
) -> tuple[BlockMap, dict[str, str]]:
    """Whether what reads `mlp_post` gives `mlp_out`, through a norm on it or not."""
    post, failed = _projected(block, records, "mlp_post", "mlp_out", block.parts.ln2_post, allowed)
    return replace(block, parts=replace(block.parts, ln2_post=post)), failed


def _projected(
    block: BlockMap, records: Records, site: str, out: str, post: str | None, allowed: float
) -> tuple[str | None, dict[str, str]]:
    """The norm between a site's projection and the sublayer's output, and what fails, and why."""
    if site not in block.points:
        return post, {}
    whole, path = _before(block, records, out), block.points[site].path
    if whole is None:
        return post, {site: f"without {out!r} nothing shows what it writes ({block.missing[out]})"}
    given = records[path].gave
    if same(given, whole, allowed):
        return None, {}
    if post is not None:
        normed = records[post]
        if same(given, normed.came, allowed) and same(normed.gave, whole, allowed):
            return post, {}
    return post, {site: f"what {path!r} makes of it is not {out}"}


def same(a: Tensor | None, b: Tensor | None, allowed: float) -> bool:
    """Whether two tensors are there and equal, rounding aside."""
    return a is not None and b is not None and _error(a, b, b) <= allowed


def _not_whole(block: BlockMap, records: Records, allowed: float) -> str | None:
    """Why a block cannot be taken apart into edges; ``None`` where it can."""
    parts, stream = block.parts, records[""].read
    needed = ["q", "k", "v", "z", "attn_out", "mlp_out"]
    for site in needed if parts.parallel else [*needed, "resid_mid"]:
        if site not in block.points:
            return f"{site!r} is missing ({block.missing[site]})"
    if parts.beside:
        return f"{parts.beside[0]!r} adds to the stream beside attention"
    for site in "qkv":
        path = block.points[site].path
        if not _reads(records, path, parts.ln1, stream, allowed):
            return f"{path!r} reads something else than resid_pre through one norm"
    middle = stream if parts.parallel else _after(block, records, "resid_mid")
    if not parts.mlp:
        return "the MLP is not a module of its own"
    if records[parts.mlp].flat or not _reads(records, parts.mlp, parts.ln2, middle, allowed):
        return f"{parts.mlp!r} reads something else than the stream through one norm"
    given, out = records[parts.mlp].gave, _before(block, records, "mlp_out")
    if parts.ln2_post is None and not same(given, out, allowed):
        return f"mlp_out is not what {parts.mlp!r} gives"
    if parts.ln2_post is not None:
        normed = records[parts.ln2_post]
        if not (same(given, normed.came, allowed) and same(normed.gave, out, allowed)):
            return f"mlp_out is not what {parts.mlp!r} gives, normed by {parts.ln2_post!r}"
    return None


def _reads(
    records: Records, path: str, norm: str | None, stream: Tensor | None, allowed: float
) -> bool:
    """Whether a module reads the stream through a norm, or where there is none as it is."""
    if norm is None:
        return same(records[path].read, stream, allowed)
    normed = records[norm]
    return same(normed.read, stream, allowed) and same(records[path].read, normed.left, allowed)
