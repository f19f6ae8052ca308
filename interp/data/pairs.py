"""Prompt pairs: a clean and a corrupt prompt that differ in one fact, and both answers.

`PromptPairs` is text or chats, with where each row came from; a `TokenPair` is one row in a model's
tokens, aligned; `tokenise` makes them and names every refused row with its reason.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from interp.brief import brief
from interp.data.alignment import Partner, align
from interp.data.answers import Aliases, both_answers
from interp.data.chat import Chat, Conversation, Range, render
from interp.data.pair_records import pair_fields, warn_of_unread
from interp.data.records import read_records, refuse_repeated
from interp.errors import DataError, InterpWarning, PlanError, shown
from interp.model.model import Model
from interp.model.rendered import Rendered

AnswerMode = Literal["whole", "first"]
"""How much of an answer is read: all of its tokens, or each alias's first one alone."""


@brief
@dataclass(frozen=True)
class Pair:
    """One row.

    Attributes:
        clean: prompt whose right continuation is `answer`.
        corrupt: prompt whose right continuation is `wrong_answer`; of any length.
        answer: what follows `clean`; a leading space is added where the prompt needs one, and none
            where it begins the assistant's turn of a chat.
        wrong_answer: what follows `corrupt`.
        spans: name -> ((start, end) in `clean`, (start, end) in `corrupt`), in characters.
        where: file and row, for messages.
        aliases: further texts that are accepted for `answer`.
        wrong_aliases: further texts that count as `wrong_answer`.
        chats: both prompts as messages, or None; `clean` and `corrupt` are then the contents of
            their messages, until a model's template has rendered them.
        labels: the row's other texts and whole numbers, such as its template, to group rows by;
            they decide nothing that is measured, so run folders do not depend on them.
    """

    id: str
    clean: str
    corrupt: str
    answer: str
    wrong_answer: str
    spans: Mapping[str, tuple[Range, Range]] = field(default_factory=dict)
    where: str = ""
    aliases: tuple[str, ...] = ()
    wrong_aliases: tuple[str, ...] = ()
    chats: tuple[Conversation, Conversation] | None = None
    labels: Mapping[str, str] = field(default_factory=dict, metadata={"in_key": False})


@dataclass(frozen=True)
class Excluded:
    """A refused row and why."""

    id: str
    where: str
    reason: str


@dataclass(frozen=True)
class PromptPairs(Sequence[Pair]):
    """An ordered set of pairs, and the rows that were left out of it before, such as by a split."""

    pairs: tuple[Pair, ...]
    source: str = "records"
    excluded: tuple[Excluded, ...] = field(default=(), metadata={"in_key": False})

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return replace(self, pairs=self.pairs[index])
        return self.pairs[index]

    def __repr__(self) -> str:
        return f"PromptPairs({len(self)} from {self.source})"

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, Any]], source: str = "records"
    ) -> "PromptPairs":
        """Build from rows with ``clean``, ``corrupt``, ``answer`` and ``wrong_answer``.

        Args:
            records: mappings; an answer is a text, or a list of texts that are all accepted, the
                usual one first. Optional keys are ``id``, ``subject`` (text, or
                ``[clean text, corrupt text]``) and ``spans``, a mapping from name to
                ``[clean, corrupt]`` where each is a text that occurs once in its prompt or a
                ``[start, end]`` range of characters. ``clean`` and ``corrupt`` are texts, or both
                lists of messages with ``role`` and ``content``; spans are then found in the
                contents.
            source: what to call these rows in messages and results.

        Raises:
            DataError: a row is not a pair, an id occurs twice, or a span not exactly once.
        """
        rows = enumerate(records, 1)
        pairs = [Pair(**pair_fields(record, f"{source}, row {n}", n)) for n, record in rows]
        if not pairs:
            raise DataError(f"{source} holds no pairs; give at least one row.")
        refuse_repeated((pair.where, pair.id) for pair in pairs)
        return cls(tuple(pairs), source)

    def as_chat(self, chat: Chat | None = None) -> "PromptPairs":
        """Plain prompts as one user's turn each, and messages as they are, with these options.

        The rows keep their ids, answers and spans. `DataError` where messages and options do not
        go together (:meth:`Chat.wrap`).
        """
        chat = chat or Chat()
        return replace(self, pairs=tuple(_in_chat(pair, chat) for pair in self.pairs))

    def rendered(self, model: Model) -> "PromptPairs":
        """Chats as the model's template writes them; those that it refuses stay as they are."""

        def written(pair: Pair) -> Pair:
            try:
                return _rendered(model, pair)
            except DataError:  # `tokenise` excludes it, with the reason
                return pair

        return replace(self, pairs=tuple(map(written, self.pairs)))


