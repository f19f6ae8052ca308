"""Prompts around a text: emotion words near and far, demonstrations without any, vignettes.

A frame has two forms that differ in the emotion word alone as far as English allows: with the
word, which evokes a state, and without, to steer from.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from circuits.emotion.texts import (
    EMOTIONS,
    THEMES,
    VALENCES,
    LabelledReply,
    Reply,
    Scenario,
    Situation,
    Verdict,
    load_labelled,
    load_replies,
    load_scenarios,
    load_verdicts,
)
from interp.brief import brief
from interp.data import datasets
from interp.data.chat import Chat, has_template, render
from interp.data.datasets import locate
from interp.data.prompts import TokenPrompt
from interp.data.records import ClosedRow, Count, Row, Text, checked, read_json
from interp.errors import DataError, ModelError, PlanError, did_you_mean, shown
from interp.model.model import Model

Words = Mapping[str, str]
"""Emotion -> word."""


@dataclass(frozen=True)
class EmotionPrompt:
    """A prompt as text; in a chat, `text` is the user's turn."""

    text: str
    system: str | None = None


class Frame(ClosedRow):
    """A prompt around ``{scenario}`` and ``{event}``, with and without an emotion ``{word}``.

    Its `distance` is near where the word comes right before the reply, else far; a chat prompt has
    a system turn, too.
    """

    name: Text
    distance: Literal["near", "far"]
    text: str
    neutral: str
    system: str | None = None
    neutral_system: str | None = None

    @model_validator(mode="after")
    def _has_its_fields(self) -> Self:
        where, fields = f"frame {shown(self.name)}", {"scenario", "event"}
        if (self.system is None) != (self.neutral_system is None):
            raise ValueError(f"{where}: give both system and neutral_system, or neither")
        _check_fields(f"{self.text}{self.system or ''}", fields | {"word"}, where)
        _check_fields(f"{self.neutral}{self.neutral_system or ''}", fields, where)
        return self

    def fill(self, scenario: str, event: str, word: str | None = None) -> EmotionPrompt:
        """The prompt for a text, with an emotion word or in the neutral form."""
        neutral = self.neutral, self.neutral_system
        text, system = neutral if word is None else (self.text, self.system)
        fields = {"scenario": scenario, "event": event, "word": word}
        return EmotionPrompt(text.format(**fields), system and system.format(**fields))


class Demonstrations(ClosedRow):
    """A prompt of `number` events with their replies, which ends where the next reply begins."""

    number: Count
    separator: str
    demonstration: str
    query: str

    @model_validator(mode="after")
    def _has_its_fields(self) -> Self:
        _check_fields(self.demonstration, {"scenario", "event", "reply"}, "demonstration")
        _check_fields(self.query, {"scenario", "event"}, "query")
        return self

    def fill(self, replies: Sequence[Reply], scenario: str, event: str) -> EmotionPrompt:
        """The prompt that shows `number` replies and asks for one to an event."""
        if len(replies) != self.number:
            raise ValueError(f"{len(replies)} replies, not {self.number}")
        given = [
            self.demonstration.format(scenario=r.scenario, event=r.event, reply=r.text)
            for r in replies
        ]
        asked = self.query.format(scenario=scenario, event=event)
        return EmotionPrompt(self.separator.join([*given, asked]))


class Frames(Row):
    """All words and prompts: set -> emotion -> word (the sets are synonyms), and the frames."""

    words: dict[str, dict[str, Text]]
    listed: tuple[Frame, ...] = Field(validation_alias="frames")
    demonstrations: Demonstrations
    vignette: str

    @field_validator("words")
    @classmethod
    def _names_every_emotion(cls, words: dict[str, Words]) -> dict[str, Words]:
        for name, row in words.items():
            if tuple(row) != EMOTIONS:
                raise ValueError(
                    f"words {shown(name)}: has {shown(', '.join(row))[1:-1]}; it must have "
                    f"{', '.join(EMOTIONS)}, in this order"
                )
        times = Counter(word for row in words.values() for word in row.values())
        if twice := sorted(word for word, n in times.items() if n > 1):
            raise ValueError(f"{shown(twice[0])} stands for two sets or emotions")
        return words

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        _check_fields(self.vignette, {"text"}, "vignette")
        if len(self.frames) < len(self.listed):
            raise ValueError("two frames have the same name; give each its own")
        return self

    @property
    def frames(self) -> dict[str, Frame]:
        """The frames by name."""
        return {frame.name: frame for frame in self.listed}

    def style(self, style: str) -> tuple[Frame, Words]:
        """Frame and words of a style, such as ``felt:B``; `DataError` where it has none."""
        frame, _, words = style.partition(":")
        frames = self.frames
        if frame not in frames or words not in self.words:
            known = [f"{f}:{w}" for f in frames for w in self.words]
            raise DataError(f"unknown style {shown(style)}. {did_you_mean(style, known)}")
        return frames[frame], self.words[words]


def load_frames(path: str | Path) -> Frames:
    """Read words and prompts from a JSON file, or the shipped ``emotion_frames`` by that name.

    Raises:
        DataError: the file is missing or malformed, a set lacks an emotion, two emotions share
            a word, or a prompt lacks a field or has another; the message names the place.
    """
    path = locate(path, "a JSON file of frames")
    return checked(Frames, read_json(path, "words and prompts (JSON)"), str(path))


