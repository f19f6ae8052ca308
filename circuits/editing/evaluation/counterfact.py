"""CounterFact's schema (arXiv 2202.05262): one edit, its paraphrases and its neighbourhood."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.editing.evaluation.reading import (
    Records,
    list_of,
    name_of,
    names_of,
    object_of,
    parsed,
    text_of,
    texts_of,
)
from circuits.editing.fact import Fact
from interp.brief import brief
from interp.data.records import read_records


@brief
@dataclass(frozen=True)
class CounterFact:
    """One record.

    Attributes:
        id: of the record.
        fact: the edit.
        true: the object before it.
        paraphrases: prompts after which the new object must follow.
        neighbours: prompts about other subjects, after which the true object must still follow.
        generations: prompts to write on from, for fluency.
    """

    id: str
    fact: Fact
    true: str
    paraphrases: tuple[str, ...]
    neighbours: tuple[str, ...]
    generations: tuple[str, ...] = ()


def load_counterfact(source: str | Path, split: str | None = None) -> Records[CounterFact]:
    """Load CounterFact, of ROME or MEMIT (``multi_counterfact``), from a file or the Hub.

    Raises:
        DataError: no such file, or a row is not of this schema (named by number).
    """
    records, name = read_records(source, split, "CounterFact records")
    return parsed(records, name, _record, id_key="case_id")


def _record(row: Mapping[str, Any], id: str, where: str) -> CounterFact:
    rewrite = object_of(row, "requested_rewrite", where)
    fact = Fact(
        text_of(rewrite, "prompt", where),
        text_of(rewrite, "subject", where),
        text_of(object_of(rewrite, "target_new", where), "str", where),
        relation=name_of(rewrite, "relation_id", where) or "",
        where=where,
    )
    return CounterFact(
        id=id,
        fact=fact,
        true=text_of(object_of(rewrite, "target_true", where), "str", where),
        paraphrases=texts_of(row, "paraphrase_prompts", where),
        # MEMIT's multi_counterfact pairs each prompt with its target, which is the true object
        neighbours=tuple(
            text_of(given if isinstance(given, dict) else {"prompt": given}, "prompt", where)
            for given in list_of(row, "neighborhood_prompts", where)
        ),
        generations=names_of(row, "generation_prompts", where),
    )
