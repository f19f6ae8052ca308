"""The texts of the emotion system, as values and from JSONL files.

Scenarios carry three events, one of each valence (SEV's schema); vignettes bring an emotion about
without its name; replies answer one event in each of the six emotions and in none. What makes such
a file sound is in `circuits.emotion.rules`; the words and prompts are in `circuits.emotion.frames`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import DataFileError, did_you_mean
from interp.records import read_rows

EMOTIONS = ("anger", "sadness", "happiness", "fear", "surprise", "disgust")
"""The six, in the order of every table and tensor axis."""
NEUTRAL = "neutral"
LABELS = (*EMOTIONS, NEUTRAL)
VALENCES = ("positive", "neutral", "negative")
THEMES: Mapping[str, str] = {
    "Work/Job": "work",
    "School/Academia": "school",
    "Personal relationships": "relation",
    "Customer service/Shopping": "shopping",
    "Public services/Administration": "administration",
    "Health/Medical": "health",
    "Housing/Living facilities": "living",
    "Travel/Transportation": "travel",
}
"""Theme -> how its skeleton ids begin."""


@dataclass(frozen=True)
class Event:
    """How a scenario turned out.

    Attributes:
        valence: positive, neutral or negative.
        text: one sentence.
    """

    valence: str
    text: str


@dataclass(frozen=True)
class Scenario:
    """What somebody did, and three ways in which it turned out.

    Attributes:
        id: SEV's ``skeleton_id``.
        theme: part of life, one of `THEMES` in our files.
        text: first person, without a full stop.
        events: one event a valence, in the order of `VALENCES`.
        where: file and line, for messages.
    """

    id: str
    theme: str
    text: str
    events: tuple[Event, Event, Event]
    where: str = ""

    def event(self, valence: str) -> Event:
        """The event of a valence.

        Raises:
            KeyError: it is none of `VALENCES`.
        """
        return {event.valence: event for event in self.events}[valence]


@dataclass(frozen=True)
class Vignette:
    """A situation that brings an emotion about, or none, without naming it.

    Attributes:
        id: unique name.
        emotion: one of `LABELS`.
        text: one or two sentences, first person.
        where: file and line, for messages.
    """

    id: str
    emotion: str
    text: str
    where: str = ""


@dataclass(frozen=True)
class Reply:
    """What the person of a scenario says to an event, in an emotion that goes unnamed.

    Attributes:
        id: unique name.
        event_id: what the replies to the same event share.
        theme: part of life, one of `THEMES` in our files.
        valence: of the event, one of `VALENCES`.
        scenario: what the person did, without a full stop.
        event: how it turned out.
        emotion: one of `LABELS`.
        text: the reply.
        where: file and line, for messages.
    """

    id: str
    event_id: str
    theme: str
    valence: str
    scenario: str
    event: str
    emotion: str
    text: str
    where: str = ""


def load_scenarios(path: str | Path) -> tuple[Scenario, ...]:
    """Read scenarios of SEV's schema.

    Args:
        path: a JSONL file, shipped name or Hub id; its rows have ``theme``, ``scenario``,
            ``skeleton_id`` and ``event``, an object with a text for each of ``positive``,
            ``neutral`` and ``negative``.

    Raises:
        DataFileError: the file is missing or malformed, has no rows, or uses an id twice; the
            message names file and line.
    """
    scenarios = tuple(
        Scenario(
            id=_text(row, "skeleton_id", where),
            theme=_text(row, "theme", where),
            text=_text(row, "scenario", where),
            events=_events(row, where),
            where=where,
        )
        for where, row in _rows(path)
    )
    _require_unique([(s.id, s.where) for s in scenarios])
    return scenarios


def load_vignettes(path: str | Path) -> tuple[Vignette, ...]:
    """Read vignettes: rows of ``id``, ``emotion`` and ``text``.

    Raises:
        DataFileError: as `load_scenarios`, or an emotion is none of `LABELS`.
    """
    vignettes = tuple(
        Vignette(
            id=_text(row, "id", where),
            emotion=_one_of(LABELS, row, "emotion", where),
            text=_text(row, "text", where),
            where=where,
        )
        for where, row in _rows(path)
    )
    _require_unique([(v.id, v.where) for v in vignettes])
    return vignettes


def load_replies(path: str | Path) -> tuple[Reply, ...]:
    """Read replies: rows of the attributes of `Reply`, with the reply's text as ``reply``.

    Raises:
        DataFileError: as `load_scenarios`, or an emotion or a valence is unknown.
    """
    replies = tuple(
        Reply(
            id=_text(row, "id", where),
            event_id=_text(row, "event_id", where),
            theme=_text(row, "theme", where),
            valence=_one_of(VALENCES, row, "valence", where),
            scenario=_text(row, "scenario", where),
            event=_text(row, "event", where),
            emotion=_one_of(LABELS, row, "emotion", where),
            text=_text(row, "reply", where),
            where=where,
        )
        for where, row in _rows(path)
    )
    _require_unique([(r.id, r.where) for r in replies])
    return replies


def _rows(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    rows = read_rows(path)
    if not rows:
        raise DataFileError(f"{path} holds no rows; give at least one.")
    return rows


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        found = "is missing" if key not in row else f"is {value!r}"
        raise DataFileError(f"{where}: {key!r} {found}; it must be non-empty text.")
    return value


def _one_of(allowed: tuple[str, ...], row: Mapping[str, Any], key: str, where: str) -> str:
    value = _text(row, key, where)
    if value not in allowed:
        raise DataFileError(f"{where}: unknown {key} {value!r}. {did_you_mean(value, allowed)}")
    return value


def _events(row: Mapping[str, Any], where: str) -> tuple[Event, Event, Event]:
    events = row.get("event")
    if not isinstance(events, Mapping) or set(events) != set(VALENCES):
        found = sorted(map(str, events)) if isinstance(events, Mapping) else events
        raise DataFileError(
            f"{where}: 'event' has {found!r}; it must be an object with a text for each of "
            f"{', '.join(VALENCES)}."
        )
    positive, neutral, negative = (
        Event(valence, _text(events, valence, where)) for valence in VALENCES
    )
    return positive, neutral, negative


def _require_unique(ids: list[tuple[str, str]]) -> None:
    repeated = [name for name, times in Counter(name for name, _ in ids).items() if times > 1]
    if repeated:
        first, second = [where for name, where in ids if name == repeated[0]][:2]
        raise DataFileError(
            f"{second}: id {repeated[0]!r} was used before, in {first}; give every row its own id."
        )
