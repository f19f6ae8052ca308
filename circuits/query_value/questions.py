"""Questions: prompts in a model's tokens with the one token that answers each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp.data.answers import single_token
from interp.data.pairs import Excluded
from interp.data.prompts import Prompt, TokenPrompt, as_prompts
from interp.data.records import ClosedRow, Text, checked, placed_rows
from interp.errors import DataError, shown
from interp.interventions.run import forward
from interp.model.model import Model


class QuestionRow(ClosedRow):
    """One line of a JSONL file of questions; `id` is for the user, as results number the prompts.

    Attributes:
        answer: one token of text that continues the prompt.
        label, cluster: kind of knowledge, and entity; or empty.
        spans: name -> a text that occurs exactly once in the prompt.
    """

    prompt: Text
    answer: Text
    label: str = ""
    cluster: str = ""
    spans: dict[str, Text] = {}
    id: Any = None


def load_questions(source: str | Path) -> list[QuestionRow]:
    """Read a JSONL file, a shipped set such as ``capital_questions``, or a data set of the Hub."""
    rows = [checked(QuestionRow, row, where) for where, row in placed_rows(source, "prompts")]
    if not rows:
        raise DataError(f"{source} holds no prompts; write one JSON object per line.")
    return rows


@dataclass(frozen=True)
class Question:
    """A prompt that a model answers, and the token that answers it.

    Attributes:
        id: its number among the prompts that were given, as text.
        cluster: the entity or fact that it shares with other prompts.
    """

    id: str
    prompt: TokenPrompt
    text: str
    answer: int
    label: str
    cluster: str

    def role(self, pos: int) -> str:
        """The span that a token is in; else ``last``, ``first`` or ``other``."""
        for name, inside in self.prompt.spans.items():
            if pos in inside:
                return name
        if pos == len(self.prompt.ids) - 1:
            return "last"
        return "first" if pos == 0 else "other"


def questions(
    model: Model,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    labels: Sequence[str] | None = None,
    clusters: Sequence[str] | None = None,
) -> tuple[list[Question], list[Excluded]]:
    """Put prompts and answers into tokens; without clusters each prompt stands for itself.

    Returns:
        The questions whose answer is the model's top prediction, and the others with reasons.

    Raises:
        DataError: not one answer, label or cluster per prompt, one prompt given twice, or an
            answer of several tokens: its first token would answer another question.
    """
    rows = as_prompts(model, prompts)
    for name, given in (("answers", answers), ("labels", labels), ("clusters", clusters)):
        if given is not None and len(given) != len(rows):
            raise DataError(
                f"{len(rows)} prompts came with {len(given)} {name}; give one per prompt."
            )
    if len({row.ids for row in rows}) < len(rows):
        raise DataError("a prompt is given twice; give each one once.")
    listed: list[Question] = []
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        text = row.text or model.tokenizer.decode(row.ids, **plain)
        if not answer.strip():
            raise DataError(f"the prompt {shown(text)} has no answer; give one token of text.")
        what = f"the answer of {shown(text)},"
        token = single_token(model, text, list(row.ids), answer, what)
        label, cluster = labels[i] if labels else "", clusters[i] if clusters else str(i)
        listed.append(Question(str(i), row, text, token, label, cluster))
    predicted = torch.as_tensor(forward(model, rows).logits.argmax(-1)).tolist()
    right, wrong = list[Question](), list[Excluded]()
    for one, token in zip(listed, predicted, strict=True):
        if token == one.answer:
            right.append(one)
        else:
            wrong.append(Excluded(one.id, one.text, f"the model says {model.token(token)!r}"))
    return right, wrong
