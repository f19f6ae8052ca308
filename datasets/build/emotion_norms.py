"""Write ``emotion_norms.jsonl``: human valence and arousal of the words of ``emotion_words``.

pip download --no-deps vaderSentiment==3.3.2
python datasets/build/emotion_norms.py vaderSentiment-3.3.2-py2.py3-none-any.whl
"""

import json
import math
import sys
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent
LEXICON = "vaderSentiment/vader_lexicon.txt"

ANGLES = {
    "happy": 7.8,
    "delighted": 24.9,
    "excited": 48.6,
    "astonished": 69.8,
    "aroused": 73.8,
    "tense": 92.8,
    "alarmed": 96.5,
    "miserable": 188.7,
    "sad": 207.5,
    "droopy": 256.6,
    "tired": 267.7,
    "sleepy": 271.9,
    "calm": 316.2,
    "serene": 328.6,
    "pleased": 353.2,
}
"""Degrees on the circumplex that Russell 1980 gives for single words: pleasure 0, arousal 90."""


def ratings(wheel: str) -> dict[str, float]:
    """Mean valence of every entry of VADER's lexicon, from -4 to 4."""
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(LEXICON).decode("utf-8").splitlines()
    return {cells[0]: float(cells[1]) for line in lines if len(cells := line.split("\t")) == 4}


def norms(valence: dict[str, float]) -> list[dict[str, object]]:
    """A row per word or emotion of the lists that has either norm."""
    text = (FOLDER / "emotion_words.jsonl").read_text("utf-8")
    listed = [json.loads(line) for line in text.splitlines()]
    words = sorted({row[name] for row in listed for name in ("word", "emotion")})
    out: list[dict[str, object]] = []
    for word in words:
        row: dict[str, object] = {"word": word}
        if word in valence:
            row["valence"] = valence[word]
        if word in ANGLES:
            row["arousal"] = round(math.sin(math.radians(ANGLES[word])), 3)
        out += [row] * (len(row) > 1)
    return out


if __name__ == "__main__":
    rows = norms(ratings(sys.argv[1]))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (FOLDER / "emotion_norms.jsonl").write_text(lines, encoding="utf-8")
