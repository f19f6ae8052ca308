"""Self-written records in MQuAKE's schema, for tests: a small world whose chains are all known."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from conftest import ROOT

from circuits.editing.evaluation.cases import Case, Cases
from circuits.editing.evaluation.formats import _parsed

MQUAKE = ROOT.parent / "shared" / "data" / "mquake"
needs_data = pytest.mark.skipif(not MQUAKE.is_dir(), reason=f"no MQuAKE sample at {MQUAKE}")

ASKS = {
    "author": ("Who wrote {}?", "{} was written by"),
    "citizenship": ("Which country is {} a citizen of?", "{} is a citizen of"),
    "capital": ("What is the capital of {}?", "The capital of {} is"),
    "born": ("Where was {} born?", "{} was born in"),
}
PHRASES = {"author": "the author of {}", "citizenship": "the country of {}"}


def world() -> dict[tuple[str, str], str]:
    """Object by (subject, relation): 12 books, 6 writers, 4 countries and their capitals."""
    facts: dict[tuple[str, str], str] = {}
    for n in range(12):
        facts[f"Book{n:02}", "author"] = f"Writer{n % 6:02}"
    for n in range(6):
        facts[f"Writer{n:02}", "citizenship"] = f"Land{n % 4:02}"
        facts[f"Writer{n:02}", "born"] = f"Town{n % 3:02}"
    for n in range(4):
        facts[f"Land{n:02}", "capital"] = f"Town{n:02}"
    return facts


FACTS = world()


def hop(subject: str, relation: str, target: str) -> dict[str, Any]:
    question, cloze = (form.format(subject) for form in ASKS[relation])
    alias = [f"{target} Town"] if target.startswith("Town") else []
    return {"question": question, "cloze": cloze, "answer": target, "answer_alias": alias}


def chain(start: str, relations: list[str], edits: dict[int, str]) -> list[tuple[str, str, str]]:
    """Triples of a chain, in which the hops named by `edits` have new objects."""
    triples, subject = [], start
    for at, relation in enumerate(relations):
        target = edits.get(at) or FACTS[subject, relation]
        triples.append((subject, relation, target))
        subject = target
    return triples


def record(id: int, start: str, relations: list[str], edits: dict[int, str]) -> dict[str, Any]:
    old, new = chain(start, relations, {}), chain(start, relations, edits)
    phrase = start
    for relation in relations[:-1]:
        phrase = PHRASES[relation].format(phrase)
    last, (ask, _) = relations[-1], ASKS[relations[-1]]
    return {
        "case_id": id,
        "requested_rewrite": [
            {
                "prompt": ASKS[relations[at]][1],
                "relation_id": relations[at],
                "target_new": {"str": target, "id": None},
                "target_true": {"str": FACTS[new[at][0], relations[at]], "id": None},
                "subject": new[at][0],
                "question": ASKS[relations[at]][0].format(new[at][0]),
            }
            for at, target in edits.items()
        ],
        "questions": [ask.format(phrase), f"Tell me: {ask.format(phrase)}", f"{last} {phrase}?"],
        "answer": old[-1][2],
        "answer_alias": [f"{old[-1][2]} Town"],
        "new_answer": new[-1][2],
        "new_answer_alias": [],
        "single_hops": [hop(*triple) for triple in old],
        "new_single_hops": [hop(*triple) for triple in new],
        "orig": {"triples_labeled": [list(t) for t in old]},
    }


def records() -> list[dict[str, Any]]:
    """For each book: an edit of its first hop, of its second, of both, and three hops."""
    two, three = ["author", "citizenship"], ["author", "citizenship", "capital"]
    made = []
    for n in range(12):
        book, other = f"Book{n:02}", f"Writer{(n + 1) % 6:02}"
        land = f"Land{(n % 6 + 2) % 4:02}"
        for relations, edits in (
            (two, {0: other}),
            (two, {1: land}),
            (["author", "born"], {1: f"Town{(n + 1) % 3:02}"}),
            (three, {1: land}),
            (three, {0: other, 2: "Town03"}),
        ):
            made.append(record(len(made), book, relations, edits))
    return made


def parse_cases(rows: Sequence[Mapping[str, Any]], source: str = "records") -> Cases[Case]:
    """Multi-hop cases of records, as `load_cases` makes them of a file."""
    return _parsed(list(enumerate(rows, 1)), source, "mquake")
