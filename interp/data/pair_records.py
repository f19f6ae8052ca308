"""Rows of prompt pairs, as files and data sets hold them: what a row must hold, and its spans."""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from interp.data.chat import Conversation, Range, is_messages
from interp.data.records import Row, checked, not_blank
from interp.errors import DataError, InterpWarning, did_you_mean, shown
from interp.model.rendered import Rendered

PLACES = ("all", "prompt", "last", "decoded", "generating")
"""Names of positions that every prompt has, which no span can take."""
LABELS = ("template", "relation", "rule", "form", "lexicon")
"""Further fields of the rows of shipped data, by which rows are grouped."""


def _texts(given: Any) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("it must be text, or a list of texts")
    if not texts or not all(text.strip() for text in texts):
        raise ValueError("it must be non-empty text, or a list of such texts")
    return tuple(texts)


def _prompt(given: Any) -> str | Conversation:
    if isinstance(given, str):
        return not_blank(given)
    if not is_messages(given):
        raise ValueError("it must be text, or a list of messages")
    try:
        return Conversation(given)
    except DataError as error:
        raise ValueError(str(error).removesuffix(".")) from error


_Texts = Annotated[Any, AfterValidator(_texts)]
_Prompt = Annotated[Any, AfterValidator(_prompt)]


class _Record(Row):
    clean: _Prompt
    corrupt: _Prompt
    answer: _Texts
    wrong_answer: _Texts
    id: Any = None
    subject: Any = None
    spans: dict[str, Any] | None = None


def give_span(name: str = "NAME") -> str:
    """How a row gives a span, for messages."""
    return '"spans": ' + json.dumps({name: ["TEXT IN CLEAN", "TEXT IN CORRUPT"]})


def no_span(name: str, available: Iterable[str]) -> str:
    """A message: no such span, those that there are, and how to give it."""
    said = did_you_mean(name, available).removesuffix(".")
    return f"no span {shown(name)}. {said}; give it in each row: {give_span(name)}."


def warn_of_unread(records: Sequence[Mapping[str, Any]], source: str) -> None:
    """Warn (`InterpWarning`), once, of fields that no pair and no row of shipped data has."""
    known, first = (*_Record.model_fields, *LABELS), dict[str, int]()
    for n, record in enumerate(records, 1):
        first |= {str(name): n for name in record if name not in known and name not in first}
    if first:
        meant = {name: did_you_mean(name, _Record.model_fields) for name in first}
        said = next((one for one in meant.values() if "?" in one), meant[next(iter(first))])
        what = "is no field" if len(first) == 1 else "are no fields"
        warnings.warn(
            f"{source}, row {min(first.values())}: {shown([*first], 200)[1:-1]} {what} of a pair, "
            "so only --by of `interp circuit stability` can group by it. A span is given as "
            f"{give_span(next(iter(first)))}. {said}",
            InterpWarning,
            stacklevel=3,
        )


def pair_fields(record: Any, where: str, number: int) -> dict[str, Any]:
    """The fields of `interp.data.pairs.Pair` from one row; `DataError` where it is not a pair."""
    labels: dict[str, str] = {}
    own: dict[str, Any] = {}  # what knows more than its text, which is all that is checked
    if isinstance(record, Mapping):  # a row of a data set may hold more than JSON can
        others = {key: record[key] for key in record if key not in _Record.model_fields}
        plain = (item for item in others.items() if type(item[1]) in (str, int))
        labels = {str(key): str(value) for key, value in plain}
        record = {key: record[key] for key in _Record.model_fields if key in record}
        sides = ((side, record.get(side)) for side in ("clean", "corrupt"))
        own = {side: one for side, one in sides if isinstance(one, Rendered | Conversation)}
        record |= {side: getattr(one, "text", one) for side, one in own.items()}
    given = checked(_Record, record, where)
    both = (own.get("clean", given.clean), own.get("corrupt", given.corrupt))
    if len({type(one) for one in both}) > 1:
        raise DataError(f"{where}: one prompt is text and the other a chat; make both the same.")
    chats = [one for one in both if isinstance(one, Conversation)]
    prompts = (chats[0].text, chats[1].text) if chats else both
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
    return {
        "id": str(id),
        "clean": prompts[0],
        "corrupt": prompts[1],
        "answer": answer,
        "wrong_answer": wrong,
        "spans": spans,
        "where": where,
        "aliases": tuple(aliases),
        "wrong_aliases": tuple(others),
        "chats": (chats[0], chats[1]) if chats else None,
        "labels": labels,
    }


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
