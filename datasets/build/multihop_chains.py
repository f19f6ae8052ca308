"""Write the multi-hop knowledge set for editing, and count what a model knows of it.

    python datasets/build/multihop_chains.py write                # the same bytes every time
    python datasets/build/multihop_chains.py count --model gemma-3-270m  # tables for the card

Facts, templates and aliases are written by hand in ``datasets/multihop_facts.json``; chains,
questions, counterfactual edits and splits follow from them by seeded rules, without any model.
"""

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from multihop_facts import (
    FOLDER,
    Chain,
    Fact,
    Knowledge,
    Relation,
    description,
    fill,
    hop,
    load_knowledge,
    mentions,
    questions,
)

CASES = FOLDER / "multihop_chains.json"
SEED = 0
N_THREE = 2  # three-hop chains kept for one last bridge and last relation, at most
N_IMPLICIT = 6
N_CANDIDATES = 20  # the best-known objects among which a counterfactual target is drawn
# positions of the edits of three-hop chains, in turn: a third of the cases carries two
THREE_HOP_EDITS = ((0,), (1,), (2,), (0, 2), (2,), (1,), (0,), (0, 1), (1, 2))

Case = dict[str, Any]

# --- chains ------------------------------------------------------------------------------------


def entities(chain: Chain) -> list[str]:
    """The source, the bridges and the answer."""
    return [chain[0].subject, *(fact.object for fact in chain)]


def bridges(chain: Chain) -> list[str]:
    """The entities that a composed question does not name and does not ask for."""
    return [fact.object for fact in chain[:-1]]


def sound(knowledge: Knowledge, chain: Chain) -> bool:
    """Whether no entity of the chain comes twice or gives another one away by its name."""
    every = entities(chain)
    return not any(
        mentions(a, knowledge.names(b))
        for i, a in enumerate(every)
        for b in every[:i] + every[i + 1 :]
    )


def all_chains(knowledge: Knowledge, hops: int) -> Iterator[Chain]:
    """Every sound composition; the middle relation of three leads home (city to country)."""

    def grown(chain: Chain) -> Iterator[Chain]:
        if len(chain) == hops:
            if sound(knowledge, chain):
                yield chain
            return
        for fact in knowledge.about.get(chain[-1].object, ()):
            if len(chain) == 1 and hops == 3 and not fact.relation.home:
                continue
            yield from grown((*chain, fact))

    for fact in knowledge.facts:
        yield from grown((fact,))


def chosen(knowledge: Knowledge, chains: Sequence[Chain], hops: int) -> list[Chain]:
    """A few chains for every bridge and last relation.

    They are taken in turn from the sequences of relations that lead to the bridge, in the order
    of the first relation in `knowledge.order`, and from the best-known source down; how many is
    a property of the last relation.
    """
    queues: dict[Any, dict[Any, list[Chain]]] = defaultdict(lambda: defaultdict(list))
    for chain in chains:
        path = tuple(fact.relation.name for fact in chain[:-1])
        queues[chain[-1].subject, chain[-1].relation.name][path].append(chain)
    kept: list[Chain] = []
    for by_path in queues.values():
        paths = sorted(by_path, key=lambda path: knowledge.order.index(path[0]))
        turns = in_turn([by_path[path] for path in paths])
        keep = turns[0][-1].relation.keep
        kept += turns[: keep if hops == 2 else min(keep, N_THREE)]
    return kept


def in_turn(queues: Sequence[Sequence[Any]]) -> list[Any]:
    """The first of each queue, then the second of each, and so on."""
    depth = max(map(len, queues), default=0)
    return [queue[i] for i in range(depth) for queue in queues if i < len(queue)]


# --- splits ------------------------------------------------------------------------------------


def bridge_groups(chains: Sequence[Chain]) -> dict[str, str]:
    """For each bridge the name of its group; bridges of one chain are in one group."""
    parent: dict[str, str] = {}

    def root(entity: str) -> str:
        while parent.setdefault(entity, entity) != entity:
            entity = parent[entity]
        return entity

    for chain in chains:
        first, *others = bridges(chain)
        for other in others:
            parent[root(other)] = root(first)
        root(first)
    return {entity: root(entity) for entity in list(parent)}


def split_bridges(groups: dict[str, str], chains: Sequence[Chain]) -> dict[str, str]:
    """Put each group of bridges into ``design`` or ``test``, alike in size and relations.

    Groups are placed from the largest down; each goes where it brings the counts of chains, in
    all and for each sequence of relations, closest to halves.
    """
    content: dict[str, Counter[Any]] = defaultdict(Counter)
    for chain in chains:
        content[groups[bridges(chain)[0]]][tuple(f.relation.name for f in chain)] += 1
    order = sorted(content)
    random.Random(SEED).shuffle(order)
    order.sort(key=lambda group: -content[group].total())
    lead: Counter[Any] = Counter()  # design minus test
    side: dict[str, str] = {}
    for group in order:
        kinds = content[group]
        pull = 3 * kinds.total() * lead.total() / max(1, len(kinds))
        pull += sum(n * lead[kind] for kind, n in kinds.items())
        side[group] = "design" if pull <= 0 else "test"
        for kind, n in kinds.items():
            lead[kind] += n if side[group] == "design" else -n
    return {bridge: side[group] for bridge, group in groups.items() if group in side}


