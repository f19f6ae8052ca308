"""Is a reply still language, and still about its event? Measures that need no model.

Emotion alone rewards word salad: strings of interjections pass a judge of style. So every arm
reports these beside its accuracy. The perplexity ratio, which needs a model, is not here.
"""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

from circuits.emotion.overlap import words
from interp.brief import brief
from interp.errors import DataError

MOST_SENTENCES = 2
RUN = 3
"""A word so many times in a row is a loop."""
PHRASE_REPEATS = 3
"""So is a phrase of three words that occurs so often."""
LONGEST_WORD = 25
HYPHENS = 4
"""A word with more hyphens is words run together."""
CAPITALS = 0.5

_MARKUP = re.compile(r"</?[a-zA-Z][^>]*>|https?://|\{\{|\\[a-z]+\{|```")
_END = re.compile(r"[.!?]+[\"']?(?=\s|$)")

_COARSE = re.compile(
    r"\b(?:\w*f(?:u|\*)(?:c|\*)(?:k|\*)\w*|\w*shit\w*|bitch\w*|cunt\w*|whore\w*|sluts?|bastards?|"
    r"ass(?:es|hole\w*)?|dick\w*|nigg\w*|fag\w*|retard\w*|nazis?|rap(?:e|ed|es|ing|ist)s?|"
    r"kill(?:ed|s|ing)?|jews?|muslims?|blacks?|gays?)\b\**",
    re.IGNORECASE,
)


@brief
@dataclass(frozen=True)
class Quality:
    """The form of one reply.

    Attributes:
        n_words: words.
        n_sentences: runs of words that end in a full stop, exclamation or question mark; at
            least 1 where there is a word.
        distinct_1: different words over words, 0 to 1; NaN without words.
        distinct_2: the same of pairs of words; NaN with fewer than two.
        run: how often the most repeated word occurs in a row.
        phrase_repeats: how often the most frequent phrase of three words occurs.
        capitals: part of the words of two letters or more that is in capitals.
        exclamations: exclamation marks a word.
        faults: why it counts as degenerate, empty where it does not.
    """

    n_words: int
    n_sentences: int
    distinct_1: float
    distinct_2: float
    run: int
    phrase_repeats: int
    capitals: float
    exclamations: float
    faults: tuple[str, ...]

    @property
    def coherent(self) -> bool:
        """Whether it shows no fault."""
        return not self.faults


def quality(text: str) -> Quality:
    """The form of one reply.

    Faults: ``empty``, ``loop`` (a word three times in a row, or a phrase of three words three
    times), ``run together`` (a word of more than 25 characters or of five hyphenated parts),
    ``capitals`` (more than half of five words or more), ``markup`` (HTML, links, code).

    Source: Li et al. 2016 (arXiv 1510.03055), distinct-n; the faults are those seen in published
    replies that a judge had accepted.
    """
    tokens, raw = words(text), text.split()
    shown = [w for w in re.findall(r"[A-Za-z']+", text) if len(w) > 1]
    run = max((sum(1 for _ in same) for _, same in groupby(tokens)), default=0)
    phrases = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
    most = max(phrases.values(), default=0)
    capitals = sum(w.isupper() for w in shown) / len(shown) if shown else 0.0
    faults = {
        "empty": not tokens,
        "loop": run >= RUN or most >= PHRASE_REPEATS,
        "run together": any(len(w) > LONGEST_WORD or w.count("-") >= HYPHENS for w in raw),
        "capitals": capitals > CAPITALS and len(shown) >= 5,
        "markup": bool(_MARKUP.search(text)),
    }
    return Quality(
        n_words=len(raw),
        n_sentences=max(len(_END.findall(text)), int(bool(tokens))),
        distinct_1=distinct([text], 1),
        distinct_2=distinct([text], 2),
        run=run,
        phrase_repeats=most,
        capitals=capitals,
        exclamations=text.count("!") / len(raw) if raw else 0.0,
        faults=tuple(name for name, found in faults.items() if found),
    )


def uncoarse(text: str) -> str:
    """A reply as it may be shown: whole, or a note in its place if it is coarse or hateful.

    The list is short and errs on the side of leaving out: it also drops harmless sentences about
    the groups that hatred is aimed at.
    """
    return "(left out: coarse or hateful)" if _COARSE.search(text) else text


def distinct(texts: Sequence[str], n: int) -> float:
    """Different runs of `n` words over all of them, in texts together; NaN where there is none.

    It falls with the amount of text, so compare arms of equal size and length.

    Source: Li et al. 2016 (arXiv 1510.03055).
    """
    grams = [tuple(t[i : i + n]) for t in map(words, texts) for i in range(len(t) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def content_overlap(reply: str, prompt: str) -> float:
    """Part of a prompt's content words that come back in the reply, 0 to 1; NaN without any.

    Content words are those that are not among scikit-learn's English stop words. Few come back in
    good replies either (about .1 to .2), so compare arms, or use `relevance`.
    """
    asked = set(words(prompt)) - ENGLISH_STOP_WORDS
    return len(asked & set(words(reply))) / len(asked) if asked else float("nan")


def relevance(
    replies: Sequence[str], prompts: Sequence[str], groups: Sequence[Hashable]
) -> Float[np.ndarray, " reply"]:
    """How surely each reply belongs to its own prompt rather than to another one.

    The part of the other prompts to which the reply is less alike than to its own, by the cosine
    of TF-IDF vectors of words and parts of words; equals count one half.

    Args:
        replies: texts.
        prompts: what each one answers.
        groups: each prompt's scenario; prompts of the same scenario are not compared.

    Returns:
        A rank of 0 to 1 a reply; 0.5 is chance.

    Raises:
        DataError: the lists differ in length, or there is one scenario alone.
    """
    if not len(replies) == len(prompts) == len(groups):
        raise DataError(
            f"{len(replies)} replies, {len(prompts)} prompts and {len(groups)} groups; give each "
            "reply its prompt and its scenario."
        )
    if len(set(groups)) < 2:
        raise DataError("all prompts are of one scenario; relevance needs another to compare.")
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 5), sublinear_tf=True)
    asked = vectors.fit_transform(prompts)
    alike = (vectors.transform(replies) @ asked.T).toarray()
    own = alike.diagonal()[:, None]
    order = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    codes = np.array([order[group] for group in groups])
    other = codes[:, None] != codes[None]
    wins = (own > alike) + 0.5 * (own == alike)
    return (wins * other).sum(1) / other.sum(1)
