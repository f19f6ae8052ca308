"""Prompt pairs: a clean and a corrupt prompt that differ in one fact, and both answers.

`PromptPairs` is text, with where each row came from; a `TokenPair` is one row in a model's tokens,
aligned; `tokenise` makes them and names every refused row with its reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.brief import brief
from interp.data.records import read_records
from interp.errors import DataError, shown
from interp.model.model import Model

REQUIRED = ("clean", "corrupt", "answer", "wrong_answer")
PLACES = ("all", "prompt", "last", "decoded", "generating")
"""Names of positions that every prompt has, which no span can take."""


@brief
@dataclass(frozen=True)
class Pair:
    """One row.

    Attributes:
        id: unique name of the row.
        clean: prompt whose right continuation is `answer`.
        corrupt: prompt of equal token length whose right continuation is `wrong_answer`.
        answer: what follows `clean`; a leading space is added where the prompt needs one.
        wrong_answer: what follows `corrupt`.
        spans: name -> ((start, end) in `clean`, (start, end) in `corrupt`), in characters.
        where: file and row, for messages.
    """

    id: str
    clean: str
    corrupt: str
    answer: str
    wrong_answer: str
    spans: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=dict)
    where: str = ""


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
            records: mappings; optional keys are ``id``, ``subject`` (text, or
                ``[clean text, corrupt text]``) and ``spans``, a mapping from name to
                ``[clean, corrupt]`` where each is a text that occurs once in its prompt or a
                ``[start, end]`` range of characters.
            source: what to call these rows in messages and results.

        Raises:
            DataError: a key is missing or of the wrong kind, an id occurs twice, or a span
                does not occur exactly once; the message names the row.
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

    Args:
        source: name of a shipped data set (see `interp.datasets`), path of a JSONL file, Hub id
            of a data set, a Hugging Face ``datasets.Dataset``, or an iterable of records.
        split: which split of a Hub data set.

    Raises:
        DataError: the file is missing or a line is not a JSON object (named by number).
        DataError: a row is not a pair.
    """
    if isinstance(source, PromptPairs):
        return source
    if isinstance(source, str | Path):
        return PromptPairs.from_records(*read_records(source, split, "prompt pairs"))
    name = getattr(source, "info", None) and (source.info.dataset_name or "dataset")
    return PromptPairs.from_records(source, name or "records")


def _pair(record: Any, where: str, number: int) -> Pair:
    if not isinstance(record, Mapping):
        raise DataError(
            f"{where}: {shown(record)} is not a pair; give an object of names and texts."
        )
    for key in REQUIRED:
        if key not in record:
            raise DataError(f"{where}: {key!r} is missing; every pair needs {', '.join(REQUIRED)}.")
        if not isinstance(record[key], str) or not record[key].strip():
            raise DataError(f"{where}: {key!r} is {shown(record[key])}; it must be non-empty text.")
    texts = {key: record[key] for key in REQUIRED}
    prompts = (texts["clean"], texts["corrupt"])
    given = {} if record.get("spans") is None else record["spans"]
    if not isinstance(given, Mapping):
        raise DataError(f"{where}: 'spans' is {shown(given)}; it must map names to spans.")
    named = {k: v for k, v in given.items() if v is not None}
    if record.get("subject") is not None:
        named.setdefault("subject", record["subject"])
    taken = next((name for name in named if name in PLACES), None)
    if taken is not None:
        raise DataError(f"{where}: a span cannot be called {taken!r}, which every prompt has.")
    spans = {name: _span(name, value, prompts, where) for name, value in named.items()}
    id = number if record.get("id") is None else record["id"]
    if not isinstance(id, str | int) or isinstance(id, bool):
        raise DataError(f"{where}: 'id' is {shown(id)}; it must be text or a whole number.")
    return Pair(
        id=str(id),
        **texts,
        spans=spans,
        where=where,
    )


