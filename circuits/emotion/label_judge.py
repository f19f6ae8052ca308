"""A judge that asks a local model: which label follows a reply, over several orders of the labels.

Small models favour labels for their place and for their frequency. So each order has its own
examples and list of labels, and what a label gets after texts that say nothing is taken off.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from circuits.emotion.data import LABELS, Reply
from circuits.emotion.decoding import read_prompts
from circuits.emotion.fluency import surprise
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import DataError
from interp.model.model import Model

CONTENT_FREE = ("...", "N/A", "It is ten.")
AT_ONCE = 64


@brief
@dataclass(frozen=True)
class LabelJudge:
    """A model asked for labels.

    Attributes:
        model: not the one under test.
        questions: one for each order: what comes before the reply.
        temperature: by which the log-probabilities are divided.
    """

    model: Model
    questions: tuple[str, ...]
    temperature: float = 1.0

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "text label"]:
        """How likely each label is, in the order of `LABELS`; rows sum to 1."""
        scores = np.mean([self._scores(question, texts) for question in self.questions], 0)
        raised = np.exp((scores - scores.max(1, keepdims=True)) / self.temperature)
        return raised / raised.sum(1, keepdims=True)

    def labels(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text."""
        return [LABELS[i] for i in self.probabilities(texts).argmax(1)]

    def _scores(self, question: str, texts: Sequence[str]) -> Float[np.ndarray, "text label"]:
        """Log-probability of each label, less that after texts that say nothing."""
        found = label_scores(self.model, question, [*texts, *CONTENT_FREE])
        return found[: len(texts)] - found[len(texts) :].mean(0)


def label_scores(
    model: Model, question: str, texts: Sequence[str]
) -> Float[np.ndarray, "text label"]:
    """Log-probability, in nats, of each label as the answer to a question about each text."""
    labels = [
        tuple(model.tokenizer(f" {label}", add_special_tokens=False)["input_ids"])
        for label in LABELS
    ]
    lengths = np.array([len(ids) for ids in labels])
    prompts = [TokenPrompt(tuple(model.encode(f'{question}"{text}"\nShown:'))) for text in texts]
    out = np.empty((len(texts), len(LABELS)))
    for first in range(0, len(texts), AT_ONCE):
        part = prompts[first : first + AT_ONCE]
        which = [i for i in range(len(part)) for _ in LABELS]
        losses = surprise(model, read_prompts(model, part), which, labels * len(part))
        out[first : first + len(part)] = -losses.reshape(len(part), -1) * lengths
    return out


def label_judge(
    model: Model, replies: Sequence[Reply], orders: int = 3, seed: int = 0, temperature: float = 1.0
) -> LabelJudge:
    """Make a judge whose questions show one event's replies each.

    Args:
        model: not the one under test.
        replies: with events that were answered under every label.
        orders: how many questions, each with other examples in another order.
        seed: of the orders.
        temperature: of the judge.

    Raises:
        DataError: too few events have a reply for every label.

    Source: Zhao et al. 2021 (arXiv 2102.09690), calibration by content-free texts.
    """
    events: dict[str, dict[str, Reply]] = {}
    for reply in replies:
        events.setdefault(reply.event_id, {})[reply.emotion] = reply
    whole = [rows for rows in events.values() if set(rows) == set(LABELS)]
    if len(whole) < orders:
        raise DataError(
            f"{len(whole)} events have a reply for each of {', '.join(LABELS)}; {orders} orders "
            "need as many."
        )
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(whole), orders, replace=False)
    return LabelJudge(
        model, tuple(_question(whole[i], rng.permutation(LABELS)) for i in chosen), temperature
    )


def _question(replies: dict[str, Reply], order: Iterable[str]) -> str:
    labels = list(map(str, order))
    shown = "\n\n".join(f'"{replies[label].text}"\nShown: {label}' for label in labels)
    return f"What does the speaker show: {', '.join(labels)}?\n\n{shown}\n\n"