def load_pairs(source: Any, split: str = "train") -> PromptPairs:
    """Load prompt pairs.

    `source` is the name of a shipped data set (see `interp.datasets`), path of a JSONL file, Hub id
    of a data set (and `split` one of its splits), a Hugging Face ``datasets.Dataset``, or an
    iterable of records. `DataError` where it is missing, or a row is not a pair; `InterpWarning` of
    fields that a pair does not have, which are kept as its labels.
    """
    if isinstance(source, PromptPairs):
        return source
    if isinstance(source, str | Path):
        rows, name = read_records(source, split, "prompt pairs")
    elif hasattr(source, "iterrows"):
        raise DataError("pairs are a data frame; give its rows, such as frame.to_dict('records').")
    else:
        name = getattr(source, "info", None) and (source.info.dataset_name or "dataset")
        rows, name = list(source), name or "records"
    pairs = PromptPairs.from_records(rows, name)
    warn_of_unread(rows, name)
    return pairs


def _in_chat(pair: Pair, chat: Chat) -> Pair:
    given = pair.chats or (pair.clean, pair.corrupt)
    if isinstance(pair.clean, Rendered):
        raise DataError(f"{pair.where}: this chat is rendered already; give it as messages.")
    clean, corrupt = map(chat.wrap, given)
    shift = clean.start(1) if chat.system is not None else 0  # a system turn stands before it
    spans = {
        name: tuple((start + shift, end + shift) for start, end in both)
        for name, both in pair.spans.items()
    }
    texts: dict[str, Any] = {"clean": clean.text, "corrupt": corrupt.text, "spans": spans}
    return replace(pair, **texts, chats=(clean, corrupt))


def _rendered(model: Model, pair: Pair) -> Pair:
    """The pair with both prompts as the model's template writes them."""
    if pair.chats is None or isinstance(pair.clean, Rendered):
        return pair
    (clean, first), (corrupt, second) = (
        render(model, chat, {name: both[side] for name, both in pair.spans.items()})
        for side, chat in enumerate(pair.chats)
    )
    spans = {name: (first[name], second[name]) for name in pair.spans}
    return replace(pair, clean=clean, corrupt=corrupt, spans=spans)


# --- in a model's tokens -----------------------------------------------------------------------


@brief
@dataclass(frozen=True)
class TokenPair:
    """One pair in tokens, aligned.

    Attributes:
        answers: the answer and the wrong answer, each as its aliases, in tokens.
        spans, corrupt_spans: name -> token positions in the clean and in the corrupt prompt.
        partner: for each clean token the position of its partner in the corrupt prompt, or
            ``None``; see `interp.data.alignment.align`.
    """

    pair: Pair
    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    answers: tuple[Aliases, Aliases]
    spans: Mapping[str, tuple[int, ...]]
    corrupt_spans: Mapping[str, tuple[int, ...]]
    partner: Partner

    @property
    def answer(self) -> int:
        """First token of the answer's first alias."""
        return self.answers[0][0][0]

    @property
    def wrong_answer(self) -> int:
        """First token of the wrong answer's first alias."""
        return self.answers[1][0][0]

    @property
    def first_difference(self) -> int:
        """First clean position whose activation can differ from its partner's.

        Up to there both prompts have the same tokens, each the other's partner.
        """
        both = zip(self.clean, self.corrupt, self.partner, strict=False)
        same = (a == b and i == j for i, (a, b, j) in enumerate(both))
        return next((i for i, equal in enumerate(same) if not equal), len(self.corrupt))

    @property
    def unpaired(self) -> tuple[int, int]:
        """How many tokens of the clean and of the corrupt prompt have no partner."""
        n = sum(one is not None for one in self.partner)
        return len(self.clean) - n, len(self.corrupt) - n

    @property
    def roles(self) -> tuple[str, ...]:
        """The span each token belongs to, or ``""``; the first named wins where spans overlap."""
        of_position = {p: name for name, span in reversed(list(self.spans.items())) for p in span}
        return tuple(of_position.get(p, "") for p in range(len(self.clean)))

    def matched(self, place: str | int) -> tuple[tuple[int, int], ...]:
        """(clean, corrupt) positions of the partners in a place of both prompts, ascending.

        A place is a clean position, ``all``, ``last``, a span, or a span's ``_last`` token, whose
        partner here is the other span's last token whatever else is aligned.
        """
        if place == "last":
            return ((len(self.clean) - 1, len(self.corrupt) - 1),)
        if isinstance(place, str) and place != "all" and place not in self.spans:
            name = place.removesuffix("_last")
            return ((self.spans[name][-1], self.corrupt_spans[name][-1]),)
        inside: Iterable[int] = range(len(self.clean))
        others: Iterable[int] = range(len(self.corrupt))
        if isinstance(place, int):
            inside = range(place, min(place + 1, len(self.clean)))
        elif place != "all":
            inside, others = self.spans[place], self.corrupt_spans[place]
        found = ((i, self.partner[i]) for i in inside)
        return tuple((i, j) for i, j in found if j is not None and j in others)


