"""Implicit subjects: phrases that mean a fact's subject without naming it, found in the model.

A model is asked what it connects with the subject. What it names becomes a phrase ("the country
where the Louvre is located"), which is used where the model itself leads from the phrase to the
subject, and from the fact asked about the phrase to the answer that it gives about the subject.
"""

import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from circuits.editing.evaluated_chains import Description, EvaluatedChain
from circuits.editing.evaluation.answers import SHORT, Answer, normalised, short_answer
from circuits.editing.evaluation.control_questions import in_turn
from circuits.editing.evaluation.demonstrations import LINES, SHOTS, Shots
from circuits.editing.evaluation.edited_models import asking, generations
from circuits.editing.fact import SLOT, Fact
from circuits.editing.methods import NAMES, Names
from circuits.editing.subject_relations import KINDS, SUBJECT_RELATIONS
from interp.brief import brief
from interp.data.chat import Chat
from interp.errors import DataError, did_you_mean, shown
from interp.interventions.run import forward
from interp.model.model import Model
from interp.progress import Progress, reported

MOST = 6
"""Names of a fact, at most."""
MARGIN, MOST_KINDS = 1.5, 3
"""A subject is of the likeliest kind, and of those within so many nats of it."""
MOST_SOURCES, N_LISTED, N_DESCRIBED = 5, 24, 16
"""Sources taken from a reply, tokens of a list, and tokens of a description."""
AT_ONCE = 512
"""Questions between two reports of progress."""
LISTED = Shots(
    "Q: Which animals have feathers?\nA: Swan, Pigeon, Eagle, Parrot\n\n"
    "Q: Who killed the Minotaur?\nA: Theseus\n\n"
    "Q: Which metals conduct electricity?\nA: Copper, Silver, Gold\n\n"
    "Q: Which heroes fought at Troy?\nA: Achilles, Hector, Ajax, Odysseus\n\n",
    LINES,
)
"""Demonstrations of lists."""
DESCRIBED = Shots(
    "mouse: the small animal that is hunted by cats\nIron: the metal that rusts\n"
    "Saturn: the planet that is famous for its rings\nTheseus: the hero who killed the Minotaur\n"
    "bread: the food whose chief ingredient is flour\n",
    SLOT,
)
"""Demonstrations of descriptions."""
WAYS = ("whose", "where", "that is famous for", "that has", "that is called")
"""How a description goes on behind the noun that the model begins it with."""

KEPT = "used"
SURPLUS = "beyond the number of names wanted"
UNKNOWN = "the model does not lead from it to the subject"
UNRESOLVED = "the fact asked about it does not get the answer about the subject"
NAMES_SUBJECT = "it names the subject"
NAMES_ANSWER = "it names the old or the new answer"
COLUMNS = ("fact", "phrase", "relation", "source", "outcome")


