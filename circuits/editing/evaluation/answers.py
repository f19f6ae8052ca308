"""Answers and what counts as giving them: strict, lenient, and cut out of a generation."""

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from interp.brief import brief

ARTICLES = ("a", "an", "the")
SHORT = 3
"""Names of up to so many letters keep their case inside a longer text: IT, IN and US are words."""
Words = tuple[str, ...]


@brief
@dataclass(frozen=True)
class Answer:
    """A name, and other names that are as right."""

    text: str
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, each once."""
        return tuple(dict.fromkeys((self.text, *self.aliases)))

    @functools.cached_property
    def keys(self) -> frozenset[Words]:
        """All names, normalised; a name without a letter or digit has none."""
        return frozenset(map(normalised, self.names)) - {()}

    def strict(self, text: str) -> bool:
        """Whether the text is one of the names, but for case, punctuation and a first article."""
        return normalised(text) in self.keys

    def exact(self, text: str) -> bool:
        """Whether the text is one of the names, letter by letter."""
        return text.strip() in self.names

    def exact_in_any_case(self, text: str) -> bool:
        """The same, capital or not."""
        return text.strip().upper() in {name.upper() for name in self.names}

    def lenient(self, text: str) -> bool:
        """Whether the text is, or contains as whole words, one of the names.

        A name of up to three letters must have its case, and a lower-case code of two letters must
        be the whole text, for ``in`` is an alias of India in MQuAKE's lists.
        """
        return self.strict(text) or any(_mentions(text, name) for name in self.names)

    def overlaps(self, other: "Answer") -> bool:
        """Whether the two have a name in common."""
        return not self.keys.isdisjoint(other.keys)


@functools.lru_cache(1 << 16)
def words(text: str) -> Words:
    """The words of a text in its own case: NFKC, initials joined (``D.C.`` is ``DC``)."""
    plain = unicodedata.normalize("NFKC", text)
    joined = re.sub(r"(?<=\b\w)\.(?=\w\b)", "", plain)
    spaced = "".join(letter if in_word(letter) else " " for letter in joined)
    found = (word.lstrip("+#") for word in spaced.split())
    return tuple(word for word in found if any(map(str.isalnum, word)))


def in_word(letter: str) -> bool:
    """Whether a word goes on at this letter."""
    # + and # for C++ and C#; combining marks, without which Indic words fall apart
    return letter.isalnum() or letter in "+#" or unicodedata.category(letter).startswith("M")


@functools.lru_cache(1 << 16)
def normalised(text: str) -> Words:
    """The words of a text in one case, without a first article (unless that is all there is)."""
    folded = _folded(text)
    return folded[1:] if len(folded) > 1 and folded[0] in ARTICLES else folded


@functools.lru_cache(1 << 16)
def _folded(text: str) -> Words:
    return tuple(unicodedata.normalize("NFKC", word.casefold()) for word in words(text))


def _mentions(text: str, name: str) -> bool:
    core = normalised(name)
    letters = sum(map(len, core))
    if letters > SHORT:
        return _contains(_folded(text), core)
    if not letters or (letters < SHORT and name == name.lower()):
        return False
    return _contains(words(text), words(name))


def _contains(text: Words, part: Words) -> bool:
    n = len(part)
    return part[0] in text and any(text[i : i + n] == part for i in range(len(text) - n + 1))


def beginnings(text: str) -> list[str]:
    """A text, and all whole words that it begins with."""
    plain = text.strip()
    return [plain, *(plain[:i] for i in range(1, len(plain)) if not in_word(plain[i]))]


def short_answer(generated: str) -> str:
    """The answer after ``A:`` or a cloze: the first line."""
    return generated.split("\n", 1)[0].strip()


def reasoned_answer(generated: str) -> str:
    """The line after the first ``Answer:``, or nothing; a next question it asks is not read."""
    return short_answer(_own(generated).partition("Answer:")[2])


def thoughts(generated: str) -> str:
    """What stands before the first ``Answer:``."""
    return _own(generated).partition("Answer:")[0]


def _own(generated: str) -> str:
    return generated.split("\nQuestion:", 1)[0]


def named_in_order(text: str, answers: Sequence[Answer]) -> bool:
    """Whether the sentences of a text name one answer after the other, by any of their names.

    Answers may stand in one sentence: the first that names an answer is where the next is sought.
    """
    sentences = re.split(r"(?<=[.!?])\s+", text)
    at = 0
    for answer in answers:
        while at < len(sentences) and not answer.lenient(sentences[at]):
            at += 1
        if at == len(sentences):
            return False
    return True
