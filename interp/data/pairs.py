"""Prompt pairs: a clean and a corrupt prompt that differ in one fact, and both answers.

`PromptPairs` is text, with where each row came from; a `TokenPair` is one row in a model's tokens,
aligned; `tokenise` makes them and names every refused row with its reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from interp.brief import brief
from interp.data.alignment import Partner, align
from interp.data.answers import Aliases, both_answers
from interp.data.records import Row, Text, checked, read_records
from interp.errors import DataError, PlanError, shown
from interp.model.model import Model

PLACES = ("all", "prompt", "last", "decoded", "generating")
"""Names of positions that every prompt has, which no span can take."""
Range = tuple[int, int]
AnswerMode = Literal["whole", "first"]
"""How much of an answer is read: all of its tokens, or each alias's first one alone."""


@brief
@dataclass(frozen=True)
class Pair:
    """One row.

    Attributes:
        clean: prompt whose right continuation is `answer`.
        corrupt: prompt whose right continuation is `wrong_answer`; of any length.
        answer: what follows `clean`; a leading space is added where the prompt needs one.
        wrong_answer: what follows `corrupt`.
        spans: name -> ((start, end) in `clean`, (start, end) in `corrupt`), in characters.
        where: file and row, for messages.
        aliases: further texts that are accepted for `answer`.
        wrong_aliases: further texts that count as `wrong_answer`.
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


@dataclass(frozen=True)
class Excluded:
    """A refused row and why."""

    id: str
    where: str
    reason: str


@dataclass(frozen=True)
class PromptPairs(Sequence[Pair]):
    """An ordered set of pairs."""

    pairs: tuple[Pair, ...]
    source: str = "records"

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return PromptPairs(self.pairs[index], self.source)
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
                ``[start, end]`` range of characters.
            source: what to call these rows in messages and results.

        Raises:
            DataError: a row is not a pair, an id occurs twice, or a span not exactly once.
        """
        pairs = [_pair(record, f"{source}, row {n}", n) for n, record in enumerate(records, 1)]
        if not pairs:
            raise DataError(f"{source} holds no pairs; give at least one row.")
        seen: dict[str, str] = {}
        for pair in pairs:
            if pair.id in seen:
                raise DataError(
                    f"{pair.where}: id {shown(pair.id)} was used before, in {seen[pair.id]}; "
                    "give every row its own id."
                )
            seen[pair.id] = pair.where
        return cls(tuple(pairs), source)


def load_pairs(source: Any, split: str = "train") -> PromptPairs:
    """Load prompt pairs.

    `source` is the name of a shipped data set (see `interp.datasets`), path of a JSONL file, Hub id
    of a data set (and `split` one of its splits), a Hugging Face ``datasets.Dataset``, or an
    iterable of records. `DataError` where it is missing, or a row is not a pair.
    """
    if isinstance(source, PromptPairs):
        return source
    if isinstance(source, str | Path):
        return PromptPairs.from_records(*read_records(source, split, "prompt pairs"))
    name = getattr(source, "info", None) and (source.info.dataset_name or "dataset")
    return PromptPairs.from_records(source, name or "records")


def _texts(given: Any) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("it must be text, or a list of texts")
    if not texts or not all(text.strip() for text in texts):
        raise ValueError("it must be non-empty text, or a list of such texts")
    return tuple(texts)


_Texts = Annotated[Any, AfterValidator(_texts)]


class _Record(Row):
    clean: Text
    corrupt: Text
    answer: _Texts
    wrong_answer: _Texts
    id: Any = None
    subject: Any = None
    spans: dict[str, Any] | None = None


def _pair(record: Any, where: str, number: int) -> Pair:
    if isinstance(record, Mapping):  # a row of a data set may hold more than JSON can
        record = {key: record[key] for key in _Record.model_fields if key in record}
    given = checked(_Record, record, where)
    prompts = (given.clean, given.corrupt)
    named = {name: place for name, place in (given.spans or {}).items() if place is not None}
    if given.subject is not None:
        named.setdefault("subject", given.subject)
    taken = next((name for name in named if name in PLACES), None)
    if taken is not None:
        raise DataError(f"{where}: a span cannot be called {taken!r}, which every prompt has.")
    id = number if given.id is None else given.id
    if not isinstance(id, str | int) or isinstance(id, bool):
        raise DataError(f"{where}: 'id' is {shown(id)}; it must be text or a whole number.")
    spans = {name: _span(name, place, prompts, where) for name, place in named.items()}
    (answer, *aliases), (wrong, *others) = given.answer, given.wrong_answer
    return Pair(str(id), *prompts, answer, wrong, spans, where, tuple(aliases), tuple(others))


def _span(name: str, given: Any, prompts: tuple[str, str], where: str) -> tuple[Range, Range]:
    two = isinstance(given, list | tuple) and len(given) == 2 and not all(map(_is_number, given))
    clean, corrupt = given if two else (given, given)
    return _range(name, clean, prompts[0], where), _range(name, corrupt, prompts[1], where)


def _range(name: str, given: Any, prompt: str, where: str) -> Range:
    if isinstance(given, list | tuple) and len(given) == 2 and all(map(_is_number, given)):
        start, end = given
        if 0 <= start < end <= len(prompt):
            return start, end
    found = "is not"
    if isinstance(given, str) and given:
        start, n = prompt.find(given), prompt.count(given)
        if n == 1:
            return start, start + len(given)
        found = f"occurs {n} times"
    raise DataError(
        f"{where}: span {shown(name)} ({shown(given)}) {found} in {shown(prompt)}; give a text "
        "that occurs exactly once, or a [start, end] range of characters."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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


def unpaired(pairs: Sequence[TokenPair]) -> tuple[tuple[int, int], ...]:
    """Of each pair the tokens without a partner, clean and corrupt; empty where all have one."""
    found = tuple(pair.unpaired for pair in pairs)
    return found if any(map(any, found)) else ()


def tokenise(
    model: Model, pairs: PromptPairs, answers: AnswerMode | Literal["single"] = "whole"
) -> tuple[list[TokenPair], list[Excluded]]:
    """Every pair in a model's tokens: the usable ones, and the refused ones with their reasons.

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
    return usable, refused


def _tokenise(model: Model, pair: Pair, mode: str) -> TokenPair:
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
    offsets = model.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
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
