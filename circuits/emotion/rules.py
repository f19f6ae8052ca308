"""What makes a file of scenarios, vignettes or replies sound; every breach is a `Finding`.

The rules are those of the published set as far as they are known (first person, no full stop, one
event a valence, no emotion word, equal numbers a theme, no overlap between files), and what this
project adds: short events, replies that cross every event with every emotion, and varied openers.
Source: Wang et al. 2025 (arXiv 2510.11328), data section.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from circuits.emotion.data import LABELS, NEUTRAL, THEMES, Reply, Scenario, Vignette
from circuits.emotion.lexicon import coloured_words, emotion_names
from circuits.emotion.overlap import overlaps, words
from interp.errors import DataError

SCENARIO_WORDS = (10, 20)
EVENT_WORDS = (8, 25)
VIGNETTE_WORDS = (8, 40)
REPLY_WORDS = (8, 40)
SENTENCES = 2
SPREAD = 8
"""By how many words the events of one scenario may differ."""
OPENER_SHARE = 1 / 6
"""How much of an emotion's replies may begin with one word."""

_FIRST_PERSON = re.compile(r"\b(?:I|me|my|mine|myself|we|us|our|ours)\b", re.IGNORECASE)
_END = re.compile(r"[.!?]+[\"']?(?=\s|$)")


@dataclass(frozen=True)
class Finding:
    """One breach of one rule.

    Attributes:
        rule: the rule's name.
        where: file and line, or the file's part that it is about.
        message: what is wrong.
    """

    rule: str
    where: str
    message: str


def require(findings: Iterable[Finding]) -> None:
    """Refuse data that breaks a rule.

    Raises:
        DataError: there is a finding; the message gives the first and the count by rule.
    """
    found = list(findings)
    if found:
        rules = ", ".join(f"{n} × {rule}" for rule, n in Counter(f.rule for f in found).items())
        first = found[0]
        raise DataError(f"{first.where}: {first.message} Mend the file; found in all: {rules}.")


# --- scenarios -----------------------------------------------------------------------------------


def check_scenarios(
    scenarios: Sequence[Scenario], split: str, per_theme: int
) -> tuple[Finding, ...]:
    """Every breach of the rules for scenarios.

    Args:
        scenarios: the rows of one file.
        split: discovery, tuning or test, as the ids must say.
        per_theme: how many scenarios each theme of `THEMES` must have.
    """
    texts = [(t, s.where) for s in scenarios for t in (s.text, *(e.text for e in s.events))]
    return (
        *_counts("theme", (s.theme for s in scenarios), dict.fromkeys(THEMES, per_theme)),
        *(f for s in scenarios for f in _scenario(s, split)),
        *_repeats(texts),
    )


def _scenario(scenario: Scenario, split: str) -> Iterator[Finding]:
    where = scenario.where
    stem = THEMES.get(scenario.theme, "")
    if not re.fullmatch(rf"{stem}_{split}_\d\d", scenario.id):
        wanted = f"{stem}_{split}_00"
        yield Finding("id", where, f"id {scenario.id!r} is not of the form {wanted!r}.")
    if not scenario.text.startswith("I ") or scenario.text[-1] in ".!?":
        yield Finding(
            "form", where, f"scenario {scenario.text!r} must start with 'I ' and have no full stop."
        )
    yield from _length("scenario", scenario.text, SCENARIO_WORDS, where)
    yield from _colour(scenario.text, where)
    for event in scenario.events:
        if not re.fullmatch(r"[A-Z].*[.!?]", event.text) or _sentences(event.text) != 1:
            yield Finding("form", where, f"event {event.text!r} must be one sentence.")
        yield from _length(f"{event.valence} event", event.text, EVENT_WORDS, where)
        yield from _colour(event.text, where)
    lengths = [n_words(event.text) for event in scenario.events]
    if max(lengths) - min(lengths) > SPREAD:
        yield Finding("spread", where, f"the events have {lengths} words; keep them alike.")


# --- vignettes and replies -----------------------------------------------------------------------


def check_vignettes(vignettes: Sequence[Vignette], per_emotion: int) -> tuple[Finding, ...]:
    """Every breach of the rules for vignettes, of which each label must have `per_emotion`."""
    return (
        *_counts("emotion", (v.emotion for v in vignettes), dict.fromkeys(LABELS, per_emotion)),
        *(f for v in vignettes for f in _vignette(v)),
        *_repeats((v.text, v.where) for v in vignettes),
    )


def _vignette(vignette: Vignette) -> Iterator[Finding]:
    text, where = vignette.text, vignette.where
    yield from _length("vignette", text, VIGNETTE_WORDS, where)
    yield from _naming(text, vignette.emotion, where)
    if _sentences(text) not in range(1, SENTENCES + 1):
        yield Finding("form", where, f"{text!r} must be one or two sentences.")
    if not _FIRST_PERSON.search(text):
        yield Finding("person", where, f"{text!r} has no first person.")


