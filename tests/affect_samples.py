"""Small texts and vectors of invented emotions, for tests of several rooms."""

import json
from pathlib import Path

from conftest import tiny

from circuits.affect.emotion_vectors import EmotionVectors, emotion_vectors
from circuits.affect.emotion_words import EvokingTexts
from circuits.emotion.texts import Vignette
from interp.model.model import Model

NAMES = ("anger", "fear", "joy", "awe")
WORDS = {name: f"w{60 + i}" for i, name in enumerate(NAMES)}
PLAIN = " ".join(f"w{i} w{2 * i} w{3 * i % 50} w{i * i % 60}." for i in range(1, 45))
VIGNETTES = [
    Vignette(id=f"{label}{i}", emotion=label, text=f"w{i + 3} w{i + 9} w{n + 60}")
    for n, label in enumerate(("anger", "fear", "neutral"))
    for i in range(4)
]


def texts(words: dict[str, str] = WORDS, n: int = 4) -> EvokingTexts:
    """The word among others, so that every emotion has its own states."""
    own = {
        name: tuple(f"w{i + 2} {word} w{i + 5} w{i + 11}" for i in range(n))
        for name, word in words.items()
    }
    return EvokingTexts(words, "given", own, foreign=2)


def vectors(out: Path, model: Model | None = None) -> EmotionVectors:
    """Vectors of four invented emotions in a tiny model."""
    given = (texts(), PLAIN, VIGNETTES, out)
    return emotion_vectors(model or tiny("llama"), *given, progress=False)


def written_texts(folder: Path) -> tuple[Path, Path]:
    """Files of the words and of the texts, as the command line takes them."""
    words, rows = folder / "words.jsonl", folder / "texts.jsonl"
    listed = [{"emotion": name, "word": word} for name, word in WORDS.items()]
    words.write_text("\n".join(map(json.dumps, listed)))
    own = [{"emotion": k, "text": text} for k, every in texts().texts.items() for text in every]
    rows.write_text("\n".join(map(json.dumps, [*own, {"emotion": "pride", "text": "w1 w2"}])))
    return words, rows
