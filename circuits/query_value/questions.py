"""Questions: prompts in a model's tokens with the one token that answers each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from interp.data.pairs import Excluded, single_token
from interp.data.prompts import TokenPrompt, as_prompts
from interp.errors import DataError, shown
from interp.interventions.run import forward
from interp.model.model import Model


@dataclass(frozen=True)
class Question:
    """A prompt that a model answers.

    Attributes:
        id: its number among the prompts that were given, as text.
        prompt: its tokens and spans.
        text: the same in words.
        answer: the token that answers it.
        label: kind of knowledge, such as the relation; or empty.
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
    prompts: Sequence[str | TokenPrompt],
    answers: Sequence[str],
    labels: Sequence[str] | None = None,
    clusters: Sequence[str] | None = None,
) -> tuple[list[Question], list[Excluded]]:
    """Put prompts and answers into tokens; keep those that the model answers rightly.

    Args:
        model: the model.
        prompts: texts, or token prompts with spans.
        answers: what follows each, of one token.
        labels: kind of knowledge of each prompt.
        clusters: entity of each prompt; by default each stands for itself.

    Returns:
        The questions whose answer is the model's top prediction, and the others with reasons.

    Raises:
        DataError: not one answer, label or cluster a prompt, or one prompt given twice.
        DataError: an answer of several tokens: its first token would answer another question.
    """
    rows = as_prompts(model, prompts)
    for name, given in (("answers", answers), ("labels", labels), ("clusters", clusters)):
        if given is not None and len(given) != len(rows):
            raise DataError(
                f"{len(rows)} prompts came with {len(given)} {name}; give one a prompt."
            )
    if len({row.ids for row in rows}) < len(rows):
        raise DataError("a prompt is given twice; give each one once.")
    texts = [_text(model, row) for row in rows]
    tokens = [
        _answer(model, row, text, answer)
        for row, text, answer in zip(rows, texts, answers, strict=True)
    ]
    said = forward(model, rows).logits.argmax(-1)
    listed = [
        Question(
            str(i),
            row,
            texts[i],
            tokens[i],
            labels[i] if labels else "",
            clusters[i] if clusters else str(i),
        )
        for i, row in enumerate(rows)
    ]
    right = (said == torch.tensor(tokens)).tolist()
    kept = [one for one, holds in zip(listed, right, strict=True) if holds]
    left_out = [
        Excluded(one.id, one.text, f"the model says {model.token(int(token))!r}")
        for one, token, holds in zip(listed, said, right, strict=True)
        if not holds
    ]
    return kept, left_out


def _text(model: Model, row: TokenPrompt) -> str:
    return model.tokenizer.decode(
        row.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def _answer(model: Model, row: TokenPrompt, text: str, answer: str) -> int:
    if not answer.strip():
        raise DataError(f"the prompt {shown(text)} has no answer; give one token of text.")
    return single_token(model, text, list(row.ids), answer, f"the answer of {shown(text)},")


def token_prompts(found: Sequence[Question]) -> list[TokenPrompt]:
    """The questions' prompts."""
    return [one.prompt for one in found]
