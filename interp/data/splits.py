"""Discovery and test prompts that share no entity.

A circuit chosen on prompts about France may know about France. So entities are assigned to splits,
not rows, and a row whose entities fall into several is dropped and counted: the price of pairs
that link two entities.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from interp.data.pair_records import no_span
from interp.data.pairs import Excluded, Pair, PromptPairs
from interp.errors import DataError, shown

HALVES: Mapping[str, float] = {"discovery": 0.5, "test": 0.5}
N_DEALS = 100
APART = "its entities are in different splits"


@dataclass(frozen=True, eq=False)
class Splits(Mapping[str, PromptPairs]):
    """Named sets of pairs without a common entity, in their first order.

    `entities` has those of each split; `dropped` the rows whose entities lie in several, which
    count as excluded from each split.
    """

    pairs: Mapping[str, PromptPairs]
    entities: Mapping[str, frozenset[str]]
    dropped: tuple[Excluded, ...]

    def __getitem__(self, name: str) -> PromptPairs:
        return self.pairs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        sizes = (f"{k} {len(v)} pairs, {len(self.entities[k])} entities" for k, v in self.items())
        return f"Splits({'; '.join(sizes)}; {len(self.dropped)} pairs dropped)"


def split_by_entity(
    pairs: PromptPairs,
    by: str | Sequence[str] | Callable[[Pair], Iterable[str]] | None = "subject",
    fractions: Mapping[str, float] = HALVES,
    seed: int = 0,
) -> Splits:
    """Assign entities at random to splits, and keep the pairs whose entities all lie in one.

    Of 100 random draws the one is taken whose smallest split, relative to its fraction, has most
    pairs; no model takes part in that choice. With two unrelated entities per pair, about half of
    the rows are lost to two halves.

    Args:
        pairs: the rows to split.
        by: a span or several, whose texts in clean and in corrupt are all entities, or a function
            of the pair that returns its entities; None: its prompts are, and go where the other is.
        fractions: split -> its part of the entities; they add up to 1.
        seed: of the deals.

    Raises:
        DataError: a pair has no such entity, the fractions do not fit, or a split is left empty.
    """
    if min(fractions.values(), default=0) <= 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        raise DataError(
            f"fractions are {dict(fractions)}; give each split a positive part, 1 in all."
        )
    found = [_entities(pair, by or (lambda one: (one.clean, one.corrupt))) for pair in pairs]
    entities, names = sorted(set[str]().union(*found)), list(fractions)
    home = (_deal if by else _grow)(found, entities, fractions, seed)
    split_of = {entity: names[at] for entity, at in zip(entities, home, strict=True)}
    rows: dict[str, list[Pair]] = {name: [] for name in names}
    dropped: list[Excluded] = []
    for pair, own in zip(pairs, found, strict=True):
        if len({split_of[entity] for entity in own}) == 1:
            rows[split_of[own[0]]].append(pair)
        else:
            where = ", ".join(f"{shown(entity)} ({split_of[entity]})" for entity in own)
            dropped.append(Excluded(pair.id, pair.where, f"entities in different splits: {where}."))
    out = (*pairs.excluded, *(replace(row, reason=APART) for row in dropped))
    return Splits(
        {n: PromptPairs(tuple(own), f"{pairs.source}, {n}", out) for n, own in rows.items()},
        {name: frozenset(e for e in entities if split_of[e] == name) for name in names},
        tuple(dropped),
    )


def _entities(
    pair: Pair, by: str | Sequence[str] | Callable[[Pair], Iterable[str]]
) -> tuple[str, ...]:
    if callable(by):
        found = tuple(dict.fromkeys(by(pair)))
        if not found:
            raise DataError(
                f"{pair.where}: `by` found no entity in {shown(pair.clean)}; return one."
            )
        return found
    texts: list[str] = []
    for name in [by] if isinstance(by, str) else by:
        if name not in pair.spans:
            raise DataError(f"{pair.where}: {no_span(name, pair.spans)}")
        ranges = zip((pair.clean, pair.corrupt), pair.spans[name], strict=True)
        texts += [text[start:end] for text, (start, end) in ranges]
    return tuple(dict.fromkeys(texts))


def _grow(
    found: Sequence[tuple[str, ...]],
    entities: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
) -> list[int]:
    """As `_deal`: each row in random order where one of its entities is, else where most lacks."""
    home, parts, n = dict[str, int](), list(fractions.values()), [0] * len(fractions)
    for row in np.random.default_rng(seed).permutation(len(found)).tolist():
        known = (home[one] for one in found[row] if one in home)
        at = next(known, min(range(len(n)), key=lambda i: n[i] / parts[i]))
        home = dict.fromkeys(found[row], at) | home
        n[at] += 1
    if not all(n):
        raise DataError(
            f"{len(found)} pairs share prompts so closely that one of the splits {list(fractions)} "
            "is left empty; give more pairs, or a span to split them by."
        )
    return [home[one] for one in entities]


def _deal(
    found: Sequence[tuple[str, ...]],
    entities: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
) -> Int[np.ndarray, " entity"]:
    """The index of the split that each entity goes to."""
    code = {entity: n for n, entity in enumerate(entities)}
    width = max(map(len, found), default=1)
    # short rows repeat their first entity, which leaves the set of their splits as it is
    rows = np.array([[code[e] for e in (own + own[:1] * width)[:width]] for own in found])
    parts = np.array(list(fractions.values()))
    ends = np.round(np.cumsum([0, *parts]) * len(entities)).astype(int)
    in_order = np.repeat(np.arange(len(parts)), np.diff(ends))
    rng = np.random.default_rng(seed)

    def smallest(home: np.ndarray) -> float:
        at = home[rows]
        whole = (at == at[:, :1]).all(1)
        return float((np.bincount(at[whole, 0], minlength=len(parts)) / parts).min())

    home = max((rng.permutation(in_order) for _ in range(N_DEALS)), key=smallest)
    if not smallest(home):
        raise DataError(
            f"{len(found)} pairs link their {len(entities)} entities so closely that one of the "
            f"splits {list(fractions)} was empty in each of {N_DEALS} random deals; use fewer "
            "splits, or pair each entity with fewer others."
        )
    return home