@brief
@dataclass(frozen=True)
class ImplicitSubjects:
    """Facts with the implicit names found for them, and what became of every phrase.

    Attributes:
        facts: all facts, in order.
        tried: one row per fact and phrase: number of the ``fact``, ``phrase``, ``relation``,
            ``source``, ``outcome``: `KEPT`, or why it is not used. A fact that was not searched
            for has none.
        n_questions: that the model was asked.
    """

    facts: tuple[Fact, ...]
    tried: pd.DataFrame = field(repr=False)
    n_questions: int = 0
    seconds: float = 0.0

    @property
    def counts(self) -> list[dict[str, int]]:
        """Per fact, how many phrases had each outcome."""
        by_fact = self.tried.groupby("fact")["outcome"]
        found = {number: dict(Counter(outcomes)) for number, outcomes in by_fact}
        return [found.get(i, {}) for i in range(len(self.facts))]

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each fact that was searched for."""
        rows = zip(self.facts, self.counts, strict=True)
        return tuple(
            f"{fact.cloze!r}: {len(fact.implicit)} implicit names found; tried "
            + ", ".join(f"{n} ({outcome})" for outcome, n in counts.items())
            for fact, counts in rows
            if counts
        )


def implicit_subjects(
    model: Model,
    facts: Sequence[Fact],
    names: Names = "missing",
    *,
    leak: EvaluatedChain | Sequence[EvaluatedChain] | None = None,
    most: int = MOST,
    progress: Progress | bool = False,
) -> ImplicitSubjects:
    """Give facts the implicit names that the model itself understands.

    A phrase is used if the model, asked behind demonstrations, (1) says what it connects with the
    subject by a relation of `SUBJECT_RELATIONS`, or describes the subject in words of its own;
    (2) answers the subject when asked about the phrase; (3) answers the fact about the phrase as
    it answers it about the subject. Costs about 60 short questions per subject and 15 per fact.

    Args:
        model: as it is now, before the facts are written.
        facts: those searched for are asked as their question, or as their prompt without one.
        names: which facts are searched for: those without names, or all (``"found"``: their own
            are withheld); with ``"given"`` and ``"none"`` the model is not asked.
        leak: what an evaluation asks, of all facts or of each; phrases that show any of it are
            excluded and counted.
        most: names per fact.
        progress: called with (questions asked, questions in this round).

    Raises:
        DataError: an unknown choice of names, or another number of `leak` than of facts.
    """
    if names not in NAMES:
        raise DataError(f"no choice {shown(names)} of names. {did_you_mean(names, NAMES)}")
    one = EvaluatedChain() if leak is None else leak
    tested = [one] * len(facts) if isinstance(one, EvaluatedChain) else list(one)
    if len(tested) != len(facts):
        raise DataError(f"{len(tested)} of leak for {len(facts)} facts; give one per fact.")
    started = time.perf_counter()
    kept = facts if names in ("given", "missing") else [replace(f, implicit=()) for f in facts]
    with reported(progress, "implicit subjects", 0, "questions") as report:
        search = _Search(model, kept, tested, most, report)
        if names in ("missing", "found"):
            search.run()
    return search.result(time.perf_counter() - started)


Described = dict[str, list[Description]]
"""By subject."""
Asked = tuple[str, Chat | None]
Row = tuple[int, Description, str]
"""Number of a fact, what was tried for it, and the outcome."""


@dataclass
class _Search:
    """The search for names of many facts at once."""

    model: Model
    facts: Sequence[Fact]
    tested: Sequence[EvaluatedChain]
    most: int
    report: Progress
    rows: list[Row] = field(default_factory=list)
    old: dict[int, str] = field(default_factory=dict)
    n_questions: int = 0

    def run(self) -> None:
        """By relations first; in the model's own words where these give too few."""
        unnamed = [i for i, fact in enumerate(self.facts) if not fact.implicit]
        replies = self._asked(SHOTS, [self._about(i) for i in unnamed])
        self.old = {i: replies[self._about(i)] for i in unnamed}
        for route in (self._by_relation, self._by_description):
            used = Counter(i for i, _, outcome in self.rows if outcome == KEPT)
            short = [i for i in unnamed if used[i] < self.most]
            described = route(list(dict.fromkeys(self.facts[i].subject for i in short)))
            known = {(i, one.phrase) for i, one, _ in self.rows}
            fresh = [(i, one) for i in short for one in described[self.facts[i].subject]]
            judged = self._judged([row for row in fresh if (row[0], row[1].phrase) not in known])
            for i in short:
                mine = [row for row in judged if row[0] == i]
                self.rows += _chosen(mine, self.most - used[i])

    def result(self, seconds: float) -> ImplicitSubjects:
        """What was found."""
        rows = [(i, d.phrase, d.relation, d.source, said) for i, d, said in self.rows]
        tried = pd.DataFrame(rows, columns=list(COLUMNS))
        return ImplicitSubjects(named(self.facts, tried), tried, self.n_questions, seconds)

    # --- what could mean a subject -------------------------------------------------------------

    def _by_relation(self, subjects: Sequence[str]) -> Described:
        kinds = _kinds(self.model, subjects)
        asked = {
            (subject, relation): _filled(relation.elicit, subject)
            for subject in subjects
            for relation in SUBJECT_RELATIONS
            if relation.kind in kinds[subject]
        }
        replies = self._asked(LISTED, [(text, None) for text in asked.values()], N_LISTED)
        out: Described = {subject: [] for subject in subjects}
        for (subject, relation), text in asked.items():
            for source in self._sources(replies[text, None]):
                phrase = _filled(relation.phrase, source)
                question = _filled(relation.question, source)
                out[subject].append(Description(phrase, question, relation.id, source))
        return out

    def _sources(self, reply: str) -> list[str]:
        """The names in a list, without the last where the list was cut off."""
        names = [name.strip(" .\"'").removeprefix("and ") for name in reply.split(",")]
        if len(names) > 1 and len(self.model.encode(reply)) >= N_LISTED:
            names.pop()
        lowered = (f"the {name[4:]}" if name.startswith("The ") else name for name in names)
        return list(dict.fromkeys(filter(normalised, lowered)))[:MOST_SOURCES]

    def _by_description(self, subjects: Sequence[str]) -> Described:
        begun = {subject: f"{subject}: the" for subject in subjects}
        first = self._asked(DESCRIBED, [(text, None) for text in begun.values()], N_DESCRIBED)
        nouns = {
            subject: re.split(r" (?:that|who|whose|which|where|in|of)\b", first[text, None])[0]
            for subject, text in begun.items()
        }
        more = [(f"{begun[s]} {noun} {way}", None) for s, noun in nouns.items() for way in WAYS]
        ends = first | self._asked(DESCRIBED, more, N_DESCRIBED)
        out: Described = {subject: [] for subject in subjects}
        for (text, _), end in ends.items():
            subject = next(s for s in subjects if text.startswith(begun[s]))
            if end and len(self.model.encode(end)) < N_DESCRIBED:  # else it was cut off
                phrase = f"{text.removeprefix(f'{subject}: ')} {end}".rstrip(" .,")
                out[subject].append(Description(phrase, f"What is {phrase}?"))
        return out

    # --- what the model makes of it ------------------------------------------------------------

    def _judged(self, fresh: Sequence[tuple[int, Description]]) -> list[Row]:
        """What becomes of each description of each fact: `KEPT` if nothing speaks against it."""
        outcomes = [self._refused(i, one) for i, one in fresh]
        for check, reason in ((self._leads, UNKNOWN), (self._resolves, UNRESOLVED)):
            left = [at for at, outcome in enumerate(outcomes) if not outcome]
            for at, passed in zip(left, check([fresh[at] for at in left]), strict=True):
                outcomes[at] = "" if passed else reason
        return [(i, one, said or KEPT) for (i, one), said in zip(fresh, outcomes, strict=True)]

    def _refused(self, i: int, one: Description) -> str:
        """Why it is not asked about; empty where it is."""
        fact = self.facts[i]
        if any(_hints(one.phrase, name) for name in self._names(i)):
            return NAMES_SUBJECT
        if any(_hints(one.phrase, name) for name in (self.old[i], fact.target)):
            return NAMES_ANSWER
        return one.leaks(self.tested[i])

    def _leads(self, rows: Sequence[tuple[int, Description]]) -> list[bool]:
        """Whether the model answers the subject when asked about each."""
        asked = [(one.question, self.facts[i].chat) for i, one in rows]
        replies = self._asked(SHOTS, asked)
        return [
            any(_same(replies[text], name) for name in self._names(i))
            for (i, _), text in zip(rows, asked, strict=True)
        ]

    def _resolves(self, rows: Sequence[tuple[int, Description]]) -> list[bool]:
        """Whether the fact, asked about each, is answered as about the subject."""
        asked = [self._about(i, one.phrase) for i, one in rows]
        replies = self._asked(SHOTS, asked)
        return [_same(replies[text], self.old[i]) for (i, _), text in zip(rows, asked, strict=True)]

    def _names(self, i: int) -> tuple[str, ...]:
        """The subject's name, and others that are known."""
        return self.facts[i].subject, *self.tested[i].aliases

    def _about(self, i: int, name: str = "") -> Asked:
        """A fact asked about its subject, or about another name."""
        fact = self.facts[i]
        return _filled(fact.question or fact.prompt, name or fact.subject), fact.chat

    def _asked(self, shots: Shots, texts: Iterable[Asked], n_tokens: int = 0) -> dict[Asked, str]:
        """The model's replies to questions, each asked once."""
        todo = list(dict.fromkeys(texts))
        out: dict[Asked, str] = {}
        for lo in range(0, len(todo), AT_ONCE):
            some = todo[lo : lo + AT_ONCE]
            asks = [asking(replace(shots, chat=chat), text) for text, chat in some]
            asks = [replace(one, n_tokens=n_tokens or one.n_tokens) for one in asks]
            out |= zip(some, map(short_answer, generations(self.model, asks, [()])), strict=True)
            self.n_questions += len(some)
            self.report(lo + len(some), len(todo))
        return out


