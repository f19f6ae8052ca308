"""The texts of the emotion system, as values and from JSONL files.

Scenarios carry three events, one of each valence (SEV's schema); vignettes bring an emotion about
without its name; replies answer one event in each of the six emotions and in none. What makes such
a file sound is in `circuits.emotion.rules`; the words and prompts are in `circuits.emotion.frames`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

from interp.brief import brief
from interp.data.records import ClosedRow, Row, Text, checked, placed_rows
from interp.errors import DataError, shown

Emotion = Literal["anger", "sadness", "happiness", "fear", "surprise", "disgust"]
Label = Literal[Emotion, "neutral"]
Valence = Literal["positive", "neutral", "negative"]
EMOTIONS: tuple[str, ...] = get_args(Emotion)
"""The six, in the order of every table and tensor axis."""
NEUTRAL = "neutral"
LABELS = (*EMOTIONS, NEUTRAL)
VALENCES: tuple[str, ...] = get_args(Valence)
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


@brief
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


class _Events(ClosedRow):
    positive: Text
    neutral: Text
    negative: Text


class _ScenarioRow(Row):
    skeleton_id: Text
    theme: Text
    scenario: Text
    event: _Events


class _VignetteRow(Row):
    id: Text
    emotion: Label
    text: Text


class _ReplyRow(Row):
    id: Text
    event_id: Text
    theme: Text
    valence: Valence
    scenario: Text
    event: Text
    emotion: Label
    reply: Text


def load_scenarios(path: str | Path) -> tuple[Scenario, ...]:
    """Read scenarios of SEV's schema.

    Args:
        path: a JSONL file, shipped name or Hub id; its rows have ``theme``, ``scenario``,
            ``skeleton_id`` and ``event``, an object with a text for each of ``positive``,
            ``neutral`` and ``negative``.

    Raises:
        DataError: the file is missing or malformed, has no rows, or uses an id twice; the
            message names file and line.
    """
    scenarios = tuple(
        Scenario(row.skeleton_id, row.theme, row.scenario, _events(row.event), where)
        for where, row in _rows(path, _ScenarioRow)
    )
    _require_unique([(s.id, s.where) for s in scenarios])
    return scenarios


def load_vignettes(path: str | Path) -> tuple[Vignette, ...]:
    """Read vignettes: rows of ``id``, ``emotion`` and ``text``.

    Raises:
        DataError: as `load_scenarios`, or an emotion is none of `LABELS`.
    """
    vignettes = tuple(
        Vignette(row.id, row.emotion, row.text, where) for where, row in _rows(path, _VignetteRow)
    )
    _require_unique([(v.id, v.where) for v in vignettes])
    return vignettes


def load_replies(path: str | Path) -> tuple[Reply, ...]:
    """Read replies: rows of the attributes of `Reply`, with the reply's text as ``reply``.

    Raises:
        DataError: as `load_scenarios`, or an emotion or a valence is unknown.
    """
    replies = tuple(
        Reply(**row.model_dump(exclude={"reply"}), text=row.reply, where=where)
        for where, row in _rows(path, _ReplyRow)
    )
    _require_unique([(r.id, r.where) for r in replies])
    return replies


R = TypeVar("R", bound=Row)


def _rows(path: str | Path, kind: type[R]) -> list[tuple[str, R]]:
    lines = placed_rows(path)
    if not lines:
        raise DataError(f"{path} holds no rows; give at least one.")
    return [(where, checked(kind, row, where)) for where, row in lines]


def _events(row: _Events) -> tuple[Event, Event, Event]:
    return (
        Event("positive", row.positive),
        Event("neutral", row.neutral),
        Event("negative", row.negative),
    )


def _require_unique(ids: list[tuple[str, str]]) -> None:
    repeated = [name for name, times in Counter(name for name, _ in ids).items() if times > 1]
    if repeated:
        first, second = [where for name, where in ids if name == repeated[0]][:2]
        raise DataError(
            f"{second}: id {shown(repeated[0])} was used before, in {first}; give every row "
            "its own id."
        )
