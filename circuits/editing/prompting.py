"""The prompts from which an edit learns: forms of a fact, its target's tokens, its anchor token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from circuits.editing.evaluation.probes import KeyKind, Known
from circuits.editing.facts import SLOT, Fact
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, did_you_mean, shown
from interp.interventions.generate import generate
from interp.model.model import Model

Form = Literal["cloze", "question", "two_hop"]
"""How a fact is put: as its cloze behind sampled contexts; as a question in ``Q: …\\nA:`` form,
bare and behind demonstrations; and as that question about a phrase that means the subject."""

Anchor = Literal["subject_last", "last"]
"""The token that an edit writes at: the subject's last, or the prompt's last."""

FORMS = get_args(Form)
STARTS = ("The", "Therefore", "Because", "I", "You")
BARE = (SLOT,)
ASKED = (
    "Q: {}\nA:",
    "Q: Which planet is known for its rings?\nA: Saturn\n\n"
    "Q: What is the plural of mouse?\nA: Mice\n\n"
    "Q: What is the colour of the fruit that monkeys love?\nA: Yellow\n\n"
    "Q: Which metal are the shoes of a horse made of?\nA: Iron\n\nQ: {}\nA:",
)
"""How questions are put. A last token's key depends on what stands before the question, so an edit
that learnt bare questions alone would reach those behind demonstrations less."""


@brief
@dataclass(frozen=True)
class EditPrompt:
    """A prompt, its anchor, and the target's tokens behind it.

    Attributes:
        ids: the prompt's tokens, then the target's.
        anchor: position of the token that is written at.
        n_target: how many last tokens are the target's; 0 for a prompt to be kept as it is.
        n_shown: how many first tokens are demonstrations, which other prompts begin with too.
    """

    ids: tuple[int, ...]
    anchor: int
    n_target: int
    n_shown: int = 0

    @property
    def read_tokens(self) -> TokenPrompt:
        """Up to the last token whose prediction counts: the target's last is never read itself."""
        return TokenPrompt(self.ids[:-1]) if self.n_target else self.key_tokens

    @property
    def n_tail(self) -> int:
        """How many of the tokens read an edit at the anchor can change."""
        return len(self.read_tokens.ids) - self.anchor

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
        relation: what it asks of the subject, or empty.
        related: whether it could be asked of the edited subject, too.
    """

    text: str
    subject: str
    relation: str = ""
    related: bool = False


def contexts(model: Model, n_tokens: int = 10, seed: int = 0) -> tuple[str, ...]:
    """The bare template and five that put the model's own words before it.

    Source: Meng et al., arXiv 2210.07229, section 4 (templates), as PMET's code draws them.
    """
    own = generate(
        model, list(STARTS), max_new_tokens=n_tokens, temperature=1.0, seed=seed, progress=False
    )
    said = [start + g.text for start, g in zip(STARTS, own, strict=True)]
    plain = [" ".join(text.replace("{", " ").replace("}", " ").split()) for text in said]
    return BARE + tuple(f"{text}. {SLOT}" for text in plain)


def edit_prompts(
    model: Model,
    fact: Fact,
    form: Form,
    anchor: Anchor,
    templates: Sequence[str] = BARE,
    asked: Sequence[str] = ASKED,
) -> list[EditPrompt]:
    """A fact's prompts in one form; none where the fact lacks what the form needs.

    Args:
        model: whose tokens.
        fact: what to put.
        form: how.
        anchor: where to write.
        templates: contexts of clozes, with a slot.
        asked: contexts of questions, with a slot.

    Raises:
        DataError: the subject has no tokens of its own, or the target's tokens would merge with
            the prompt's.
    """
    if form == "cloze":
        wholes = [(t.replace(SLOT, fact.prompt), fact.subject) for t in templates]
    elif form == "question":
        wholes = [(t.replace(SLOT, fact.question), fact.subject) for t in asked if fact.question]
    elif form == "two_hop":
        question = fact.question or fact.prompt
        wholes = [(t.replace(SLOT, question), phrase) for t in asked for phrase in fact.implicit]
    else:
        raise DataError(f"no form {shown(form)} of prompts. {did_you_mean(form, FORMS)}")
    return [_tokenised(model, text, said, anchor, fact.target, fact) for text, said in wholes]


def refuse_unanchored(model: Model, fact: Fact) -> None:
    """Raise unless a token ends where the cloze's subject does, and the target has its own.

    Raises:
        DataError: naming the fact.
    """
    edit_prompts(model, fact, "cloze", "subject_last")
    end = fact.prompt.index(SLOT) + len(fact.subject.rstrip())
    encoded = model.tokenizer(fact.cloze, return_offsets_mapping=True)
    if all(hi != end for _, hi in encoded["offset_mapping"]):
        at = f"{fact.where}: " if fact.where else ""
        raise DataError(
            f"{at}the subject {shown(fact.subject)} ends inside a token of {shown(fact.cloze)}; "
            "write a prompt in which it ends a word."
        )


def kept_prompts(model: Model, kept: Sequence[Kept], anchor: Anchor) -> list[EditPrompt]:
    """Questions to be left alone, with the anchor that an edit is made with.

    Behind demonstrations where the last token is what counts, as that is how they are asked.

    Raises:
        DataError: a question does not contain its subject.
    """
    out: list[EditPrompt] = []
    for one in kept:
        before, found, behind = one.text.rpartition(one.subject)
        if not found:
            raise DataError(
                f"{shown(one.text)} is to be kept, but does not contain its subject "
                f"{shown(one.subject)}."
            )
        whole = ASKED[anchor == "last"].replace(SLOT, before + SLOT + behind)
        out.append(_tokenised(model, whole, one.subject, anchor, "", None))
    return out


def kept_of(known: Mapping[KeyKind, Sequence[Known]]) -> tuple[Kept, ...]:
    """Preserved questions as an editor takes them: each about its first subject.

    Those whose subject is not in their text are left out: they have no token to keep.
    """
    return tuple(
        Kept(question.text, question.subjects[0], _relation(question), kind == "related")
        for kind, questions in known.items()
        for question in questions
        if question.subjects[0] in question.text
    )


def _relation(question: Known) -> str:
    """Of a single fact; chains have several."""
    return question.relations[0] if len(question.relations) == 1 else ""


def contrasts(fact: Fact, kept: Sequence[Kept]) -> tuple[Kept, ...]:
    """A fact's subject in preserved questions about something else that is asked of its kind.

    One question a relation, once with the subject's name and once with one of its implicit
    phrases, the next one in turn: the edited fact has nothing to say there. Questions whose
    relation has no name count as one each. Without related questions there are none.
    """
    other = {
        one.relation or one.text: one
        for one in kept
        if one.related and (not one.relation or one.relation != fact.relation)
    }
    out: list[Kept] = []
    for i, one in enumerate(other.values()):
        before, _, behind = one.text.rpartition(one.subject)
        turn = i % max(1, len(fact.implicit))
        names = (fact.subject, *fact.implicit[turn : turn + 1])
        out += [Kept(before + name + behind, name, one.relation) for name in names]
    return tuple(out)


def begun(prompts: Sequence[EditPrompt]) -> list[EditPrompt]:
    """Prompts behind which the target has been begun, anchored at each of its tokens.

    What makes a model say the target at a last token must not go on at the answer's own tokens,
    or it is said again and again, or never beyond its first token. Those with demonstrations
    are left out.
    """
    return [
        EditPrompt(prompt.ids, prompt.anchor + i, 0)
        for prompt in prompts
        if not prompt.n_shown
        for i in range(1, prompt.n_target + 1)
    ]


def whole_prompt(model: Model, text: str, prefix: str = "") -> EditPrompt:
    """A prompt as it stands, anchored at its last token; `prefix` are its demonstrations."""
    ids, shown = tuple(model.encode(text)), tuple(model.encode(prefix)) if prefix else ()
    apart = len(shown) < len(ids) and ids[: len(shown)] == shown
    return EditPrompt(ids, len(ids) - 1, 0, len(shown) if apart else 0)


def essence_prompt(model: Model, subject: str, anchor: Anchor) -> EditPrompt:
    """``"{} is a"``, on which the target search keeps the model's distribution (ROME, eq. 4)."""
    return _tokenised(model, f"{SLOT} is a", subject, anchor, "", None)


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
            raise DataError(
                f"{at}the subject {shown(subject)} has no token of its own in {shown(text)}."
            )
        position = inside[-1]
    whole = tuple(model.encode(f"{text} {target}")) if target else ids
    if whole[: len(ids)] != ids:
        raise DataError(
            f"{at}the target {shown(target)} does not follow {shown(text)} as tokens of its own; "
            "end the prompt in a whole word."
        )
    cut = template[:start].rfind("\n\n") + 2
    n_shown = sum(hi <= cut for _, hi in encoded["offset_mapping"]) if cut > 1 else 0
    return EditPrompt(whole, position, len(whole) - len(ids), n_shown)
