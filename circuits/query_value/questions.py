"""Questions: prompts in a model's tokens with the one token that answers each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from interp.brief import brief
from interp.data.answers import continuation, single_token
from interp.data.pairs import Excluded
from interp.data.prompts import Prompt, TokenPrompt, as_prompts
from interp.data.records import ClosedRow, Text, checked_rows
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
    return checked_rows(QuestionRow, source, "prompts")


@brief
@dataclass(frozen=True)
class Question:
    """A prompt that a model answers, and what answers it.

    Attributes:
        id: its number among the prompts that were given, as text.
        answer: first token of the answer.
        cluster: the entity or fact that it shares with other prompts.
        rest: the answer's further tokens, where it is read whole.
    """

    id: str
    prompt: TokenPrompt
    text: str
    answer: int
    label: str
    cluster: str
    rest: tuple[int, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """All tokens of the answer that are read."""
        return self.answer, *self.rest

    @property
    def read(self) -> tuple[int, ...]:
        """The prompt's tokens and, behind them, all but the answer's last."""
        return *self.prompt.ids, *self.tokens[:-1]

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
    mode: Literal["single", "first", "whole"] = "single",
) -> tuple[list[Question], list[Excluded]]:
    """Put prompts and answers into tokens; without clusters each prompt stands for itself.

    `mode`: ``"single"``: answers are one token; ``"first"``: the first token of each is read;
    ``"whole"``: all are.

    Returns:
        The questions whose answer greedy decoding writes, and the others with reasons.

    Raises:
        DataError: not one answer, label or cluster per prompt, one prompt given twice, or an
            answer of several tokens where one is read: its first token could answer another
            question.
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
        spell = single_token if mode == "single" else continuation
        spelt = spell(model, text, list(row.ids), answer, what)
        first, *rest = (spelt,) if isinstance(spelt, int) else spelt
        label, cluster = labels[i] if labels else "", clusters[i] if clusters else str(i)
        further = tuple(rest) if mode == "whole" else ()
        listed.append(Question(str(i), row, text, first, label, cluster, further))
    return _answered(model, listed)


def _answered(model: Model, asked: list[Question]) -> tuple[list[Question], list[Excluded]]:
    """The questions whose answer greedy decoding writes, and the others with what it writes."""
    steps = [
        (i, token, TokenPrompt((*one.prompt.ids, *one.tokens[:n])))
        for i, one in enumerate(asked)
        for n, token in enumerate(one.tokens)
    ]
    logits = forward(model, [prompt for _, _, prompt in steps]).logits
    predicted = torch.as_tensor(logits.argmax(-1)).tolist()
    wrong: dict[int, Excluded] = {}
    for (i, token, prompt), written in zip(steps, predicted, strict=True):
        if token != written and i not in wrong:
            begun = "".join(map(model.token, prompt.ids[len(asked[i].prompt.ids) :]))
            reason = f"the model says {begun + model.token(written)!r}"
            wrong[i] = Excluded(asked[i].id, asked[i].text, reason)
    return [one for i, one in enumerate(asked) if i not in wrong], list(wrong.values())