def _check_fields(template: str, fields: set[str], where: str) -> None:
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"{where}: {error}; write {{{{ for a brace") from error
    found = {name for _, name, _, _ in parts}
    if found != fields or any(form or conversion for _, _, form, conversion in parts):
        raise ValueError(
            f"{where}: has the fields {shown(sorted(map(str, found)))}, and must have "
            f"{sorted(fields)}, each as {{name}} alone"
        )


# --- asking for replies ---------------------------------------------------------------------------

KINDS = {"neutral": False, "word": True, "chat": True, "demonstrations": True}
"""Kinds of prompt that ask for a reply, and whether they differ by emotion."""


@brief
@dataclass(frozen=True)
class ReplyPrompts:
    """How replies are asked for.

    Three self-written replies of the same emotion are shown as demonstrations; the style is that of
    the neutral prompts and of those with the emotion's word.
    """

    frames: Frames
    replies: Sequence[Reply] = ()
    style: str = "felt:B"

    def prompt(self, kind: str, situation: Situation, emotion: str) -> EmotionPrompt:
        """The prompt of one kind for a situation and an emotion.

        Args:
            kind: ``neutral``: no emotion anywhere; ``word``: the emotion word right before the
                reply; ``chat``: the word in a system turn; ``demonstrations``: three replies in
                the emotion, no word.
            situation: what to reply to.
            emotion: one of `EMOTIONS`.
        """
        if kind not in KINDS:
            raise PlanError(f"unknown kind of prompt {kind!r}; choose one of {', '.join(KINDS)}.")
        if kind == "demonstrations":
            return self._demonstrated(situation, emotion)
        frame, words = self.frames.style(self.style)
        if kind == "chat":
            frame = self.frames.frames["chat"]
        word = words[emotion] if KINDS[kind] else None
        return frame.fill(situation.scenario, situation.event, word)

    def _demonstrated(self, situation: Situation, emotion: str) -> EmotionPrompt:
        """Replies to one event of each valence, of three themes other than the situation's own."""
        place = THEMES.index(situation.theme) if situation.theme in THEMES else 0
        found = {(r.theme, r.valence): r for r in self.replies if r.emotion == emotion}
        examples: list[Reply] = []
        for turn, valence in enumerate(VALENCES):
            theme = THEMES[(place + 1 + turn) % len(THEMES)]
            if (theme, valence) not in found:
                raise DataError(
                    f"no reply in {emotion} of theme {theme!r} to a {valence} event, which "
                    "demonstrations need; add one to the file of replies."
                )
            examples.append(found[theme, valence])
        return self.frames.demonstrations.fill(examples, situation.scenario, situation.event)


def token_prompt(model: Model, prompt: EmotionPrompt, *, double_bos: bool = False) -> TokenPrompt:
    """A prompt in a model's tokens; chat turns by its template, up to where the reply begins.

    With `double_bos` the rendered chat is tokenised with special tokens once more, as in the
    released code (Llama then gets two BOS tokens).
    """
    if prompt.system is None:
        return TokenPrompt(tuple(model.encode(prompt.text)))
    if not has_template(model):
        raise ModelError(
            f"{model.name} has no chat template, so the system turn {shown(prompt.system)} cannot "
            "be put before it; use a frame without a system turn, such as 'felt'."
        )
    text, _ = render(model, Chat(system=prompt.system).wrap(prompt.text))
    return TokenPrompt(tuple(model.encode(str(text) if double_bos else text)))


# --- all texts of a run ---------------------------------------------------------------------------


@brief
@dataclass(frozen=True)
class EmotionTexts:
    """The texts that a verb needs.

    Attributes:
        events: scenarios whose events are read, or replied to.
        replies: self-written, as demonstrations and to fit the judges on.
        plain: other scenarios, to which the judges' model replies without an emotion.
        verdicts, labelled: further replies for the judges, published and labelled blind.
    """

    events: Sequence[Scenario]
    frames: Frames
    replies: Sequence[Reply]
    plain: Sequence[Scenario]
    verdicts: Sequence[Verdict] = ()
    labelled: Sequence[LabelledReply] = ()

    @classmethod
    def load(
        cls,
        events: str | Path,
        folder: Path | None = None,
        published: str | None = None,
        plain: str = "discovery",
    ) -> "EmotionTexts":
        """Read the texts; `DataError` where a file is missing or malformed.

        Args:
            events: a part of the texts in `folder` (discovery, tuning, test); or other scenarios:
                a file, shipped name or Hub id.
            folder: of your own texts, called as the shipped ones, which are the default.
            published: judged replies of another model.
            plain: part of the texts that `plain` comes from.
        """
        at = folder or datasets.folder()
        named = events in ("discovery", "tuning", "test")
        own = load_scenarios(_scenarios(at, str(events)) if named else events)
        frames = load_frames(at / "emotion_frames.json")
        replies, others = load_replies(at / "emotion_replies.jsonl"), _scenarios(at, plain)
        ids = {scenario.id for scenario in own}
        labelled = load_labelled(at / "emotion_blind_labels.jsonl", "tuning")
        unseen = [one for one in labelled if one.group.rpartition("_")[0] not in ids]
        verdicts = load_verdicts(published) if published else ()
        return cls(own, frames, replies, load_scenarios(others), verdicts, tuple(unseen))


def _scenarios(folder: Path, part: str) -> Path:
    return folder / f"emotion_scenarios_{part}.jsonl"
