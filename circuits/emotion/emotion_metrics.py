"""What counts as a good reply: expressed, coherent, relevant, and all three together (joint).

*Expressed*: the judge, which is not given the target, chooses the target's label. *Coherent*: no
fault of form, a few words, and not much less likely under the unmodulated model than its own reply.
*Relevant*: likelier after its own event than after a prompt without one. A quality that a reply
without the emotion has, or an emotion in a reply that ignores the event, is worth little, so joint
is the headline.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.metrics import confusion_matrix
from torch import Tensor

from circuits.emotion.emotion_settings import ReplyCriteria
from circuits.emotion.texts import LABELS
from interp.brief import brief
from interp.errors import DataError
from interp.forward.prefix_cache import PrefixCache
from interp.model.model import Model

CRITERIA = ("expressed", "coherent", "relevant", "joint")
FORM = ("n_words", "n_sentences", "capitals", "exclamations")
LOGITS = 2**26
"""Logits held at once."""
ROWS = 96
"""Replies scored at once, of like length."""

# --- form -----------------------------------------------------------------------------------------

RUN = 3
"""A word so many times in a row is a loop; so is a phrase of three words that occurs so often."""
LONGEST_WORD = 25
HYPHENS = 4
"""A word with so many hyphens is words run together."""
CAPITALS = 0.5

_WORD = re.compile(r"[\w']+")
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
class ReplyForm:
    """The form of one reply.

    `capitals` is the part of the words of two letters or more in capitals, `exclamations` the marks
    per word; `faults` is why a reply counts as degenerate, empty where it does not.
    """

    n_words: int
    n_sentences: int
    capitals: float
    exclamations: float
    faults: tuple[str, ...]


def reply_form(text: str) -> ReplyForm:
    """Counts and faults: measures that need no model.

    Faults: ``empty``, ``loop`` (a word three times in a row, or a phrase of three words three
    times), ``run together`` (a word of more than 25 characters or of five hyphenated parts),
    ``capitals`` (more than half of five words or more), ``markup`` (HTML, links, code).
    """
    tokens, raw = words(text), text.split()
    spelled = [w for w in re.findall(r"[A-Za-z']+", text) if len(w) > 1]
    run = max((sum(1 for _ in same) for _, same in groupby(tokens)), default=0)
    phrases = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
    capitals = sum(w.isupper() for w in spelled) / len(spelled) if spelled else 0.0
    faults = {
        "empty": not tokens,
        "loop": run >= RUN or max(phrases.values(), default=0) >= RUN,
        "run together": any(len(w) > LONGEST_WORD or w.count("-") >= HYPHENS for w in raw),
        "capitals": capitals > CAPITALS and len(spelled) >= 5,
        "markup": bool(_MARKUP.search(text)),
    }
    return ReplyForm(
        n_words=len(raw),
        n_sentences=max(len(_END.findall(text)), int(bool(tokens))),
        capitals=capitals,
        exclamations=text.count("!") / len(raw) if raw else 0.0,
        faults=tuple(name for name, found in faults.items() if found),
    )


def words(text: str) -> list[str]:
    """The words of a text, lower case, without punctuation."""
    return _WORD.findall(text.lower())


def distinct_bigrams(texts: Sequence[str]) -> float:
    """Different pairs of words over all of them; it falls with the amount of text.

    Source: Li et al. 2016 (arXiv 1510.03055), distinct-n.
    """
    pairs = [pair for t in map(words, texts) for pair in zip(t, t[1:], strict=False)]
    return len(set(pairs)) / len(pairs) if pairs else float("nan")


def presentable(text: str) -> str:
    """A reply as it may be shown: whole, or a note in its place if it is coarse or hateful.

    The list is short and errs on the side of leaving out: it also drops harmless sentences about
    the groups that hatred is aimed at.
    """
    return "(left out: coarse or hateful)" if _COARSE.search(text) else text


# --- likelihood under the unmodulated model -------------------------------------------------------


@torch.no_grad()
def nll(
    model: Model, cache: PrefixCache, which: Sequence[int], replies: Sequence[Sequence[int]]
) -> Float[np.ndarray, " reply"]:
    """Mean negative log-probability of each reply's tokens, in nats, under the model as it is.

    Replies (tokens; NaN comes out for one without any) are scored after prompts (`which` of those
    in the cache) that are read but for their last tokens.
    """
    keys = [(i, tuple(map(int, reply))) for i, reply in zip(which, replies, strict=True)]
    order = sorted({key for key in keys if key[1]}, key=lambda key: len(key[1]))
    found: dict[tuple[int, tuple[int, ...]], float] = {}
    for first in range(0, len(order), ROWS):
        part = order[first : first + ROWS]
        rows = cache.branch([i for i, _ in part])
        found |= zip(part, _nll(model, rows, [reply for _, reply in part]).tolist(), strict=True)
    return np.array([found.get(key, np.nan) for key in keys])


def _nll(
    model: Model, rows: PrefixCache, replies: Sequence[tuple[int, ...]]
) -> Float[Tensor, " reply"]:
    new = torch.zeros(len(replies), max(map(len, replies)), dtype=torch.long, device=model.device)
    real = torch.zeros_like(new, dtype=torch.bool)
    for row, reply in enumerate(replies):
        new[row, : len(reply)] = torch.tensor(reply)
        real[row, : len(reply)] = True
    # the last prompt token predicts the first of the reply; the reply's last predicts nothing here
    if new.shape[1] > 1:
        rows.append(new[:, :-1], real[:, :-1])
    states, wanted = rows.read(model)[real], new[real]
    size = max(1, LOGITS // model.n_vocab)
    parts = [
        torch.nn.functional.cross_entropy(
            model.arch.logits_transform(model.unembed(part).float()), tokens, reduction="none"
        )
        for part, tokens in zip(states.split(size), wanted.split(size), strict=True)
    ]
    losses = torch.zeros(real.shape, dtype=torch.double, device=model.device)
    losses[real] = torch.cat(parts).double()
    return losses.sum(1) / real.sum(1)


@brief
@dataclass(frozen=True)
class Baseline:
    """The unmodulated model's prompts, after which every condition's replies are scored.

    They are neutral ones, with (place of a situation -> its prompt), and one without an event.
    """

    neutral: Sequence[tuple[PrefixCache, Mapping[int, int]]]
    eventless: PrefixCache


def measure(model: Model, table: pd.DataFrame, baseline: Baseline) -> pd.DataFrame:
    """Add what needs no judge: likelihood under the unmodulated model, relevance, and the form.

    They are ``nll`` (nats per token), ``relevance`` (nats per token by which the event makes the
    reply likelier: pointwise mutual information over length), and the fields of `ReplyForm`.

    Source: Li et al. 2016 (arXiv 1510.03055), mutual information of reply and message.
    """
    form = [reply_form(reply) for reply in table["reply"]]
    ids: list[Sequence[int]] = list(table["ids"])
    own = np.full(len(table), np.nan)
    for cache, prompt_of in baseline.neutral:
        rows = [i for i, place in enumerate(table["place"]) if place in prompt_of]
        which = [prompt_of[int(place)] for place in table["place"].iloc[rows]]
        own[rows] = nll(model, cache, which, [ids[i] for i in rows])
    return table.assign(
        nll=own,
        relevance=nll(model, baseline.eventless, [0] * len(ids), ids) - own,
        faults=[", ".join(one.faults) for one in form],
        **{name: [getattr(one, name) for one in form] for name in FORM},
    )


def with_ratio(table: pd.DataFrame, unmodulated: pd.DataFrame) -> pd.DataFrame:
    """Add ``perplexity_ratio``: perplexity over that of the unmodulated reply to the same event."""
    plain: dict[Any, float] = dict(zip(unmodulated["situation"], unmodulated["nll"], strict=True))
    missing = sorted(set(table["situation"]) - set(plain))
    if missing:
        raise DataError(f"no unmodulated reply to {missing[0]!r}; write that condition, too.")
    before = np.array([plain[situation] for situation in table["situation"]])
    return table.assign(perplexity_ratio=np.exp(table["nll"].to_numpy(float) - before))


# --- judging --------------------------------------------------------------------------------------


class AnyJudge(Protocol):
    """Anything that gives texts the probabilities of `LABELS`."""

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "text label"]:
        """Rows sum to 1."""
        ...


def judged(table: pd.DataFrame, judges: Mapping[str, AnyJudge]) -> pd.DataFrame:
    """Add each judge's label as ``label_NAME`` and its probability of the target as ``p_NAME``."""
    columns: dict[str, Any] = {}
    for name, judge in judges.items():
        found = judge.probabilities(list(table["reply"]))
        target = [LABELS.index(emotion) for emotion in table["emotion"]]
        columns[f"label_{name}"] = [LABELS[i] for i in found.argmax(1)]
        columns[f"p_{name}"] = found[np.arange(len(found)), target]
    return table.assign(**columns)


def with_criteria(table: pd.DataFrame, criteria: ReplyCriteria, judge: str) -> pd.DataFrame:
    """Add the `CRITERIA` of every reply by one judge, which must have read them."""
    label = f"label_{judge}"
    if label not in table:
        known = [str(name)[6:] for name in table.columns if str(name).startswith("label_")]
        raise DataError(f"judge {judge!r} has not read these replies; {', '.join(known)} have.")
    expressed = table[label] == table["emotion"]
    coherent = (
        (table["faults"] == "")
        & (table["perplexity_ratio"] <= criteria.perplexity_ratio)
        & (table["n_words"] >= criteria.words)
        & (table["n_sentences"] <= criteria.sentences)
    )
    relevant = table["relevance"] > criteria.relevance
    return table.assign(
        expressed=expressed,
        coherent=coherent,
        relevant=relevant,
        joint=expressed & coherent & relevant,
    )


def confusion(labels: Sequence[str], targets: Sequence[str]) -> Int[np.ndarray, "target label"]:
    """How many replies of each target were given each label."""
    return confusion_matrix(targets, labels, labels=LABELS)[: len(LABELS) - 1]