def answer_tokens(pairs: Sequence[TokenPair], what: str) -> Int[Tensor, "pair 2"]:
    """The one token of each pair's answer and wrong answer, for methods that read no more.

    `PlanError` where an answer has several tokens or texts; `what` is what reads it.
    """
    for pair in pairs:
        several = next((a for a in pair.answers if sum(map(len, a)) > 1), None)
        if several is not None:
            n, of = len(several), "accepted texts"
            n, of = (n, of) if n > 1 else (len(several[0]), "tokens")
            raise PlanError(
                f"{pair.pair.where or 'pair ' + pair.pair.id}: {what} reads one token per answer, "
                f"and an answer here has {n} {of}; choose answers='first' (of pairs in tokens: "
                "tokenise(model, pairs, 'first')) and one text per answer, or leave the pair out."
            )
    return torch.tensor([[pair.answer, pair.wrong_answer] for pair in pairs])


def unpaired(pairs: Sequence[TokenPair]) -> tuple[tuple[int, int], ...]:
    """Of each pair the tokens without a partner, clean and corrupt; empty where all have one."""
    found = tuple(pair.unpaired for pair in pairs)
    return found if any(map(any, found)) else ()


def tokenise(
    model: Model, pairs: PromptPairs, answers: AnswerMode | Literal["single"] = "whole"
) -> tuple[list[TokenPair], list[Excluded]]:
    """Every pair in a model's tokens: the usable ones, and the excluded ones with their reasons.

    `answers`: ``"whole"``: all tokens of every alias, without those that extend another;
    ``"first"``: each alias's first token; ``"single"``: for methods that read one token, so other
    pairs are refused.

    `DataError` where no row is usable; the message gives the first reason and the count.
    """
    if answers not in ("whole", "first", "single"):
        raise PlanError(f"answers={shown(answers)}; choose 'whole' or 'first'.")
    usable, refused = list[TokenPair](), list[Excluded]()
    for pair in pairs:
        try:
            usable.append(_tokenise(model, pair, answers))
        except DataError as error:
            refused.append(Excluded(pair.id, pair.where, str(error)))
    if not usable:
        first = refused[0]
        raise DataError(
            f"none of the {len(refused)} pairs in {pairs.source} can be used with {model.name}; "
            f"first: {first.where}: {first.reason}"
        )
    return usable, [*pairs.excluded, *refused]


def warn_of(excluded: Sequence[Excluded], n_used: int) -> dict[str, str]:
    """Warn of refused rows, where a result has no list of them; their reasons, by id."""
    if excluded:
        n, first = len(excluded), excluded[0]
        said = f"{n} of {n + n_used} pairs are left out; first: {first.where}: {first.reason}"
        warnings.warn(said, InterpWarning, stacklevel=3)
    return {row.id: row.reason for row in excluded}


def _tokenise(model: Model, pair: Pair, mode: str) -> TokenPair:
    pair = _rendered(model, pair)
    clean, corrupt = model.encode(pair.clean), model.encode(pair.corrupt)
    if clean == corrupt:
        raise DataError("clean and corrupt are the same tokens, so there is nothing to patch.")
    prompts = ((pair.clean, clean), (pair.corrupt, corrupt))
    texts = ((pair.answer, *pair.aliases), (pair.wrong_answer, *pair.wrong_aliases))
    answers = both_answers(model, prompts, texts, mode)
    sides = ((pair.clean, len(clean)), (pair.corrupt, len(corrupt)))
    spans, others = (
        {name: _tokens_of(model, text, both[side], n) for name, both in pair.spans.items()}
        for side, (text, n) in enumerate(sides)
    )
    partner = align(clean, corrupt, spans, others)
    return TokenPair(pair, tuple(clean), tuple(corrupt), answers, spans, others, partner)


def _tokens_of(model: Model, prompt: str, span: Range, n: int) -> tuple[int, ...]:
    offsets = model.offsets(prompt)
    if len(offsets) != n:
        raise DataError("the tokenizer's offsets do not match its tokens.")
    inside = overlapping(offsets, prompt, span)
    if not inside:
        raise DataError(
            f"the characters {span[0]} to {span[1]} of {shown(prompt)} lie in no token."
        )
    return inside


def overlapping(offsets: Sequence[Range], text: str, span: Range) -> tuple[int, ...]:
    """The tokens, by their offsets, that share more than a blank with a span of a text."""
    shared = (text[max(low, span[0]) : min(high, span[1])] for low, high in offsets)
    return tuple(i for i, part in enumerate(shared) if part.strip())
