"""The texts that are replied to, a balanced part of a file, and the prompts that ask for it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from circuits.emotion.data import EMOTIONS, THEMES, VALENCES, Reply, Scenario
from circuits.emotion.frames import Frames, Prompt
from interp.brief import brief
from interp.errors import DataError, PlanError


@dataclass(frozen=True)
class Situation:
    """A scenario with one of its events.

    Attributes:
        id: unique name.
        scenario_id: of the scenario; intervals are clustered by it.
        theme: of the scenario.
        valence: of the event, one of `VALENCES`.
        scenario: what the person did.
        event: how it turned out.
    """

    id: str
    scenario_id: str
    theme: str
    valence: str
    scenario: str
    event: str

    @property
    def text(self) -> str:
        """Scenario and event as one text."""
        return f"{self.scenario}. {self.event}"


NOTHING = Situation("nothing", "nothing", "", "neutral", "I did something", "It went as it did.")
"""A situation that says nothing: what a reply is compared with to see whether it is about its own.
"""


def situations(scenarios: Sequence[Scenario], n: int) -> tuple[Situation, ...]:
    """One event each of `n` scenarios, themes and valences as balanced as `n` allows.

    Scenarios are taken theme by theme in file order; the valence turns with every one and is set
    off by one from theme to theme. Where `n` is larger than the file, scenarios come again with
    their next event.

    Raises:
        DataError: the file has fewer events.
    """
    most = len(scenarios) * len(VALENCES)
    if n > most:
        raise DataError(
            f"{n} situations asked for, but there are {len(scenarios)} scenarios, {most} events."
        )
    by_theme: dict[str, list[Scenario]] = defaultdict(list)
    for scenario in scenarios:
        by_theme[scenario.theme].append(scenario)
    turns = max(map(len, by_theme.values()))
    order = [
        (scenario, (turn + place + again) % len(VALENCES))
        for again in range(len(VALENCES))
        for turn in range(turns)
        for place, theme in enumerate(by_theme.values())
        for scenario in theme[turn : turn + 1]
    ]
    return tuple(_situation(scenario, event) for scenario, event in order[:n])


def _situation(scenario: Scenario, event: int) -> Situation:
    valence, text = scenario.events[event].valence, scenario.events[event].text
    name = f"{scenario.id}_{valence}"
    return Situation(name, scenario.id, scenario.theme, valence, scenario.text, text)


# --- prompts -------------------------------------------------------------------------------------


@brief
@dataclass(frozen=True)
class Asking:
    """How a reply is asked for.

    Attributes:
        frames: words and prompts.
        demonstrations: self-written replies, of which three of the same emotion are shown.
        frame: of the neutral prompts and of those with the emotion's word.
        words: set of emotion words.
    """

    frames: Frames
    demonstrations: Sequence[Reply] = ()
    frame: str = "felt"
    words: str = "B"

    def prompt(self, kind: str, situation: Situation, emotion: int) -> Prompt:
        """The prompt of one kind for a situation and an emotion.

        Args:
            kind: ``neutral``: no emotion anywhere; ``word``: the frame with the emotion word
                right before the reply; ``chat``: the word in a system turn; ``chat_neutral``;
                ``demonstrations``: three replies in the emotion, no word; ``demonstrations_word``:
                the same with the word before each reply.
            situation: what to reply to.
            emotion: as its place in `EMOTIONS`.

        Raises:
            PlanError: an unknown kind.
        """
        if kind not in KINDS:
            raise PlanError(f"unknown kind of prompt {kind!r}; choose one of {', '.join(KINDS)}.")
        word = self.frames.words[self.words][EMOTIONS[emotion]]
        if kind.startswith("demonstrations"):
            feeling = f" I felt {word}." if kind.endswith("word") else ""
            return self._shown(situation, emotion, feeling)
        frame = self.frames.frames["chat" if kind.startswith("chat") else self.frame]
        return frame.fill(situation.scenario, situation.event, word if KINDS[kind] else None)

    def _shown(self, situation: Situation, emotion: int, feeling: str) -> Prompt:
        """Replies to one event a valence, of three themes other than the situation's own."""
        themes = list(THEMES)
        place = themes.index(situation.theme) if situation.theme in THEMES else 0
        wanted = [
            (themes[(place + 1 + turn) % len(themes)], valence)
            for turn, valence in enumerate(VALENCES)
        ]
        own = EMOTIONS[emotion]
        found = {(r.theme, r.valence): r for r in self.demonstrations if r.emotion == own}
        missing = next((key for key in wanted if key not in found), None)
        if missing is not None:
            raise DataError(
                f"no reply in {own} of theme {missing[0]!r} to a {missing[1]} event, which "
                "demonstrations need; add one to the file of replies."
            )
        shown = [replace(found[key], event=found[key].event + feeling) for key in wanted]
        event = situation.event + feeling
        return self.frames.demonstrations.fill(shown, situation.scenario, event)


KINDS: Mapping[str, bool] = {
    "neutral": False,
    "chat_neutral": False,
    "word": True,
    "chat": True,
    "demonstrations": True,
    "demonstrations_word": True,
}
"""Kinds of prompt, and whether they differ by emotion."""
