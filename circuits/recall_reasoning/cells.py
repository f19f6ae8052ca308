"""What is compared: the cells of the design, the prompt pairs of each, and who is in which split.

A cell asks one kind of question. Rows of different splits share no bridge entity: the land or
country that a fact is about, whether the prompt names it (one hop) or not (two hops).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from interp.brief import brief
from interp.data.pairs import Excluded, PromptPairs
from interp.data.records import Index, Row, Text, checked, read_jsonl
from interp.errors import DataError, did_you_mean, shown
from interp.results.files import write_text

SPLITS = ("selection", "validation", "test")
"""Circuits are scored on the first, chosen on the second, and tested once, on the third."""


@dataclass(frozen=True)
class Cell:
    """A kind of question.

    Attributes:
        name: its label.
        fact: where the fact is that answers it.
        hops: how many facts must be chained; 0 where that does not apply.
        says: what it asks, for tables and pages.
    """

    name: str
    fact: Literal["weights", "context", "neither"]
    hops: int
    says: str


CELLS: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        Cell("A", "weights", 1, "recall a stored fact"),
        Cell("B", "weights", 2, "compose two stored facts"),
        Cell("C", "context", 1, "read a fact that the prompt states"),
        Cell("D", "context", 2, "compose two facts that the prompt states"),
        Cell("C-conflict", "context", 1, "read a stated fact that contradicts the stored one"),
        Cell("C-nonce", "context", 1, "read a stated fact about a made-up country"),
        Cell("IOI", "neither", 0, "name the indirect object (a third task)"),
        Cell("P-recall", "context", 1, "repeat a phrase of a made-up language"),
        Cell("P-reasoning", "context", 2, "apply a rule of a made-up language to a new phrase"),
    )
}


@brief
@dataclass(frozen=True)
class Ability:
    """A circuit's claim: it is needed for some cells, and for the others not at all."""

    name: str
    own: tuple[str, ...]
    others: tuple[str, ...]


