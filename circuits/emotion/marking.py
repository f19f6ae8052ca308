"""What counts as a good reply, each thing defined here once: expressed, coherent, relevant, joint.

*Expressed*: the judge, which is not told the target, gives the target's label. *Coherent*: no
fault of form, a few words, and not much more surprising to the unmodulated model than its own.
*Relevant*: likelier after its own event than after a prompt that tells of none. *Joint*: all three.
A quality that can be had by saying nothing of the emotion, or an emotion by saying nothing of the
event, is worth little, so joint is the headline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import ConfigDict

from circuits.emotion.data import LABELS
from circuits.emotion.decoding import ReadPrompts, read_prompts
from circuits.emotion.fluency import surprise
from circuits.emotion.quality import quality
from circuits.emotion.replying import Batch
from circuits.emotion.situations import NOTHING, Asking
from circuits.emotion.tokens import token_prompt
from interp.brief import brief
from interp.data.records import NO_OTHERS, Amount, Count, Finite, Index
from interp.errors import DataError
from interp.model.model import Model

MARKS = ("expressed", "coherent", "relevant", "joint")


class Judges(Protocol):
    """Anything that gives texts the probabilities of `LABELS`."""

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "text label"]:
        """Rows sum to 1."""
        ...


@dataclass(frozen=True)
class Limits:
    """What a reply must keep; fixed on the tuning file, never on the test file.

    Attributes:
        ratio: how many times the perplexity of the unmodulated reply to the same event, at most.
        relevance: nats a token by which the event must make the reply likelier.
        words: fewest words.
        sentences: most sentences.
    """

    __pydantic_config__: ClassVar[ConfigDict] = NO_OTHERS

    ratio: Amount = 5.0
    relevance: Finite = 0.0
    words: Index = 3
    sentences: Count = 3


@brief
@dataclass(frozen=True)
class Yardstick:
    """The unmodulated model's prompts, after which every arm's replies are scored.

    Attributes:
        neutral: of the situations, without any emotion.
        eventless: one that tells of nothing.
    """

    neutral: Sequence[Batch]
    eventless: ReadPrompts

    @classmethod
    def of(cls, model: Model, asking: Asking, neutral: Sequence[Batch]) -> "Yardstick":
        """With the eventless prompt of the same frame."""
        prompt = token_prompt(model, asking.prompt("neutral", NOTHING, 0))
        return cls(neutral, read_prompts(model, [prompt]))


def measure(model: Model, table: pd.DataFrame, yardstick: Yardstick) -> pd.DataFrame:
    """Add what needs no judge: surprise, relevance, and the form.

    Args:
        model: as it is, unmodulated.
        table: an arm's replies, from `replies`.
        yardstick: prompts of the same situations.

    Returns:
        The table with ``surprise`` (nats a token), ``relevance`` (nats a token by which the event
        makes the reply likelier: pointwise mutual information over length), ``faults``,
        ``n_words``, ``n_sentences``, ``capitals`` and ``exclamations``.

    Source: Li et al. 2016 (arXiv 1510.03055), mutual information of reply and message.
    """
    form = [quality(reply) for reply in table["reply"]]
    ids: list[Sequence[int]] = list(table["ids"])
    own = _surprise(model, table, yardstick.neutral)
    return table.assign(
        surprise=own,
        relevance=surprise(model, yardstick.eventless, [0] * len(ids), ids) - own,
        faults=[", ".join(one.faults) for one in form],
        n_words=[one.n_words for one in form],
        n_sentences=[one.n_sentences for one in form],
        capitals=[one.capitals for one in form],
        exclamations=[one.exclamations for one in form],
    )


def _surprise(
    model: Model, table: pd.DataFrame, neutral: Sequence[Batch]
) -> Float[np.ndarray, " reply"]:
    out = np.full(len(table), np.nan)
    places: list[int] = list(table["place"])
    ids: list[Sequence[int]] = list(table["ids"])
    for batch in neutral:
        prompt_of = dict(zip(batch.situations, batch.which, strict=True))
        rows = [i for i, place in enumerate(places) if place in prompt_of]
        which = [prompt_of[places[i]] for i in rows]
        out[rows] = surprise(model, batch.read, which, [ids[i] for i in rows])
    return out


def against(table: pd.DataFrame, unmodulated: pd.DataFrame) -> pd.DataFrame:
    """Add ``ratio``: perplexity over that of the unmodulated reply to the same event.

    Args:
        table: measured replies.
        unmodulated: those of the unmodulated arm to the same situations.

    Raises:
        DataError: a situation has no unmodulated reply.
    """
    plain: dict[Any, float] = dict(
        zip(unmodulated["situation"], unmodulated["surprise"], strict=True)
    )
    missing = sorted(set(table["situation"]) - set(plain))
    if missing:
        raise DataError(f"no unmodulated reply to {missing[0]!r}; write that arm, too.")
    before = np.array([plain[situation] for situation in table["situation"]])
    return table.assign(ratio=np.exp(table["surprise"].to_numpy(float) - before))


def judge_with(table: pd.DataFrame, judges: Mapping[str, Judges]) -> pd.DataFrame:
    """Add each judge's label as ``said_NAME`` and its probability of the target as ``p_NAME``."""
    columns: dict[str, Any] = {}
    for name, judge in judges.items():
        found = judge.probabilities(list(table["reply"]))
        target = [LABELS.index(emotion) for emotion in table["emotion"]]
        columns[f"said_{name}"] = [LABELS[i] for i in found.argmax(1)]
        columns[f"p_{name}"] = found[np.arange(len(found)), target]
    return table.assign(**columns)


def mark(table: pd.DataFrame, limits: Limits, judge: str) -> pd.DataFrame:
    """Add the `MARKS` of every reply by one judge.

    Raises:
        DataError: the judge has not read these replies.
    """
    said = f"said_{judge}"
    if said not in table:
        known = [str(name)[5:] for name in table.columns if str(name).startswith("said_")]
        raise DataError(f"judge {judge!r} has not read these replies; {', '.join(known)} have.")
    expressed = table[said] == table["emotion"]
    coherent = (
        (table["faults"] == "")
        & (table["ratio"] <= limits.ratio)
        & (table["n_words"] >= limits.words)
        & (table["n_sentences"] <= limits.sentences)
    )
    relevant = table["relevance"] > limits.relevance
    return table.assign(
        expressed=expressed,
        coherent=coherent,
        relevant=relevant,
        joint=expressed & coherent & relevant,
    )
