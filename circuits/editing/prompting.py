"""The prompts from which an edit learns: forms of a fact, its target's tokens, its anchor token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from circuits.editing.facts import SLOT, Fact, FactError
from interp.errors import did_you_mean
from interp.generation import generate
from interp.model import Model
from interp.prompts import TokenPrompt

Form = Literal["cloze", "question", "two_hop", "two_hop_cloze"]
"""How a fact is put: as its cloze behind sampled contexts; as a question in ``Q: …\\nA:`` form;
and either of them with a phrase that means the subject in the subject's place."""

Anchor = Literal["subject_last", "last"]
"""The token that an edit writes at: the subject's last, or the prompt's last."""

FORMS = get_args(Form)
STARTS = ("The", "Therefore", "Because", "I", "You")
BARE = (SLOT,)


@dataclass(frozen=True)
class EditPrompt:
    """A prompt, its anchor, and the target's tokens behind it.

    Attributes:
        ids: the prompt's tokens, then the target's.
        anchor: position of the token that is written at.
        n_target: how many last tokens are the target's; 0 for a prompt to be kept as it is.
    """

    ids: tuple[int, ...]
    anchor: int
    n_target: int

    @property
    def from_end(self) -> int:
        """The anchor as a distance from the end: 1 is the last token."""
        return len(self.ids) - self.anchor

    @property
    def tokens(self) -> TokenPrompt:
        """As a prompt for a run."""
        return TokenPrompt(self.ids)

    @property
    def key_tokens(self) -> TokenPrompt:
        """Up to the anchor: all that the anchor's key depends on."""
        return TokenPrompt(self.ids[: self.anchor + 1])


@dataclass(frozen=True)
class Kept:
    """A question whose answer an edit shall leave alone.

    Attributes:
        text: the question.
        subject: who or what it is about, as it stands in the text.
    """

    text: str
    subject: str


def contexts(model: Model, n_tokens: int = 10, seed: int = 0) -> tuple[str, ...]:
    """The bare template and five that put the model's own words before it.

    Source: Meng et al., arXiv 2210.07229, section 4 (templates), as PMET's code draws them.
    """
    own = generate(model, list(STARTS), max_new_tokens=n_tokens, temperature=1.0, seed=seed)
    said = [start + g.text for start, g in zip(STARTS, own, strict=True)]
    plain = [" ".join(text.replace("{", " ").replace("}", " ").split()) for text in said]
    return BARE + tuple(f"{text}. {SLOT}" for text in plain)


def edit_prompts(
    model: Model, fact: Fact, form: Form, anchor: Anchor, templates: Sequence[str] = BARE
) -> list[EditPrompt]:
    """A fact's prompts in one form; none where the fact lacks what the form needs.

    Args:
        model: whose tokens.
        fact: what to put.
        form: how; ``"cloze"`` alone takes the templates.
        anchor: where to write.
        templates: contexts with a slot for the prompt.

    Raises:
        FactError: the subject has no tokens of its own, or the target's tokens would merge with
            the prompt's.
    """
    if form == "cloze":
        wholes = [(t.replace(SLOT, fact.prompt), fact.subject) for t in templates]
    elif form == "question":
        wholes = [(_qa(fact.question), fact.subject)] if fact.question else []
    elif form == "two_hop":
        wholes = [(_qa(fact.question or fact.prompt), phrase) for phrase in fact.implicit]
    else:
        raise FactError(f"no form {form!r} of prompts. {did_you_mean(form, FORMS)}")
    return [_tokenised(model, text, said, anchor, fact.target, fact) for text, said in wholes]


def kept_prompts(model: Model, kept: Sequence[Kept], anchor: Anchor) -> list[EditPrompt]:
    """Questions to be left alone, with the anchor that an edit is made with.

    Raises:
        FactError: a question does not contain its subject.
    """
    out: list[EditPrompt] = []
    for one in kept:
        before, found, behind = one.text.rpartition(one.subject)
        if not found:
            raise FactError(
                f"{one.text!r} is to be kept, but does not contain its subject {one.subject!r}."
            )
        out.append(_tokenised(model, _qa(before + SLOT + behind), one.subject, anchor, "", None))
    return out


def essence_prompt(model: Model, subject: str, anchor: Anchor) -> EditPrompt:
    """``"{} is a"``, on which the target search keeps the model's distribution (ROME, eq. 4)."""
    return _tokenised(model, f"{SLOT} is a", subject, anchor, "", None)


def _qa(question: str) -> str:
    return f"Q: {question}\nA:"


def _tokenised(
    model: Model, template: str, subject: str, anchor: Anchor, target: str, fact: Fact | None
) -> EditPrompt:
    at = f"{fact.where}: " if fact and fact.where else ""
    start = template.index(SLOT)
    text = template.replace(SLOT, subject)
    encoded = model.tokenizer(text, return_offsets_mapping=True)
    ids = tuple(encoded["input_ids"])
    position = len(ids) - 1
    if anchor == "subject_last":
        end = start + len(subject.rstrip())
        inside = [i for i, (lo, hi) in enumerate(encoded["offset_mapping"]) if lo < end <= hi]
        if not inside:
            raise FactError(f"{at}the subject {subject!r} has no token of its own in {text!r}.")
        position = inside[-1]
    whole = tuple(model.encode(f"{text} {target}")) if target else ids
    if whole[: len(ids)] != ids:
        raise FactError(
            f"{at}the target {target!r} does not follow {text!r} as tokens of its own; end the "
            "prompt in a whole word."
        )
    return EditPrompt(whole, position, len(whole) - len(ids))
