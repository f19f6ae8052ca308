"""What a model knows of the multi-hop set, as Markdown tables for its card."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Case = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """What a model answers of one chain.

    Attributes:
        split: the chain's.
        relations: of its hops.
        hops: for each hop, whether its question is answered.
        composed: whether any of the three composed questions is answered too; they were asked
            only where every hop is known.
    """

    split: str
    relations: tuple[str, ...]
    hops: tuple[bool, ...]
    composed: bool


def rows_of(cases: Sequence[Case], right: frozenset[str]) -> list[Row]:
    """One row a chain, given the questions that were answered rightly."""
    chains = {case["chain_id"]: case for case in cases}
    rows: list[Row] = []
    for case in chains.values():
        hops = tuple(hop["question"] in right for hop in case["single_hops"])
        relations = tuple(relation for _, relation, _ in case["orig"]["triples_labeled"])
        composed = all(hops) and any(question in right for question in case["questions"])
        rows.append(Row(case["split"], relations, hops, composed))
    return rows


def tables(rows: Sequence[Row]) -> str:
    """Counts by hops and split, by pair of relations for two hops, and by hop."""
    by_part: dict[str, list[Row]] = {"all": list(rows)}
    for hops in (2, 3):
        for split in ("design", "test"):
            by_part[f"{hops} hops, {split}"] = [
                row for row in rows if len(row.relations) == hops and row.split == split
            ]
    by_pair: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if len(row.relations) == 2:
            by_pair[f"`{row.relations[0]}`, `{row.relations[1]}`"].append(row)
    pairs = sorted(by_pair.items(), key=lambda pair: -sum(row.composed for row in pair[1]))
    return "\n\n".join([_table("chains", by_part.items()), _table("relations", pairs)])


def _table(title: str, parts: Any) -> str:
    out = [
        f"| {title} | n | first hop right | last hop right | every hop right "
        "| and a composed question right |",
        "|---|---|---|---|---|---|",
    ]
    for label, part in parts:
        counts = (
            len(part),
            sum(row.hops[0] for row in part),
            sum(row.hops[-1] for row in part),
            sum(all(row.hops) for row in part),
            sum(row.composed for row in part),
        )
        out.append(f"| {label} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(out)