# --- edits -------------------------------------------------------------------------------------


class Draw:
    """Draws counterfactual targets: seldom used first, among the best-known objects."""

    def __init__(self, knowledge: Knowledge, split: dict[str, str]) -> None:
        self.knowledge, self.split = knowledge, split
        self.used: Counter[tuple[str, str]] = Counter()
        self.objects: dict[str, list[str]] = defaultdict(list)
        for fact in knowledge.facts:
            if fact.object not in self.objects[fact.relation.name]:
                self.objects[fact.relation.name].append(fact.object)

    def edited(self, chain: Chain, at: Sequence[int]) -> tuple[Chain, tuple[Fact, ...]] | None:
        """The chain after edits at some hops, and what the edited facts say in truth.

        None where no target has a continuation in the chain's own split with another answer.
        """
        rng = random.Random(f"{SEED} {at} {entities(chain)}")
        for new, true in self._grown(chain, at, (), (), rng):
            for old, fact in zip(true, (new[i] for i in at), strict=True):
                assert old.object != fact.object
                self.used[fact.relation.name, fact.object] += 1
            return new, true
        return None

    def _grown(
        self, chain: Chain, at: Sequence[int], new: Chain, true: Chain, rng: random.Random
    ) -> Iterator[tuple[Chain, Chain]]:
        i = len(new)
        if i == len(chain):
            if self._valid(chain, new):
                yield new, true
            return
        relation = chain[i].relation
        subject = new[-1].object if new else chain[0].subject
        fact = self.knowledge.of.get((subject, relation.name))
        if fact is None or (i > 0 and self.split.get(subject) != self.split[bridges(chain)[0]]):
            return
        if i not in at:
            yield from self._grown(chain, at, (*new, fact), true, rng)
            return
        for target in self._targets(relation, fact.object, rng):
            step = Fact(subject, relation, target)
            yield from self._grown(chain, at, (*new, step), (*true, fact), rng)

    def _targets(self, relation: Relation, old: str, rng: random.Random) -> list[str]:
        names = self.knowledge.names
        others = [
            o
            for o in self.objects[relation.name]
            if not mentions(o, names(old)) and not mentions(old, names(o))
        ]
        known = others[:N_CANDIDATES]
        rng.shuffle(known)
        known.sort(key=lambda target: self.used[relation.name, target])
        return known + others[N_CANDIDATES:]

    def _valid(self, chain: Chain, new: Chain) -> bool:
        names = self.knowledge.names
        old_answer, answer = chain[-1].object, new[-1].object
        apart = not mentions(answer, names(old_answer)) and not mentions(old_answer, names(answer))
        return apart and sound(self.knowledge, new)


def implicit(knowledge: Knowledge, subject: str, avoid: Sequence[str]) -> list[tuple[str, Fact]]:
    """Noun phrases that mean `subject` and mention neither it nor what is to be avoided.

    Sources come relation by relation in turn, best known first.
    """
    queues: dict[str, list[tuple[str, Fact]]] = defaultdict(list)
    for fact in knowledge.to.get(subject, ()):
        phrase = description(knowledge, (fact,), 0)
        if not any(mentions(phrase, knowledge.names(name)) for name in (subject, *avoid)):
            queues[fact.relation.name].append((phrase, fact))
    return in_turn(list(queues.values()))[:N_IMPLICIT]


# --- cases -------------------------------------------------------------------------------------


def labelled(facts: Sequence[Fact]) -> list[list[str]]:
    """Triples as lists of names."""
    return [[fact.subject, fact.relation.name, fact.object] for fact in facts]


def rewrite(knowledge: Knowledge, new: Fact, old: Fact, avoid: Sequence[str]) -> Case:
    """One edit as MQuAKE writes it, with its implicit subjects."""
    phrases = implicit(knowledge, new.subject, avoid)
    return {
        "prompt": fill(new.relation.cloze, knowledge.texts[new.subject]),
        "relation_id": new.relation.name,
        "target_new": {"str": new.object},
        "target_true": {"str": old.object},
        "subject": new.subject,
        "question": fill(new.relation.question, knowledge.text(new.subject)),
        "implicit": [phrase for phrase, _ in phrases],
        "implicit_triples": labelled([fact for _, fact in phrases]),
    }


