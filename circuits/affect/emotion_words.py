"""Lists of emotions, people's ratings of their words, and texts that evoke each emotion."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from circuits.emotion.prompts import Words, load_frames
from circuits.emotion.texts import NEUTRAL, Scenario, Situation, interleaved, load_scenarios
from interp.brief import brief
from interp.data.chat import Chat, switches
from interp.data.records import Finite, Row, Text, checked_rows
from interp.errors import DataError, shown
from interp.interventions.generate import generate
from interp.model.model import Model

LISTS = ("six", "goemotions", "broad")
LEAST = 3
"""Emotions, so that there is a plane to put them in."""
NORMS = ["valence", "arousal"]
COLUMNS = ("id", "kind", "unsteered", "turn", "speaker", "part", "token", "tokens")
"""Of results that have a column per emotion, too."""
FRAMES = ("felt", "day", "made", "diary")
"""In turn near and far from the emotion's word, so that the two halves of the texts differ."""
STORY = (
    "Write a story of about six sentences. It begins: {scenario}. The person in it feels {word}. "
    "Do not write the word {word}; show the feeling by what the person does, thinks and says."
)
TOKENS = 160
"""Of a generated story, at most."""
NAMED, EMPTY = "the story names its emotion", "the story is empty"
FOREIGN = "the text's emotion is not in the list"
FEW_OF = "its emotion has fewer than two texts to read"
SHORT = "the text has no token to read behind its first"
ENDINGS = "y|s|es|d|ed|ing|ly|ness|ful|fully|fulness|ous|ously|ment"
"""What a word that names an emotion may end in."""


class EmotionWord(Row):
    """An emotion, its word in a sentence (by default its name), and the list it is in."""

    emotion: Text
    word: Text | None = None
    group: str = Field("", validation_alias="list")


class WordNorm(Row):
    """People's mean ratings of a word."""

    word: Text
    valence: Finite | None = None
    arousal: Finite | None = None


class GivenText(Row):
    """A text that evokes an emotion."""

    emotion: Text
    text: Text


def load_words(source: str | Path) -> Words:
    """Emotion -> word, from a list of `LISTS` or a JSON(L) file; `DataError` for a faulty one."""
    shipped = str(source) in LISTS
    place, unique = ("emotion_words", None) if shipped else (source, "emotion")
    rows = checked_rows(EmotionWord, place, "emotions", unique)
    rows = [row for row in rows if not shipped or row.group == str(source)]
    found = {row.emotion: row.word or row.emotion for row in rows}
    if len(found) < LEAST:
        raise DataError(f"{source} names {len(found)} emotions; give at least {LEAST}.")
    for name in found:
        if name in COLUMNS or name.startswith("random "):
            raise DataError(f"{source}: {shown(name)} is a column of results; rename this emotion.")
    return found


def load_norms(source: str | Path = "emotion_norms") -> pd.DataFrame:
    """Ratings by word, NaN where there is none; `DataError` for a faulty or repeated row."""
    rows = [row.model_dump() for row in checked_rows(WordNorm, source, "ratings", "word")]
    return pd.DataFrame(rows, columns=["word", *NORMS]).set_index("word").astype(float)


@brief
@dataclass(frozen=True)
class EvokingTexts:
    """The texts that evoke each emotion.

    `kind` says what they are: ``"frames"``, sentences with the word, read at their last token;
    ``"given"``, texts of a file; ``"stories"``, requests to the model, which writes the texts. The
    latter two are read over all tokens. `wrap` is put around other texts that are read like these;
    `foreign` counts texts of a file whose emotion is not among `words`.
    """

    words: Words
    kind: Literal["frames", "given", "stories"]
    texts: Mapping[str, tuple[str, ...]]
    wrap: str = "{text}"
    foreign: int = 0

    @classmethod
    def framed(cls, words: Words, n: int = 12) -> "EvokingTexts":
        """The word in the frames `FRAMES` in turn, around the same `n` neutral events for all."""
        frames = load_frames("emotion_frames")
        events = [Situation.of(one, NEUTRAL) for one in _scenarios(n)]
        places = [(frames.frames[FRAMES[i % len(FRAMES)]], at) for i, at in enumerate(events)]
        texts = {
            name: tuple(one.fill(at.scenario, at.event, word).text for one, at in places)
            for name, word in words.items()
        }
        return cls(words, "frames", texts, frames.vignette)

    @classmethod
    def given(cls, words: Words, source: str | Path) -> "EvokingTexts":
        """The texts of a JSON or JSONL file with ``emotion`` and ``text``."""
        rows = checked_rows(GivenText, source, "texts")
        of = {name: tuple(row.text for row in rows if row.emotion == name) for name in words}
        return cls(words, "given", of, foreign=len(rows) - sum(map(len, of.values())))

    @classmethod
    def stories(cls, words: Words, n: int = 12) -> "EvokingTexts":
        """`n` stories per emotion, each asked for with another beginning; chat models only."""
        begun = [one.text for one in _scenarios(n)]
        asked = {
            name: tuple(STORY.format(scenario=text, word=word) for text in begun)
            for name, word in words.items()
        }
        return cls(words, "stories", asked)

    def of(self, model: Model, emotion: str) -> pd.DataFrame:
        """A row per text: ``emotion``, ``text``, and why it is ``excluded``, or an empty text.

        Stories are decoded greedily, without thinking where that can be switched off. One that
        names its emotion (its name or word, also with one of `ENDINGS`) would put the word into
        the vector. `DataError` where stories are asked of a model without a chat template.
        """
        texts, why = list(self.texts[emotion]), [""] * len(self.texts[emotion])
        if self.kind == "stories":
            chat = Chat(thinking=False if switches(model) else None)
            chats = [chat.wrap(request) for request in texts]
            texts = [one.text for one in generate(model, chats, (), TOKENS, progress=False)]
            named = re.compile("|".join(map(_forms, (emotion, self.words[emotion]))), re.I)
            why = [NAMED * bool(named.search(text)) if text.strip() else EMPTY for text in texts]
        columns = {"emotion": [emotion] * len(texts), "text": texts, "excluded": why}
        return pd.DataFrame(columns, dtype=object)


def _forms(name: str) -> str:
    """A pattern of a word with any of `ENDINGS`, such as happy and happily, rage and raging."""
    stem = re.sub("y$", "[yi]", re.sub("e$", "(e|(?=ing))", re.escape(name)))
    return rf"\b{stem}({ENDINGS})?\b"


def _scenarios(n: int) -> list[Scenario]:
    found = interleaved(load_scenarios("emotion_scenarios_discovery"))
    if not 2 <= n <= len(found):
        raise DataError(f"{n} texts per emotion: give 2 to {len(found)}, one per scenario.")
    return found[:n]
