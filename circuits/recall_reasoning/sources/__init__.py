"""The data of a design for a model, split by bridge entity; `build` says which source it is from.

`organism`: a shipped organism's own world. `quadruples` and `countries`: facts about countries, as
a full 2 x 2 or as matched triples. Here: indirect objects and linguistic puzzles from pairs.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from circuits.recall_reasoning.cells import SPLITS, Data, data_of, pair_record
from circuits.recall_reasoning.designs import Design
from circuits.recall_reasoning.sources.countries import fact_cells, load_facts
from circuits.recall_reasoning.sources.organism import organism_cells, world_of
from circuits.recall_reasoning.sources.quadruples import quadruple_cells
from interp.data import datasets as shipped
from interp.data.chat import Chat
from interp.data.pairs import Pair, PromptPairs, load_pairs
from interp.data.splits import split_by_entity
from interp.loading.organisms import ORGANISMS
from interp.model.model import Model


def build(
    model: Model,
    design: Design,
    datasets: Path | None = None,
    n: int = 100,
    seed: int = 0,
    chat: Chat | None = None,
) -> Data:
    """Draw the cells of a design in a model's tokens, `n` pairs per cell and split.

    An organism gets its own world's cells, any other model those of the folder `datasets`
    (``recall_facts.jsonl``, ``ioi.jsonl``, ``linguistic_puzzles.jsonl``; by default as shipped).
    With `chat` each prompt is a user's turn; lengths are matched before, in the plain prompts.
    `DataError` where a file is missing, or a split is left without pairs.
    """
    return replace(_drawn(model, design, datasets, n, seed), chat=chat)


def _drawn(model: Model, design: Design, datasets: Path | None, n: int, seed: int) -> Data:
    cells = set(design.cells)
    if model.name in ORGANISMS:
        return organism_cells(world_of(model), n, seed).only(cells)
    datasets = datasets or shipped.folder()
    if cells & {"P-recall", "P-reasoning"}:
        return puzzle_cells(load_pairs(datasets / "linguistic_puzzles.jsonl"), n, seed)
    facts = load_facts(datasets / "recall_facts.jsonl")
    if cells & {"B", "C", "D"}:
        return quadruple_cells(model, facts, n, seed).only(cells)
    data = fact_cells(model, facts, n, seed).only(cells)
    if "IOI" in cells:
        return _joined(data, ioi_cell(load_pairs(datasets / "ioi.jsonl"), n, seed))
    return data


def _joined(data: Data, other: Data) -> Data:
    """Cells of two sources side by side."""
    return replace(
        data,
        pairs={split: {**data.pairs[split], **other.pairs[split]} for split in SPLITS},
        bridge={**data.bridge, **other.bridge},
        relation={**data.relation, **other.relation},
        candidates={**data.candidates, **other.candidates},
        rejected=(*data.rejected, *other.rejected),
        source=f"{data.source} and {other.source}",
    )


def ioi_cell(pairs: PromptPairs, n: int, seed: int) -> Data:
    """Indirect objects; no name occurs in two splits. `DataError` where a split has no pairs."""
    splits = split_by_entity(pairs, ("io", "s1"), dict.fromkeys(SPLITS, 1 / 3), seed)
    records = [
        pair_record(pair, "IOI", pair.answer) | {"split": split}
        for split in SPLITS
        for pair in splits[split][:n]
    ]
    return data_of(records, {"IOI": _answers(pairs)}, splits.dropped, pairs.source, seed)


def puzzle_cells(pairs: PromptPairs, n: int, seed: int) -> Data:
    """Puzzles in both forms; no lexicon is in two splits. `DataError` where a split has none."""
    by_lexicon: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_lexicon.setdefault(pair.id.rpartition("-")[0], []).append(pair)
    order = np.random.default_rng(seed).permutation(len(by_lexicon))
    lexicons = [list(by_lexicon)[i] for i in order]
    records = [
        pair_record(pair, f"P-{pair.id.rpartition('-')[2]}", lexicon) | {"split": split}
        for at, split in enumerate(SPLITS)
        for lexicon in lexicons[at :: len(SPLITS)][:n]
        for pair in by_lexicon[lexicon]
    ]
    candidates = {cell: _answers(pairs) for cell in ("P-recall", "P-reasoning")}
    return data_of(records, candidates, (), pairs.source, seed)


def _answers(pairs: PromptPairs) -> tuple[str, ...]:
    return tuple(sorted({text for p in pairs for text in (p.answer, p.wrong_answer)}))
