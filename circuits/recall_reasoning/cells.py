"""The prompt pairs of each cell, split so that no bridge entity is in two splits.

A bridge entity is the land or country that a fact is about, whether the prompt names it (one hop)
or not (two hops).
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from circuits.recall_reasoning.designs import CELLS
from interp.brief import brief
from interp.data.chat import Chat
from interp.data.pairs import Excluded, Pair, PromptPairs
from interp.errors import DataError, did_you_mean
from interp.results.folder import write_text

SPLITS = ("selection", "validation", "test")
"""Circuits are scored on the first, chosen on the second, and tested once, on the third."""

Record = dict[str, Any]
"""A pair as `PromptPairs.from_records` takes it, with split, cell, bridge, relation, shortcuts."""


@brief
@dataclass(frozen=True)
class Data:
    """Prompt pairs by split and cell.

    Attributes:
        bridge: id of a pair -> its bridge entity, by which intervals resample.
        relation: id of a pair -> what is asked of the bridge; empty where a cell has no relations.
        candidates: cell -> the answers that accuracy chooses among.
        shortcuts: id of a pair -> the prompts of a shorter way to its answer. A model that is
            right on one need not have composed anything.
        rejected: what could not be matched, with reasons.
        chat: how prompts are put into the model's chat template; None: they are plain texts.
    """

    pairs: Mapping[str, Mapping[str, PromptPairs]]
    bridge: Mapping[str, str]
    relation: Mapping[str, str]
    candidates: Mapping[str, tuple[str, ...]]
    shortcuts: Mapping[str, tuple[str, ...]]
    rejected: tuple[Excluded, ...]
    source: str
    seed: int
    chat: Chat | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells that have pairs."""
        return tuple(next(iter(self.pairs.values())))

    def of(self, split: str, cell: str, most: int | None = None) -> PromptPairs:
        """The pairs of one cell in one split, at most so many, in the chat that there is.

        `DataError` for an unknown cell.
        """
        if cell not in self.pairs[split]:
            raise DataError(f"{self.source} has no cell {cell!r}. {did_you_mean(cell, self.cells)}")
        pairs = self.pairs[split][cell][:most]
        return pairs if self.chat is None else pairs.as_chat(self.chat)

    def only(self, cells: Collection[str]) -> Self:
        """The same with some cells alone."""
        pairs = {
            split: {name: rows for name, rows in found.items() if name in cells}
            for split, found in self.pairs.items()
        }
        return replace(self, pairs=pairs)

    def clusters(self, pairs: PromptPairs) -> list[str]:
        """The bridge entity of each pair."""
        return [self.bridge[pair.id] for pair in pairs]

    def save(self, path: Path) -> None:
        """Write JSON lines: a head, then one row per pair."""
        head = {
            "source": self.source,
            "seed": self.seed,
            "candidates": dict(self.candidates),
            "rejected": [vars(row) for row in self.rejected],
            "chat": self.chat and vars(self.chat),
        }
        lines = [json.dumps(line, ensure_ascii=False) for line in (head, *self.records())]
        write_text(path, "\n".join(lines) + "\n")

    def records(self) -> list[Record]:
        """One record per pair."""
        return [
            {
                **pair_record(pair, cell, self.bridge[pair.id]),
                "split": split,
                "relation": self.relation[pair.id],
                "shortcuts": list(self.shortcuts.get(pair.id, ())),
            }
            for split, cells in self.pairs.items()
            for cell, pairs in cells.items()
            for pair in pairs
        ]


def record_of(
    cell: str,
    bridge: str,
    prompts: tuple[str, str],
    subjects: tuple[str, str],
    answers: tuple[str, str],
    relation: str,
) -> Record:
    """The record of a (clean, corrupt) question; each subject is where it occurs last."""
    first, second = (
        (text.rindex(name), text.rindex(name) + len(name))
        for text, name in zip(prompts, subjects, strict=True)
    )
    pair = Pair("", *prompts, *answers, {"subject": (first, second)})
    return pair_record(pair, cell, bridge) | {"relation": relation}


def pair_record(pair: Pair, cell: str, bridge: str) -> Record:
    """The record of a pair."""
    own = {name: value for name, value in vars(pair).items() if name != "where"}
    return own | {"cell": cell, "bridge": bridge}


def data_of(
    records: list[Record],
    candidates: Mapping[str, tuple[str, ...]],
    rejected: tuple[Excluded, ...],
    source: str,
    seed: int,
) -> Data:
    """Records by split and cell; `DataError` where a split lacks a cell, or a row is no pair."""
    cells = [c for c in CELLS if any(r["cell"] == c for r in records)]
    pairs: dict[str, dict[str, PromptPairs]] = {}
    for split in SPLITS:
        rows = {c: [r for r in records if (r["split"], r["cell"]) == (split, c)] for c in cells}
        empty = next((c for c in cells if not rows[c]), None)
        if empty or not cells:
            raise DataError(
                f"{source} has no pairs of {empty or 'any cell'} for the {split} split; "
                f"{len(rejected)} rows were rejected"
                + (f", first: {rejected[0].reason}" if rejected else ".")
            )
        pairs[split] = {
            c: PromptPairs.from_records(rows[c], f"{source}, {c}, {split}") for c in cells
        }
    return Data(
        pairs=pairs,
        bridge={r["id"]: str(r["bridge"]) for r in records},
        relation={r["id"]: r.get("relation", "") for r in records},
        candidates=candidates,
        shortcuts={r["id"]: tuple(r["shortcuts"]) for r in records if r.get("shortcuts")},
        rejected=rejected,
        source=source,
        seed=seed,
    )