def named(facts: Sequence[Fact], tried: pd.DataFrame) -> tuple[Fact, ...]:
    """Facts with the phrases that are in use; those of which nothing was tried, as they are."""
    used: Any = tried[tried["outcome"] == KEPT]
    phrases = {number: tuple(of["phrase"]) for number, of in used.groupby("fact")}
    return tuple(
        replace(fact, implicit=phrases.get(i, fact.implicit)) for i, fact in enumerate(facts)
    )


def _kinds(model: Model, subjects: Sequence[str]) -> dict[str, list[str]]:
    """The kinds that each subject may be of, by how ``"X is a"`` goes on."""
    out: dict[str, list[str]] = {}
    starts = [f"{subject} is a" for subject in subjects]
    log_p = forward(model, starts).logits.log_softmax(-1) if starts else ()
    for subject, start, row in zip(subjects, starts, log_p, strict=True):
        n = len(model.encode(start))
        score = {kind: float(row[model.encode(f"{start} {kind}")[n]]) for kind in KINDS}
        near = [kind for kind in KINDS if score[kind] >= max(score.values()) - MARGIN]
        out[subject] = sorted(near, key=lambda kind: -score[kind])[:MOST_KINDS]
    return out


def _chosen(rows: Sequence[Row], n: int) -> list[Row]:
    """At most n of a fact's rows stay in use, each relation's first before any second."""
    kept = [at for at, (_, _, outcome) in enumerate(rows) if outcome == KEPT]
    used = in_turn(kept, lambda at: rows[at][1].relation)[:n]
    return [
        (i, one, SURPLUS if outcome == KEPT and at not in used else outcome)
        for at, (i, one, outcome) in enumerate(rows)
    ]


def _filled(template: str, name: str) -> str:
    return template.replace(SLOT, name)


def _hints(phrase: str, name: str) -> bool:
    """Whether a phrase has a name in it, or a word that its last one begins ("Korean")."""
    last = normalised(name)[-1:]
    long = last and len(last[0]) > SHORT
    return Answer(name).lenient(phrase) or bool(
        long and any(word.startswith(last[0]) for word in normalised(phrase))
    )


def _same(reply: str, name: str) -> bool:
    """Whether a reply has a name in it, or is how it begins ("United States" of America)."""
    said = normalised(reply)
    return Answer(name).lenient(reply) or bool(said) and normalised(name)[: len(said)] == said
