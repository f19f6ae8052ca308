"""Single identities of a block: what adds up to the stream, what projections give, what norms read.

Each takes a block's map and its records, and says what fails, and why.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from interp.loading.block_records import Batch, Records
from interp.model.architecture import BlockMap


def error(a: Tensor, b: Tensor, size: Tensor) -> float:
    """How far two tensors are apart, relative to the size of a third; infinite between shapes."""
    if a.shape != b.shape:
        return float("inf")
    return float((a.float() - b.float()).norm() / size.float().norm().clamp(min=1e-30))


def held(block: BlockMap, records: Records, site: str) -> tuple[Batch | None, Batch | None]:
    """What a site of a block holds before and after its edit; ``None`` where the block has none."""
    point = block.points.get(site)
    if point is None:
        return None, None
    record = records[point.path]
    return (record.came, record.read) if point.side == "in" else (record.gave, record.left)


def solved(start: Batch, end: Batch, writes: Sequence[Batch]) -> tuple[list[float], float]:
    """How often each write goes from `start` to `end`, and the norm of what is left over."""
    moved = (end.double() - start.double()).flatten()
    if not writes:
        return [], float(moved.norm())
    rows = torch.stack([write.double().flatten() for write in writes])
    times = torch.linalg.pinv(rows @ rows.T, hermitian=True) @ (rows @ moved)
    times = torch.where((times - 1).abs() < 1e-4, 1.0, times)
    return times.tolist(), float((moved - times @ rows).norm())


STEADY = 1e-3
"""Smallest distance from 1 of a factor of the stream that counts."""


def scaled(start: Batch, end: Batch, writes: Sequence[Batch]) -> float | None:
    """The factor of `start` in `end`, beside writes times factors; ``None`` where it is 1.

    Features weigh alike, so that in 16 bits a few large ones do not hide what the others show, and
    rounding averages out over them.
    """
    size = (start.double().square() + end.double().square()).mean((0, 1)).sqrt()
    size = size.clamp(min=float(size.max()) * 1e-6 + 1e-30)
    rows = torch.stack([(x.double() / size).flatten() for x in (start, *writes, end)])
    products = rows @ rows.T
    times = torch.linalg.pinv(products[:-1, :-1], hermitian=True) @ products[:-1, -1]
    factor, ratio = float(times[0]), float((products[-1, -1] / products[0, 0]).sqrt())
    rounding = torch.finfo(start.dtype).eps * ratio / rows.shape[1] ** 0.5
    return factor if abs(factor - 1) > STEADY + 5 * rounding else None


def carried(base: Batch, end: Batch, writes: Sequence[Batch]) -> tuple[float, float]:
    """How far `end` is from what `base` and writes give with multipliers and an offset per feature.

    The norm of what is left over, and the least typical multiplier.
    """
    known = torch.stack([x.double().flatten(0, 1).T for x in (base, *writes)], -1)
    known = torch.cat([known, torch.ones_like(known[..., :1])], -1)  # feature, token, unknown
    want = end.double().flatten(0, 1).T[..., None]
    times = torch.linalg.pinv(known) @ want
    return float((known @ times - want).norm()), float(times[:, :-1].abs().median(0)[0].min())


def stream_size(start: Batch, end: Batch) -> float:
    """What errors of a sum are relative to: where a write is huge, rounding takes the rest."""
    return float(start.double().norm() + 0.1 * end.double().norm()) or 1e-30


def stream_fails(
    block: BlockMap, records: Records, allowed: float
) -> tuple[BlockMap, dict[str, str]]:
    """What of attn_out, resid_mid and mlp_out does not add up to the stream; scales are solved."""
    whole, parts, failed = records[""], block.parts, dict[str, str]()
    middle = held(block, records, "resid_mid")
    ends = ("resid_pre", whole.read), ("resid_post", whole.gave)
    if middle[0] is None:
        both = (*parts.beside, *parts.beside_mlp)
        halves = [(*ends, ("attn_out", "mlp_out"), both, parts.carry)]
    else:
        mid, last = ("resid_mid", middle[1]), (("mlp_out",), parts.beside_mlp, parts.carry_mlp)
        first = (("attn_out",), parts.beside, parts.carry)
        halves = [(ends[0], ("resid_mid", middle[0]), *first), (mid, ends[1], *last)]
    for (start, x), (end, y), names, beside, carry in halves:
        own = {
            site: write for site in names if (write := held(block, records, site)[1]) is not None
        }
        if not own and start == "resid_pre":
            continue
        assert x is not None and y is not None
        more = [write for path in beside if (write := records[path].left) is not None]
        if carry is None:
            times, left = solved(x, y, [*own.values(), *more])
        else:
            base = records[carry].left if carry else x
            assert base is not None
            times, left = [], carried(base, y, [*own.values(), *more])[0]
        off = left / stream_size(x, y)
        if not off <= allowed:
            total = " + ".join([start, *own, *beside])
            involved = {*own, "resid_mid"} if start == "resid_mid" else set(own)
            why = f"{total} differs from {end} by {off:.2%}"
            failed |= dict.fromkeys(involved, why)
            continue
        factor = scaled(x, y, [*own.values(), *more]) if carry is None else None
        if factor is not None:
            why = f"{start} itself goes into {end} {factor:.4f} times"
            failed |= dict.fromkeys({*own, "resid_mid"} if start == "resid_mid" else own, why)
            continue
        scales = {"attn_out": "attn_scale", "mlp_out": "mlp_scale"}
        parts = replace(parts, **{scales[site]: n for site, n in zip(own, times, strict=False)})
    return replace(block, parts=parts), failed


def projected_fails(
    block: BlockMap, records: Records, allowed: float
) -> tuple[BlockMap, dict[str, str]]:
    """Whether what reads `z` and `mlp_post` gives the sublayers' outputs, normed or as it is."""
    parts = block.parts
    z, failed = _projected(block, records, "z", "attn_out", parts.ln1_post, allowed)
    neurons, more = _projected(block, records, "mlp_post", "mlp_out", parts.ln2_post, allowed)
    return replace(block, parts=replace(parts, ln1_post=z, ln2_post=neurons)), failed | more


def _projected(
    block: BlockMap, records: Records, site: str, out: str, post: str | None, allowed: float
) -> tuple[str | None, dict[str, str]]:
    """The norm between a site's projection and the sublayer's output, and what fails, and why."""
    if site not in block.points:
        return post, {}
    whole, path = held(block, records, out)[0], block.points[site].path
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
    return a is not None and b is not None and error(a, b, b) <= allowed


def not_whole(block: BlockMap, records: Records, allowed: float) -> str | None:
    """Why a block cannot be taken apart into edges; ``None`` where it can."""
    parts, stream = block.parts, records[""].read
    if parts.carry is not None or parts.carry_mlp is not None:
        return "the block scales or norms the residual stream itself"
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
    middle = stream if parts.parallel else held(block, records, "resid_mid")[1]
    if not parts.mlp:
        return "the MLP is not a module of its own"
    if records[parts.mlp].flat or not _reads(records, parts.mlp, parts.ln2, middle, allowed):
        return f"{parts.mlp!r} reads something else than the stream through one norm"
    given, out = records[parts.mlp].gave, held(block, records, "mlp_out")[0]
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