def _span(
    name: str, value: Any, prompts: tuple[str, str], where: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    both = value if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
    if all(map(_is_place, both)):
        both = (value, value)
    first, second = (
        _range(name, v, prompt, where) for v, prompt in zip(both, prompts, strict=True)
    )
    return first, second


def _range(name: str, value: Any, prompt: str, where: str) -> tuple[int, int]:
    if isinstance(value, list | tuple) and len(value) == 2:
        start, end = value
        if _is_place(start) and _is_place(end) and 0 <= start < end <= len(prompt):
            return start, end
    if isinstance(value, str) and value and prompt.count(value) == 1:
        start = prompt.index(value)
        return start, start + len(value)
    found = f"occurs {prompt.count(value)} times" if isinstance(value, str) and value else "is not"
    raise DataError(
        f"{where}: span {shown(name)} ({shown(value)}) {found} in {shown(prompt)}; give a text "
        "that occurs exactly once, or a [start, end] range of characters."
    )


def _is_place(value: Any) -> bool:
    """Whether it is a number of characters; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


# --- in a model's tokens -----------------------------------------------------------------------


@brief
@dataclass(frozen=True)
class TokenPair:
    """One pair in tokens: both prompts equally long, spans at the same token positions."""

    pair: Pair
    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    answer: int
    wrong_answer: int
    spans: Mapping[str, tuple[int, ...]]

    @property
    def first_difference(self) -> int:
        """First position whose tokens differ; nothing before it can differ in activation."""
        same = (a == b for a, b in zip(self.clean, self.corrupt, strict=True))
        return next(i for i, equal in enumerate(same) if not equal)

    @property
    def roles(self) -> tuple[str, ...]:
        """The span each token belongs to, or ``""``; the first named wins where spans overlap."""
        of_position = {p: name for name, span in reversed(list(self.spans.items())) for p in span}
        return tuple(of_position.get(p, "") for p in range(len(self.clean)))

    def positions(self, place: str) -> tuple[int, ...]:
        """Token positions of ``all``, ``last``, a span, or a span's ``_last`` token."""
        n = len(self.clean)
        if place == "all":
            return tuple(range(n))
        if place == "last":
            return (n - 1,)
        if place in self.spans:
            return self.spans[place]
        return self.spans[place.removesuffix("_last")][-1:]


def tokenise(model: Model, pairs: PromptPairs) -> tuple[list[TokenPair], list[Excluded]]:
    """Put every pair into a model's tokens.

    Returns:
        The usable pairs, and the refused ones, each with its reason.

    Raises:
        DataError: no row is usable; the message gives the first reason and the count.
    """
    kept, refused = [], []
    for pair in pairs:
        try:
            kept.append(_tokenise(model, pair))
        except DataError as error:
            refused.append(Excluded(pair.id, pair.where, str(error)))
    if not kept:
        first = refused[0]
        raise DataError(
            f"none of the {len(refused)} pairs in {pairs.source} can be used with {model.name}; "
            f"first: {first.where}: {first.reason}"
        )
    return kept, refused


def _tokenise(model: Model, pair: Pair) -> TokenPair:
    clean, corrupt = model.encode(pair.clean), model.encode(pair.corrupt)
    if len(clean) != len(corrupt):
        raise DataError(
            f"clean has {len(clean)} tokens and corrupt {len(corrupt)}; choose a counterpart of "
            "equal token length."
        )
    if clean == corrupt:
        raise DataError("clean and corrupt are the same tokens, so there is nothing to patch.")
    answer = single_token(model, pair.clean, clean, pair.answer, "answer")
    wrong = single_token(model, pair.clean, clean, pair.wrong_answer, "wrong_answer")
    if answer == wrong:
        raise DataError(f"answer and wrong_answer are the same token {model.token(answer)!r}.")
    spans = {name: _token_span(model, pair, name, (clean, corrupt)) for name in pair.spans}
    return TokenPair(pair, tuple(clean), tuple(corrupt), answer, wrong, spans)


def single_token(model: Model, prompt: str, ids: list[int], answer: str, key: str) -> int:
    """The one token by which `answer` continues `prompt`, spaced as text would be.

    Args:
        model: whose tokenizer.
        prompt: the text before the answer.
        ids: its tokens.
        answer: the text of the answer.
        key: what to call the answer in messages.

    Raises:
        DataError: it is several tokens, or merges with the end of the prompt.
    """
    spaced = answer[0].isspace() or prompt[-1].isspace() or prompt[-1] in "([{\"'“‘"
    text = answer if spaced else f" {answer}"
    full = model.encode(prompt + text)
    if full[: len(ids)] != ids:
        raise DataError(
            f"{key} {shown(answer)} merges with the end of the prompt {prompt[-12:]!r} into one "
            "token; "
            "end the prompt before the space."
        )
    rest = full[len(ids) :]
    if len(rest) != 1:
        pieces = shown([model.token(t) for t in rest])
        raise DataError(f"{key} {shown(text)} is {len(rest)} tokens {pieces}, and must be one.")
    return rest[0]


def _token_span(
    model: Model, pair: Pair, name: str, ids: tuple[list[int], list[int]]
) -> tuple[int, ...]:
    ranges = pair.spans[name]
    clean, corrupt = (
        _tokens_in(model, prompt, span, len(tokens))
        for prompt, span, tokens in zip((pair.clean, pair.corrupt), ranges, ids, strict=True)
    )
    if clean != corrupt:
        raise DataError(
            f"span {shown(name)} covers tokens {shown(list(clean))} of clean and "
            f"{shown(list(corrupt))} of corrupt; "
            "it must cover the same positions in both."
        )
    return clean


def _tokens_in(model: Model, prompt: str, span: tuple[int, int], n: int) -> tuple[int, ...]:
    offsets = model.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    if len(offsets) != n:
        raise DataError("the tokenizer's offsets do not match its tokens.")
    start, end = span
    inside = [
        i
        for i, (lo, hi) in enumerate(offsets)
        if lo < hi and lo < end and start < hi and prompt[max(lo, start) : min(hi, end)].strip()
    ]
    if not inside:
        raise DataError(f"the characters {start} to {end} of {shown(prompt)} lie in no token.")
    return tuple(inside)


@brief
@dataclass(frozen=True)
class TokenBatch:
    """Pairs padded to one length; rows 2i and 2i + 1 are pair i's clean and corrupt prompt.

    Attributes:
        pairs: the pairs.
        ids: token ids, padded on the tokenizer's side.
        mask: which tokens are real.
        left: padding before each prompt.
        answers: each pair's answer and wrong answer.
    """

    pairs: Sequence[TokenPair]
    ids: Int[Tensor, "prompt pos"]
    mask: Bool[Tensor, "prompt pos"]
    left: Int[Tensor, " prompt"]
    answers: Int[Tensor, "pair 2"]


def batch(model: Model, pairs: Sequence[TokenPair]) -> TokenBatch:
    """Pad pairs to one length, on the side the tokenizer pads."""
    prompts = [tokens for pair in pairs for tokens in (pair.clean, pair.corrupt)]
    width = max(map(len, prompts))
    on_left = model.tokenizer.padding_side == "left"
    pad = model.tokenizer.pad_token_id or 0
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    left = torch.tensor([width - len(p) if on_left else 0 for p in prompts])
    for row, (tokens, start) in enumerate(zip(prompts, left.tolist(), strict=True)):
        ids[row, start : start + len(tokens)] = torch.tensor(tokens)
        mask[row, start : start + len(tokens)] = True
    answers = torch.tensor([[pair.answer, pair.wrong_answer] for pair in pairs])
    return TokenBatch(pairs, ids.to(model.device), mask.to(model.device), left, answers)