@brief
@dataclass(frozen=True)
class Design:
    """Which cells are contrasted.

    Attributes:
        name: as the command line calls it.
        abilities: each gets a circuit.
        doubles: pairs of abilities whose double dissociation is tested.
    """

    name: str
    abilities: tuple[Ability, ...]
    doubles: tuple[tuple[str, str], ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """Every cell, in the order of `CELLS`."""
        used = {c for ability in self.abilities for c in (*ability.own, *ability.others)}
        return tuple(c for c in CELLS if c in used)


def _two(name: str, first: tuple[str, str], second: tuple[str, str]) -> Design:
    """A contrast of two cells, each given as (name of the ability, cell)."""
    (a, own), (b, other) = first, second
    return Design(name, (Ability(a, (own,), (other,)), Ability(b, (other,), (own,))), ((a, b),))


DESIGNS: dict[str, Design] = {
    design.name: design
    for design in (
        Design(
            "2x2",
            (
                Ability("recall", ("A", "B"), ("C", "D")),
                Ability("in-context", ("C", "D"), ("A", "B")),
                Ability("reasoning", ("B", "D"), ("A", "C")),
                Ability("one-step", ("A", "C"), ("B", "D")),
            ),
            (("recall", "in-context"), ("recall", "reasoning"), ("one-step", "reasoning")),
        ),
        _two("A-D", ("recall", "A"), ("in-context reasoning", "D")),
        _two("A-C", ("recall", "A"), ("copying", "C")),
        _two("A-conflict", ("recall", "A"), ("copying", "C-conflict")),
        _two("A-nonce", ("recall", "A"), ("copying", "C-nonce")),
        _two("A-ioi", ("recall", "A"), ("indirect object", "IOI")),
        _two("puzzles", ("recall", "P-recall"), ("reasoning", "P-reasoning")),
    )
}


def design_named(name: str) -> Design:
    """Look a design up.

    Raises:
        DataError: unknown name; the message suggests the nearest.
    """
    if name not in DESIGNS:
        raise DataError(f"unknown design {shown(name)}. {did_you_mean(name, DESIGNS)}")
    return DESIGNS[name]


@brief
@dataclass(frozen=True)
class Data:
    """Prompt pairs by split and cell.

    Attributes:
        pairs: split -> cell -> pairs.
        bridge: id of a pair -> its bridge entity, by which intervals resample.
        relation: id of a pair -> what is asked of the bridge, such as its capital; empty where
            a cell has no relations.
        candidates: cell -> the answers that accuracy chooses among.
        shortcuts: id of a pair -> the prompts of a shorter way to its answer. A model that is
            right on one need not have composed anything.
        rejected: what could not be matched, with reasons.
        source: where the rows are from.
        seed: of the splits and draws.
    """

    pairs: Mapping[str, Mapping[str, PromptPairs]]
    bridge: Mapping[str, str]
    relation: Mapping[str, str]
    candidates: Mapping[str, tuple[str, ...]]
    shortcuts: Mapping[str, tuple[str, ...]]
    rejected: tuple[Excluded, ...]
    source: str
    seed: int

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells that have pairs."""
        return tuple(next(iter(self.pairs.values())))

    def of(self, split: str, cell: str) -> PromptPairs:
        """The pairs of one cell in one split.

        Raises:
            DataError: there is no such cell.
        """
        if cell not in self.pairs[split]:
            raise DataError(f"{self.source} has no cell {cell!r}. {did_you_mean(cell, self.cells)}")
        return self.pairs[split][cell]

    def clusters(self, pairs: PromptPairs) -> list[str]:
        """The bridge entity of each pair."""
        return [self.bridge[pair.id] for pair in pairs]

    def save(self, path: Path) -> None:
        """Write one row a pair as JSON lines; `load_data` reads it."""
        head = {
            "source": self.source,
            "seed": self.seed,
            "candidates": dict(self.candidates),
            "rejected": [vars(row) for row in self.rejected],
        }
        lines = [head, *self.records()]
        text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
        write_text(path, text + "\n")

    def records(self) -> list[dict[str, Any]]:
        """One record a pair, as `PromptPairs.from_records` takes them, with split and cell."""
        return [
            {
                "id": pair.id,
                "split": split,
                "cell": cell,
                "bridge": self.bridge[pair.id],
                "relation": self.relation[pair.id],
                "clean": pair.clean,
                "corrupt": pair.corrupt,
                "answer": pair.answer,
                "wrong_answer": pair.wrong_answer,
                "spans": {name: [list(a), list(b)] for name, (a, b) in pair.spans.items()},
                "shortcuts": list(self.shortcuts.get(pair.id, ())),
            }
            for split, cells in self.pairs.items()
            for cell, pairs in cells.items()
            for pair in pairs
        ]


def data_of(
    records: list[dict[str, Any]],
    candidates: Mapping[str, tuple[str, ...]],
    rejected: tuple[Excluded, ...],
    source: str,
    seed: int,
) -> Data:
    """Put records, each with split, cell and bridge, into their places.

    Raises:
        DataError: a split lacks a cell, or a row is not a pair.
    """
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


def _is_cell(name: str) -> str:
    if name not in CELLS:
        raise ValueError(f"it must be one of {', '.join(CELLS)}")
    return name


def load_data(path: Path) -> Data:
    """Read what `Data.save` wrote.

    Raises:
        DataError: the file is missing or is no such file.
        DataError: a row is not a pair.
    """
    lines = read_jsonl(path, "cells")
    if not lines:
        raise DataError(f"{path} is empty; write one with `interp recall-reasoning build`.")
    (first, start), *rows = lines
    head = checked(_Head, start, f"{path}, line {first}")
    seen: dict[str, int] = {}
    for number, record in rows:
        row = checked(_CellRow, record, f"{path}, line {number}")
        if row.id in seen:
            raise DataError(
                f"{path}, line {number}: id {shown(row.id)} was used before, in line "
                f"{seen[row.id]}; give every row its own."
            )
        if row.cell not in head.candidates:
            raise DataError(f"{path}, line {first}: candidates of cell {row.cell} are missing.")
        seen[row.id] = number
    candidates = {cell: tuple(texts) for cell, texts in head.candidates.items()}
    records = [record for _, record in rows]
    return data_of(records, candidates, tuple(head.rejected), head.source, head.seed)


class _Head(Row):
    source: str
    seed: Index
    candidates: dict[str, list[Text]]
    rejected: list[Excluded]


class _CellRow(Row):
    """What `data_of` reads; the rest of a row is that of a prompt pair."""

    id: Text
    split: Literal["selection", "validation", "test"]
    cell: Annotated[str, AfterValidator(_is_cell)]
    bridge: Text
    relation: str = ""
    shortcuts: list[Text] = []
