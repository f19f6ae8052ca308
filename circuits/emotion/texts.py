"""The texts of the emotion system, read from JSONL files: scenarios, vignettes, replies, labels."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import ConfigDict, Field

from interp.data.records import ClosedRow, Row, Text, checked_rows
from interp.errors import DataError

Emotion = Literal["anger", "sadness", "happiness", "fear", "surprise", "disgust"]
Label = Literal[Emotion, "neutral"]
Valence = Literal["positive", "neutral", "negative"]
EMOTIONS: tuple[str, ...] = get_args(Emotion)
"""The six, in the order of every table and tensor axis."""
NEUTRAL = "neutral"
TRAP = "within (trap)"
LABELS = (*EMOTIONS, NEUTRAL)
VALENCES: tuple[str, ...] = get_args(Valence)
THEMES = (
    "Work/Job",
    "School/Academia",
    "Personal relationships",
    "Customer service/Shopping",
    "Public services/Administration",
    "Health/Medical",
    "Housing/Living facilities",
    "Travel/Transportation",
)
"""Parts of life that the shipped texts are balanced over."""


class _TextRow(Row):
    """Its fields may be named as in the file or as here."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Events(ClosedRow):
    """Three ways in which a scenario turned out, one sentence each."""

    positive: Text
    neutral: Text
    negative: Text

    def __getitem__(self, valence: str) -> str:
        return getattr(self, valence)


class Scenario(_TextRow):
    """What somebody did (first person, without a full stop), and how it turned out.

    Rows have SEV's schema: ``skeleton_id``, ``theme``, ``scenario``, ``event``.
    """

    id: Text = Field(validation_alias="skeleton_id")
    theme: Text
    text: Text = Field(validation_alias="scenario")
    events: Events = Field(validation_alias="event")


class Vignette(_TextRow):
    """A situation, in one or two sentences, that evokes an emotion or none without naming it."""

    id: Text
    emotion: Label
    text: Text


class Reply(_TextRow):
    """What the person of a scenario says to an event, in an emotion that is not named.

    Replies to one event share its ``event_id``; the text is ``reply`` in the file.
    """

    id: Text
    event_id: Text
    theme: Text
    valence: Valence
    scenario: Text
    event: Text
    emotion: Label
    text: Text = Field(validation_alias="reply")


class LabelledReply(_TextRow):
    """A reply with the emotion that it expresses, as an annotator labelled it blind.

    `group` is the situation it answers, `part` (tuning or test) of which texts that is.
    """

    text: str = Field(validation_alias="reply")
    label: Label
    group: Text = Field(validation_alias="situation")
    part: Text


class Verdict(_TextRow):
    """A reply that was asked for in an emotion, and whether a published judge found it there.

    Rows have ``gen_text``, ``emotion``, ``match`` and ``skeleton_id``.
    """

    text: str = Field(validation_alias="gen_text")
    target: Emotion = Field(validation_alias="emotion")
    match: Literal[0, 1]
    group: Text = Field(validation_alias="skeleton_id")


def load_scenarios(path: str | Path) -> tuple[Scenario, ...]:
    """Read scenarios from a JSONL file, a shipped name or a Hub id.

    Raises:
        DataError: the file is missing or malformed, has no rows, or uses an id twice; the
            message names file and line.
    """
    return tuple(checked_rows(Scenario, path, unique="id"))


def load_vignettes(path: str | Path) -> tuple[Vignette, ...]:
    """Read vignettes; errors as `load_scenarios`."""
    return tuple(checked_rows(Vignette, path, unique="id"))


def load_replies(path: str | Path) -> tuple[Reply, ...]:
    """Read replies; errors as `load_scenarios`."""
    return tuple(checked_rows(Reply, path, unique="id"))


def load_verdicts(path: str | Path) -> tuple[Verdict, ...]:
    """Read judged replies of another model; errors as `load_scenarios`."""
    return tuple(checked_rows(Verdict, path))


def load_labelled(path: str | Path, part: str) -> tuple[LabelledReply, ...]:
    """Read blindly labelled replies of one part alone, so that no judge is fitted on its test."""
    return tuple(row for row in checked_rows(LabelledReply, path) if row.part == part)


@dataclass(frozen=True)
class Situation:
    """A scenario with one of its events; intervals are clustered by `scenario_id`."""

    id: str
    scenario_id: str
    theme: str
    valence: str
    scenario: str
    event: str

    @classmethod
    def of(cls, scenario: Scenario, valence: str) -> "Situation":
        """A scenario with its event of one valence."""
        name, event = f"{scenario.id}_{valence}", scenario.events[valence]
        return cls(name, scenario.id, scenario.theme, valence, scenario.text, event)

    @property
    def text(self) -> str:
        """Scenario and event as one text."""
        return f"{self.scenario}. {self.event}"


EVENTLESS = Situation("nothing", "nothing", "", NEUTRAL, "I did something", "It went as it did.")
"""A situation without content, against which the relevance of a reply is measured."""


def situations(scenarios: Sequence[Scenario], n: int) -> tuple[Situation, ...]:
    """One event each of `n` scenarios, themes and valences as balanced as `n` allows.

    Scenarios are taken theme by theme in file order, and the valence changes with each. Where `n`
    is larger than the file, scenarios come again with their next event, as long as there are any.
    """
    n_valences = len(VALENCES)
    if n > (most := len(scenarios) * n_valences):
        raise DataError(
            f"{n} situations asked for, but there are {len(scenarios)} scenarios, {most} events."
        )
    by_theme: dict[str, list[Scenario]] = defaultdict(list)
    for scenario in scenarios:
        by_theme[scenario.theme].append(scenario)
    order = [
        Situation.of(scenario, VALENCES[(turn + place + again) % n_valences])
        for again in range(n_valences)
        for turn in range(max(map(len, by_theme.values())))
        for place, theme in enumerate(by_theme.values())
        for scenario in theme[turn : turn + 1]
    ]
    return tuple(order[:n])


def interleaved(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Scenarios with themes in turn, so that the first of them are of all themes."""
    turn: Counter[str] = Counter()
    keys: list[tuple[int, int]] = []
    for place, scenario in enumerate(scenarios):
        turn[scenario.theme] += 1
        keys.append((turn[scenario.theme], place))
    return [scenarios[place] for _, place in sorted(keys)]
