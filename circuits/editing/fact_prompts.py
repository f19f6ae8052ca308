"""The prompts from which an edit learns: forms of a fact, its target's tokens, its anchor token."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from circuits.editing.fact import SLOT, Fact, PreservedQuestion
from circuits.editing.methods import FORMS, Anchor, Form
from interp.brief import brief
from interp.data.answers import spaced
from interp.data.chat import Chat, Range, render
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, PlanError, did_you_mean, shown
from interp.interventions.generate import generate
from interp.model.model import Model

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
that learnt bare questions alone would match those behind demonstrations less."""


@brief
@dataclass(frozen=True)
class EditPrompt:
    """A prompt's tokens, then the target's.

    Attributes:
        anchor: position of the token that is written at.
        n_target: how many last tokens are the target's; 0 for a preserved prompt.
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

    def ended(self, model: Model) -> "EditPrompt":
        """With the end-of-text token as the target's last; `PlanError` where there is none."""
        end = model.tokenizer.eos_token_id
        if end is None:
            raise PlanError(
                f"{model.name} has no end-of-text token, which this method has it learn behind "
                "each target; take a method that does not."
            )
        return replace(self, ids=(*self.ids, end), n_target=self.n_target + 1)

    @property
    def n_tail(self) -> int:
        """How many of the tokens read an edit at the anchor can change."""
        return len(self.read_tokens.ids) - self.anchor

    @property
    def key_tokens(self) -> TokenPrompt:
        """Up to the anchor: all that the anchor's key depends on."""
        return TokenPrompt(self.ids[: self.anchor + 1])


def contexts(model: Model, seed: int = 0) -> tuple[str, ...]:
    """The bare template and five that put the model's own words before it.

    Source: Meng et al., arXiv 2210.07229, section 4 (templates), as PMET's code draws them.
    """
    own = generate(
        model, list(STARTS), max_new_tokens=10, temperature=1.0, seed=seed, progress=False
    )
    texts = [start + g.text for start, g in zip(STARTS, own, strict=True)]
    plain = [" ".join(text.replace("{", " ").replace("}", " ").split()) for text in texts]
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

    In a chat questions are a user's turn alone, without the frames in `asked`.
    `templates` are contexts of clozes, `asked` those of questions, with a slot each. Raises
    `DataError` where the subject or the target has no tokens of its own.
    """
    asked = BARE if fact.chat else asked
    if form == "cloze":
        texts = [(t.replace(SLOT, fact.prompt), fact.subject) for t in templates]
    elif form == "question":
        texts = [(t.replace(SLOT, fact.question), fact.subject) for t in asked if fact.question]
    elif form == "two_hop":
        question = fact.question or fact.prompt
        texts = [(t.replace(SLOT, question), phrase) for t in asked for phrase in fact.implicit]
    else:
        raise DataError(f"no form {shown(form)} of prompts. {did_you_mean(form, FORMS)}")
    return [
        _tokenised(model, text, name, anchor, fact.target, fact.at, fact.chat)
        for text, name in texts
    ]


def refuse_unanchored(model: Model, fact: Fact) -> None:
    """Raise `DataError` unless a token ends where the cloze's subject does, before the target's."""
    edit_prompts(model, fact, "cloze", "subject_last")
    text, (_, end) = _filled(model, fact.prompt, fact.subject, fact.chat)
    if all(hi != end for _, hi in model.offsets(text)):
        raise DataError(
            f"{fact.at}the subject {shown(fact.subject)} ends inside a token of "
            f"{shown(fact.cloze)}; write a prompt in which it ends a word."
        )


def preserved_prompts(
    model: Model, preserved: Sequence[PreservedQuestion], anchor: Anchor
) -> list[EditPrompt]:
    """Preserved questions, with the anchor that an edit is made with."""
    # behind demonstrations where the last token is what counts, as that is how they are asked
    template = ASKED[anchor == "last"]
    return [
        _tokenised(model, template.replace(SLOT, one.about(SLOT)), one.subject, anchor)
        for one in preserved
    ]


def contrasts(fact: Fact, preserved: Sequence[PreservedQuestion]) -> tuple[PreservedQuestion, ...]:
    """A fact's subject in related preserved questions, on which the edited fact does not bear.

    One question per relation (each, where it has no name), once with the subject's name and once
    with one of its implicit phrases, the next one in turn.
    """
    other = {
        one.relation or one.text: one
        for one in preserved
        if one.related and (not one.relation or one.relation != fact.relation)
    }
    out: list[PreservedQuestion] = []
    for i, one in enumerate(other.values()):
        turn = i % max(1, len(fact.implicit))
        names = (fact.subject, *fact.implicit[turn : turn + 1])
        out += [PreservedQuestion(one.about(name), name, one.relation) for name in names]
    return tuple(out)


def begun_targets(prompts: Sequence[EditPrompt]) -> list[EditPrompt]:
    """Prompts behind which the target has been begun, anchored at each of its tokens.

    What makes a model give the target at a last token must not go on at the answer's own tokens,
    or it is repeated, or never goes beyond its first token. Those with demonstrations are left out.
    """
    return [
        EditPrompt(prompt.ids, prompt.anchor + i, 0)
        for prompt in prompts
        if not prompt.n_shown
        for i in range(1, prompt.n_target + 1)
    ]


def last_token_prompt(model: Model, text: str, prefix: str = "") -> EditPrompt:
    """A prompt as it stands, anchored at its last token; `prefix` are its demonstrations."""
    ids, first = tuple(model.encode(text)), tuple(model.encode(prefix)) if prefix else ()
    apart = len(first) < len(ids) and ids[: len(first)] == first
    return EditPrompt(ids, len(ids) - 1, 0, len(first) if apart else 0)


def essence_prompt(model: Model, subject: str, anchor: Anchor) -> EditPrompt:
    """``"{} is a"``, on which the target search keeps the model's distribution (ROME, eq. 4)."""
    return _tokenised(model, f"{SLOT} is a", subject, anchor)


def _tokenised(
    model: Model,
    template: str,
    subject: str,
    anchor: Anchor,
    target: str = "",
    at: str = "",
    chat: Chat | None = None,
) -> EditPrompt:
    text, (_, end) = _filled(model, template, subject, chat)
    ids, offsets = tuple(model.encode(text)), model.offsets(text)
    position = len(ids) - 1
    if anchor == "subject_last":
        inside = [i for i, (lo, hi) in enumerate(offsets) if lo < end <= hi]
        if not inside:
            raise DataError(
                f"{at}the subject {shown(subject)} has no token of its own in {shown(text)}."
            )
        position = inside[-1]
    both = tuple(model.encode(text + spaced(text, target))) if target else ids
    if both[: len(ids)] != ids:
        raise DataError(
            f"{at}the target {shown(target)} does not follow {shown(text)} as tokens of its own; "
            "end the prompt in a whole word."
        )
    cut = 0 if chat else template[: template.index(SLOT)].rfind("\n\n") + 2
    n_shown = sum(hi <= cut for _, hi in offsets) if cut > 1 else 0
    return EditPrompt(both, position, len(both) - len(ids), n_shown)


def _filled(model: Model, template: str, subject: str, chat: Chat | None) -> tuple[str, Range]:
    """A template with its subject, in a chat if one is given, and where the subject is in it."""
    text, start = template.replace(SLOT, subject), template.index(SLOT)
    span = start, start + len(subject.rstrip())
    if chat is None:
        return text, span
    wrapped = chat.wrap(text)
    before = wrapped.start(1) if chat.system is not None else 0
    text, spans = render(model, wrapped, {"subject": (span[0] + before, span[1] + before)})
    return text, spans["subject"]
