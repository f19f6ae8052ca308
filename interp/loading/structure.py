"""A guess of a block's map from what its modules compute, where no adapter knows it.

One plain forward pass shows what every module of a block reads and gives. Of these tensors some
add up: the block's output is its input plus what attention and the MLP give. The modules that give
these, the linear map in front of each, and what feeds that, are the block's sites. A guess is put
to the same test as an adapter's word (`interp.loading.identities`).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.loading.block_checks import carried, same, scaled, solved
from interp.loading.block_records import Batch, Passed, Records, recorded_blocks
from interp.loading.identities import tolerance
from interp.model.architecture import BlockMap, BlockParts, ModulePoint
from interp.model.model import Model
from interp.model.weights import shape_of

MLP = re.compile(
    r"mlp|ffn|(^|[._])ff([._]|$)|feed_?forward|moe|expert|(^|[._])fc\d|4h_to_h|output$",
    re.IGNORECASE,
)
"""What MLPs are called, by their path in the block or their class."""

ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
PARTS = re.compile(r"(?:^|[._])(?:c_|w)?([qkv])(?:$|_|\d|uery|ey|alue|proj|lin|w$)", re.IGNORECASE)
JOINT = re.compile(r"qkv|query_key_value|c_attn", re.IGNORECASE)

PARALLEL = (
    "attention and MLP read the same residual stream in parallel, so there is no point between them"
)
ALONE = "the block has one sublayer, so there is no point between two"


@dataclass(frozen=True)
class _Split:
    """How a block's output comes about: what attention's side gives, the point between, the MLP."""

    mixers: tuple[str, ...]
    middle: ModulePoint | None
    mlps: tuple[str, ...]
    carry: str | None = None
    carry_mlp: str | None = None

    @property
    def mlp(self) -> str | None:
        """The module that gives all of what the MLP adds."""
        return self.mlps[0] if len(self.mlps) == 1 else None


def guessed(model: Model, ids: Tensor) -> list[list[BlockMap]]:
    """Maps to try for each block, from one plain pass; sites that it has are left as they are."""
    found: list[list[BlockMap]] = [[] for _ in model.arch.layers]
    allowed = tolerance(model)

    def done(layer: int, records: Records) -> None:
        known, block = model.arch.layers[layer], model.blocks[layer]
        guess = _Block(block, known, records, _n_heads(model, layer), allowed)
        found[layer] = list(guess.maps())

    with torch.no_grad(), recorded_blocks(model, done, {}):
        model.hf(input_ids=ids, use_cache=False)
    return found


def _n_heads(model: Model, layer: int) -> int:
    """Query heads of a layer, by the config; 0 where it does not say."""
    text = model.hf.config.get_text_config()
    names = ("num_attention_heads", "n_head", "num_heads", "num_query_heads", "n_heads")
    value: Any = next((found for name in names if (found := getattr(text, name, None))), 0)
    value = value[layer] if isinstance(value, list | tuple) else value
    return value if isinstance(value, int) else 0


class _Block:
    """One block's records, and what can be read off them."""

    def __init__(
        self, block: nn.Module, known: BlockMap, records: Records, n_heads: int, allowed: float
    ):
        self.block, self.known, self.records = block, known, records
        self.n_heads = n_heads
        start, end = records[""].read, records[""].gave
        assert start is not None and end is not None
        self.start, self.end, self.allowed = start, end, allowed

    def maps(self) -> Iterator[BlockMap]:
        """The maps to try; none where nothing adds up."""
        split = self._split()
        if split is None:
            return
        named = (("attn_out", split.mixers[0] if split.mixers else None), ("mlp_out", split.mlp))
        points = {site: ModulePoint(path, "out") for site, path in named if path is not None}
        if split.middle is not None:
            points["resid_mid"] = split.middle
        missing = dict(self.known.missing)
        if not split.mlps:
            missing |= dict.fromkeys(("mlp_out", "mlp_post"), "the block has no MLP")
        if len(split.mlps) > 1:
            missing["mlp_out"] = (
                "no module gives all that is added after resid_mid: "
                f"{', '.join(map(repr, split.mlps))} are added one by one"
            )
        if not split.mixers:
            missing |= dict.fromkeys(("attn_out", "z", "q", "k", "v"), "the block has no attention")
        parallel = bool(split.mlps and split.mixers)
        if split.middle is None:
            missing["resid_mid"] = PARALLEL if parallel else ALONE
        parts = BlockParts(
            ln1=self.known.parts.ln1,
            parallel=parallel and split.middle is None,
            beside=split.mixers[1:],
            beside_mlp=() if split.mlp else split.mlps,
            carry=split.carry,
            carry_mlp=split.carry_mlp,
        )
        base = replace(self.known, points=points, missing=missing, parts=parts)
        base = self._with_neurons(base, split)
        for one in self._with_heads(base, split):
            merged = {**one.points, **self.known.points}
            absent = {site: why for site, why in one.missing.items() if site not in merged}
            yield replace(one, points=merged, missing=absent)

    # --- the residual stream ----------------------------------------------------------------------

    def _split(self) -> _Split | None:
        """What adds up to the block's output: in sequence, in parallel, or one sublayer alone."""
        writers = self._distinct(lambda record: record.gave)
        middles = [
            (path, value)
            for path, value in self._distinct(lambda record: record.read).items()
            if not same(value, self.start, self.allowed) and not same(value, self.end, self.allowed)
        ]
        for n_first, n_second in ((1, 1), (2, 1), (1, None), (2, None)):
            for path, value in middles:
                mixers = self._sum(writers, self.start, value, n_first)
                then = self._chain(writers, middles, value) if mixers and not n_second else None
                mlps = self._sum(writers, value, self.end, 1) if mixers and n_second else then
                if mixers and mlps and not set(mixers) & set(mlps):
                    first = sorted(mixers, key=lambda path: not ATTENTION.search(path))
                    return _Split(tuple(first), ModulePoint(path, "in"), mlps)
            whole = self._sum(writers, self.start, self.end, n_first) if n_second == 1 else None
            if whole and n_first == 1:
                alone = self._is_mlp(whole[0])
                return _Split((), None, whole) if alone else _Split(whole, None, ())
            if whole:
                first, second = sorted(whole, key=self._is_mlp)
                return _Split((first,), None, (second,))
        for path, value in middles:
            first = self._carried(writers, self.start, value)
            second = self._carried(writers, value, self.end) if first else None
            if first and second and first[0] != second[0]:
                at = ModulePoint(path, "in")
                return _Split((first[0],), at, (second[0],), first[1], second[1])
        return None

    def _chain(
        self, writers: dict[str, Batch], middles: list[tuple[str, Batch]], at: Batch
    ) -> tuple[str, ...] | None:
        """Which outputs, one or two at a time, lead from a tensor on to the block's output."""
        last = self._sum(writers, at, self.end, 1) or self._sum(writers, at, self.end, 2)
        for i, (_, value) in enumerate(() if last else middles):
            step = self._sum(writers, at, value, 1)
            left = {path: write for path, write in writers.items() if path not in (step or ())}
            rest = self._chain(left, middles[:i] + middles[i + 1 :], value) if step else None
            if step and rest:
                return step + rest
        return last

    def _carried(
        self, writers: dict[str, Batch], start: Batch, end: Batch
    ) -> tuple[str, str] | None:
        """Which output leads from one tensor to another where features have multipliers.

        And the norm that the stream goes through on its way, ``""`` for none.
        """
        kinds = {p: type(self.block.get_submodule(p)).__name__.lower() for p in self.records}
        reads = {p: r for p, r in self.records.items() if same(r.read, start, self.allowed)}
        norms = {path: record.gave for path, record in reads.items() if "norm" in kinds[path]}
        fits: list[tuple[float, str, str]] = []
        for base, value in {"": start, **norms}.items():
            for path, write in writers.items():
                if value is not None and not same(write, value, self.allowed):
                    left, least = carried(value, end, [write])
                    fits += [(left, path, base)] if least > 1e-3 else []
        left, *best = min(fits, default=(float("inf"), "", ""))
        return (best[0], best[1]) if left <= self._most(start, end) else None

    def _most(self, start: Batch, end: Batch) -> float:
        """How far a sum may be from a tensor."""
        least = 4 * torch.finfo(self.start.dtype).eps * float(end.double().norm())
        return self.allowed * float((end.double() - start.double()).norm()) + least

    def _distinct(self, of: Callable[[Passed], Batch | None]) -> dict[str, Batch]:
        """Tensors of the stream's width, each once, by the outermost module that has it."""
        found: dict[str, Batch] = {}
        for path in sorted(filter(None, self.records), key=lambda path: path.count(".")):
            record = self.records[path]
            value = of(record)
            if value is None or value.shape != self.start.shape or record.calls > 1 or record.flat:
                continue
            if not any(same(value, other, self.allowed / 10) for other in found.values()):
                found[path] = value
        return found

    def _sum(
        self, writers: dict[str, Batch], start: Batch, end: Batch, n: int
    ) -> tuple[str, ...] | None:
        """Which n outputs, each times a factor, lead from one tensor to another."""
        most = self._most(start, end)
        for paths in combinations(writers, n):
            times, left = solved(start, end, [writers[path] for path in paths])
            fits = left <= most and all(abs(x) > 1e-3 for x in times)
            if fits and scaled(start, end, [writers[path] for path in paths]) is None:
                return tuple(sorted(paths, key=list(self.records).index))
        return None

    def _is_mlp(self, path: str) -> bool:
        kind = type(self.block.get_submodule(path)).__name__
        return bool(MLP.search(path) or MLP.search(kind)) and "attention" not in kind.lower()

    # --- what feeds a sublayer's output -----------------------------------------------------------

    def _linear(self, width: int | None = None) -> Iterator[tuple[str, int, int]]:
        """(path, outputs, inputs) of the linear modules that were called once, in order."""
        for path, record in self.records.items():
            module = self.block.get_submodule(path)
            is_linear = isinstance(module, Conv1D) or hasattr(module, "in_features")
            if path and is_linear and record.calls == 1 and record.gave is not None:
                n_out, n_in = shape_of(module)
                if width in (None, n_out):
                    yield path, n_out, n_in

    def _projection(self, out: str) -> tuple[str, int, str | None] | None:
        """The linear module that gives a sublayer's output, its inputs, and a norm in between."""
        whole, is_leaf = self.records[out], not any(self.block.get_submodule(out).children())
        for path, _, n_in in reversed(list(self._linear(self.start.shape[-1]))):
            given = self.records[path].gave
            if same(given, whole.gave, self.allowed):
                return path, n_in, None
            if is_leaf and same(given, whole.read, self.allowed):
                return path, n_in, out
        return None

    def _norm_between(self, stream: Tensor | None, path: str) -> str | None:
        """The norm through which a module reads the stream; ``None`` where it reads it as it is."""
        read, allowed = self.records[path].read, self.allowed
        for norm, record in self.records.items():
            if norm and same(record.read, stream, allowed) and same(record.gave, read, allowed):
                return norm
        return None

    def _with_neurons(self, base: BlockMap, split: _Split) -> BlockMap:
        """The MLP's own sites and parts."""
        if split.mlp is None:
            return base
        stream = self.start if split.middle is None else self.records[split.middle.path].read
        found = self._projection(split.mlp)
        if found is None:  # such as experts
            ln2 = self._norm_between(stream, split.mlp)
            return replace(base, parts=replace(base.parts, ln2=ln2, mlp=split.mlp))
        down, d_mlp, post = found
        same_value = self._distinct(lambda record: record.gave)
        mlp = split.mlp
        if post is not None:
            gave = self.records[down].gave
            mlp = next(p for p, x in same_value.items() if same(x, gave, self.allowed))
        mlp = "" if mlp == down else mlp
        ln2 = self._norm_between(stream, mlp or down)
        parts = replace(base.parts, ln2=ln2, ln2_post=post, mlp=mlp)
        keys = self._neuron_keys(mlp, d_mlp) if mlp else {}
        points = {**base.points, "mlp_post": ModulePoint(down, "in")}
        return replace(base, points=points, parts=parts, d_mlp=d_mlp, neuron_keys=keys)

    def _neuron_keys(self, mlp: str, d_mlp: int) -> dict[str, ModulePoint]:
        """The maps inside and beside the activation function."""
        reads = self.records[mlp].read
        found = [
            path
            for path, _, _ in self._linear(d_mlp)
            if path.startswith(mlp) and same(self.records[path].read, reads, self.allowed)
        ]
        gates = [
            path
            for path in found
            for name, record in self.records.items()
            if name not in found and same(record.read, self.records[path].gave, self.allowed)
        ]
        if len(found) == 1:
            return {"gate": ModulePoint(found[0], "out")}
        if len(found) == 2 and len(set(gates)) == 1:
            up = next(path for path in found if path != gates[0])
            return {"gate": ModulePoint(gates[0], "out"), "up": ModulePoint(up, "out")}
        return {}

    # --- heads ------------------------------------------------------------------------------------

    def _with_heads(self, base: BlockMap, split: _Split) -> Iterator[BlockMap]:
        """Attention's own sites and parts, in each way that its joint projections may split."""
        found = self._projection(split.mixers[0]) if split.mixers else None
        if found is None or not self.n_heads or found[1] % self.n_heads:
            why = "no linear map of heads' outputs gives what is added before the MLP"
            yield self._without_heads(base, why) if split.mixers else base
            return
        path, width, post = found
        d_head = width // self.n_heads
        scope = path.rpartition(".")[0]
        projected: dict[str, list[tuple[str, Int[Tensor, " width"] | None]]] = {}
        for inner, n_out, _ in self._linear():
            if inner.startswith(scope) and inner != path:
                for part, ways in self._parts_of(inner.removeprefix(scope), n_out, d_head).items():
                    projected.setdefault(part, []).extend((inner, way) for way in ways)
        if set(projected) != set("qkv"):
            kind = type(self.block.get_submodule(scope)).__name__
            why = f"{scope!r} ({kind}) has no linear maps that give heads' queries, keys and values"
            base = self._without_heads(base, why)
            yield replace(base, parts=replace(base.parts, ln1_post=post))
            return
        attention = self.known.attention or (split.mixers[0] if post is None else scope)
        for i in range(max(map(len, projected.values()))):
            own = {site: ways[min(i, len(ways) - 1)] for site, ways in projected.items()}
            points = {site: ModulePoint(inner, "out", way) for site, (inner, way) in own.items()}
            ln1 = self._norm_between(self.start, own["q"][0])
            yield replace(
                base,
                points={**base.points, "z": ModulePoint(path, "in"), **points},
                parts=replace(base.parts, ln1=ln1, ln1_post=post),
                attention=attention if attention != path else scope,
                n_heads=self.n_heads,
                n_kv_heads=points["k"].width(self.block) // d_head,
                d_head=d_head,
            )

    def _without_heads(self, base: BlockMap, why: str) -> BlockMap:
        if self.known.attention is not None:
            return base
        return replace(base, missing={**base.missing, **dict.fromkeys(("z", "q", "k", "v"), why)})

    def _parts_of(
        self, name: str, n_out: int, d: int
    ) -> dict[str, Sequence[Int[Tensor, " width"] | None]]:
        """Which of q, k and v a projection computes, and the ways in which its outputs split."""
        n_q = self.n_heads * d
        n_kv, rest = divmod((n_out - n_q) // 2, d)
        joint = JOINT.search(name) or (n_out == 3 * n_q and not PARTS.search(name))
        if joint and n_kv > 0 and not rest and not self.n_heads % n_kv:
            every, group = torch.arange(n_out), self.n_heads // n_kv
            by_group = every.view(n_kv, group + 2, d)
            return {
                "q": [every[:n_q], by_group[:, :group].flatten()],
                "k": [every[n_q : n_q + n_kv * d], by_group[:, group].flatten()],
                "v": [every[n_q + n_kv * d :], by_group[:, group + 1].flatten()],
            }
        match = PARTS.search(name)
        if match is None:
            return {}
        part = match[1].lower()
        if part == "q" and n_out == 2 * n_q:  # queries and a gate on the heads' outputs
            every = torch.arange(n_out)
            return {"q": [every.view(self.n_heads, 2, d)[:, 0].flatten(), every[:n_q]]}
        fits = n_out == n_q if part == "q" else not n_out % d and not self.n_heads % (n_out // d)
        return {part: [None]} if fits else {}


def tried(
    known: Sequence[BlockMap], ways: Sequence[Sequence[BlockMap]]
) -> Iterator[list[BlockMap]]:
    """Maps of all blocks, in which every block tries its ways in turn; the last one stays."""
    for i in range(max(map(len, ways), default=0)):
        both = zip(known, ways, strict=True)
        yield [own[min(i, len(own) - 1)] if own else one for one, own in both]