def case(
    knowledge: Knowledge, chain: Chain, new: Chain, at: Sequence[int], true: Chain, split: str
) -> Case:
    """A chain under its edits."""
    involved = dict.fromkeys((*entities(chain), *entities(new), *(fact.object for fact in true)))
    edits = [new[i] for i in at]
    return {
        "case_id": 0,
        "chain_id": 0,
        "split": split,
        "edited_hop": at[0],
        "bridge": bridges(chain),
        "requested_rewrite": [
            rewrite(knowledge, fact, old, [name for name in involved if name != fact.subject])
            for fact, old in zip(edits, true, strict=True)
        ],
        "questions": questions(knowledge, chain),
        "comp_cloze": fill(chain[-1].relation.cloze, description(knowledge, chain[:-1], 0)),
        "answer": chain[-1].object,
        "answer_alias": list(knowledge.aliases.get(chain[-1].object, ())),
        "new_answer": new[-1].object,
        "new_answer_alias": list(knowledge.aliases.get(new[-1].object, ())),
        "single_hops": [hop(knowledge, fact) for fact in chain],
        "new_single_hops": [hop(knowledge, fact) for fact in new],
        "orig": {
            "triples_labeled": labelled(chain),
            "new_triples_labeled": labelled(new),
            "edit_triples": labelled(edits),
            "edit_triples_idx": list(at),
        },
    }


def positions(chain: Chain, turn: int) -> tuple[tuple[int, ...], ...]:
    """The sets of hops that get a case: first and last of two, in turn those of three."""
    return ((0,), (1,)) if len(chain) == 2 else (THREE_HOP_EDITS[turn % len(THREE_HOP_EDITS)],)


def build(knowledge: Knowledge) -> tuple[list[Case], Counter[str]]:
    """All cases in a seeded random order of chains, and how many edits found no target."""
    possible = {hops: list(all_chains(knowledge, hops)) for hops in (2, 3)}
    kept = [chain for hops in (2, 3) for chain in chosen(knowledge, possible[hops], hops)]
    groups = bridge_groups([*possible[2], *possible[3]])
    split = split_bridges(groups, kept)
    random.Random(SEED).shuffle(kept)
    draw, cases, without = Draw(knowledge, split), [], Counter[str]()
    chain_id = turn = 0
    for chain in kept:
        before = len(cases)
        for at in positions(chain, turn):
            if (found := draw.edited(chain, at)) is None:
                without[f"{len(chain)} hops, edit at {at}"] += 1
                continue
            cases.append(case(knowledge, chain, *_order(found, at), split[bridges(chain)[0]]))
            cases[-1] |= {"case_id": len(cases) - 1, "chain_id": chain_id}
        chain_id += len(cases) > before
        turn += len(chain) == 3
    return cases, without


def _order(found: tuple[Chain, Chain], at: Sequence[int]) -> tuple[Chain, Sequence[int], Chain]:
    return found[0], at, found[1]


def as_text(cases: Sequence[Case]) -> str:
    """The file's content: a JSON array with one case a line."""
    lines = (json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def main() -> None:
    """Write the file or count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write", help=f"write {CASES.name}")
    counting = commands.add_parser("count", help="count what a model knows")
    counting.add_argument("--model", required=True)
    counting.add_argument(
        "--answers",
        type=Path,
        help="JSON of questions and answers; read, and written with what is new",
    )
    args = parser.parse_args()
    if args.command == "write":
        cases, without = build(load_knowledge())
        CASES.write_text(as_text(cases), encoding="utf-8")
        print(summary(cases), f"no target found: {dict(without)}", sep="\n")
    else:
        count(args.model, args.answers or Path("runs/editing") / f"know_{args.model}.json")


def count(name: str, file: Path) -> None:
    """Ask a model what `file` does not answer yet, and print the tables."""
    # torch and a model only where they are needed
    from multihop_known import rows_of, tables

    from circuits.editing.evaluation import SHOTS, load_cases
    from circuits.editing.evaluation.prior_knowledge import prior_knowledge
    from interp import load_model

    said = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    cases = list(load_cases(CASES))
    known = prior_knowledge(load_model(name), cases, SHOTS, answers=said)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known.answers, ensure_ascii=False), encoding="utf-8")
    raw = json.loads(CASES.read_text(encoding="utf-8"))
    print(tables(rows_of(raw, known.right)))
    reasons = Counter(known.usable(case) or "can be scored" for case in cases)
    print(f"\n{len(cases)} cases: {dict(reasons)}")


def summary(cases: Sequence[Case]) -> str:
    """What the file holds, in a few lines."""
    lines = [f"{len(cases)} cases, {len({r for c in cases for r in relations_of(c)})} relations"]
    for split in ("design", "test"):
        part = [c for c in cases if c["split"] == split]
        hops = Counter(len(c["single_hops"]) for c in part)
        lines.append(
            f"{split}: {len({c['chain_id'] for c in part})} chains, "
            f"{len({b for c in part for b in c['bridge']})} bridges, "
            f"{hops[2]} two-hop and {hops[3]} three-hop cases"
        )
    return "\n".join(lines)


def relations_of(one: Case) -> list[str]:
    """The relations of a case's chain."""
    return [relation for _, relation, _ in one["orig"]["triples_labeled"]]


if __name__ == "__main__":
    main()