def check_replies(replies: Sequence[Reply], per_emotion: int) -> tuple[Finding, ...]:
    """Every breach of the rules for replies, of which each label must have `per_emotion`."""
    return (
        *_counts("emotion", (r.emotion for r in replies), dict.fromkeys(LABELS, per_emotion)),
        *(f for r in replies for f in _reply(r)),
        *_crossing(replies),
        *_openers(replies),
        *_repeats((r.text, r.where) for r in replies),
    )


def _reply(reply: Reply) -> Iterator[Finding]:
    where = reply.where
    yield from _length("scenario", reply.scenario, SCENARIO_WORDS, where)
    yield from _length("event", reply.event, EVENT_WORDS, where)
    yield from _length("reply", reply.text, REPLY_WORDS, where)
    yield from _colour(f"{reply.scenario}. {reply.event}", where)
    yield from _naming(reply.text, reply.emotion, where)
    if _sentences(reply.text) not in range(1, SENTENCES + 1):
        yield Finding("form", where, f"{reply.text!r} must be one or two sentences.")


def _crossing(replies: Sequence[Reply]) -> Iterator[Finding]:
    """Every event must be answered once in each label, so that content tells no emotion."""
    by_event: dict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        by_event[reply.event_id].append(reply)
    for event_id, answers in by_event.items():
        labels = sorted(r.emotion for r in answers)
        if labels != sorted(LABELS):
            yield Finding(
                "crossing", answers[0].where, f"event {event_id!r} is answered in {labels}."
            )
        if len({(r.theme, r.valence, r.scenario, r.event) for r in answers}) > 1:
            yield Finding(
                "crossing", answers[0].where, f"event {event_id!r} has differing texts or tags."
            )


def _openers(replies: Sequence[Reply]) -> Iterator[Finding]:
    for label in LABELS:
        texts = [r.text for r in replies if r.emotion == label]
        openers = Counter(words(text)[0] for text in texts if words(text))
        for word, times in openers.items():
            if times > max(1, OPENER_SHARE * len(texts)):
                yield Finding(
                    "opener", label, f"{times} of {len(texts)} {label} replies begin with {word!r}."
                )


# --- overlap between files -----------------------------------------------------------------------

LIMITS: dict[int, float] = {1: 0.6, 3: 0.25}
"""n -> the Jaccard index of word n-grams from which two texts count as one text re-worded."""


def scenario_texts(scenarios: Iterable[Scenario]) -> list[str]:
    """The texts of scenarios and of their events, one after the other."""
    return [t for s in scenarios for t in (s.text, *(event.text for event in s.events))]


def check_overlap(
    left: Sequence[str], right: Sequence[str] | None = None, *, between: str
) -> tuple[Finding, ...]:
    """Near-duplicates, by vocabulary (n = 1) and by phrases (n = 3), at `LIMITS`.

    Args:
        left: texts.
        right: texts of another file; the other texts of `left` by default.
        between: what the texts are of, for the findings.
    """
    return tuple(
        Finding(
            "overlap",
            between,
            f"{o.left!r} and {o.right!r} share {o.jaccard:.0%} of their word {n}-grams.",
        )
        for n, limit in LIMITS.items()
        for o in overlaps(left, right, n=n, least=limit)
    )


# --- rules shared by all -------------------------------------------------------------------------


def _counts(what: str, found: Iterable[str], wanted: dict[str, int]) -> Iterator[Finding]:
    counted = Counter(found)
    for name in {**wanted, **counted}:
        if counted[name] != wanted.get(name, 0):
            yield Finding(
                "count",
                name,
                f"{what} {name!r} has {counted[name]} rows, not {wanted.get(name, 0)}.",
            )


def _length(what: str, text: str, bounds: tuple[int, int], where: str) -> Iterator[Finding]:
    if not bounds[0] <= n_words(text) <= bounds[1]:
        yield Finding(
            "length",
            where,
            f"the {what} {text!r} has {n_words(text)} words, not {bounds[0]} to {bounds[1]}.",
        )


def n_words(text: str) -> int:
    """How many words a text has, as split at white space."""
    return len(text.split())


def _colour(text: str, where: str) -> Iterator[Finding]:
    yield from _banned(coloured_words, text, where)


def _naming(text: str, label: str, where: str) -> Iterator[Finding]:
    yield from _banned(coloured_words if label == NEUTRAL else emotion_names, text, where)


def _banned(find: Callable[[str], list[str]], text: str, where: str) -> Iterator[Finding]:
    if found := find(text):
        yield Finding("emotion word", where, f"{text!r} has {', '.join(map(repr, found))}.")


def _sentences(text: str) -> int:
    return len(_END.findall(text))


def _repeats(texts: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for text, where in texts:
        key = " ".join(words(text))
        if key in seen:
            yield Finding("repeat", where, f"{text!r} stands already in {seen[key]}.")
        seen.setdefault(key, where)
