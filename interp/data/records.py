"""Rows and settings as files hold them: text, strict JSON and JSONL, data sets of the Hub.

What a row or a settings file must hold is a pydantic model; `checked` holds a record against one
and says the first fault in a sentence.
"""

import functools
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from interp.data.datasets import locate
from interp.errors import DataError, did_you_mean, first_line, shown

T = TypeVar("T")
MOST_BYTES = 1 << 30
"""A file of more is taken for a mistake, such as weights."""
MOST_NESTED = 64
"""Levels of lists and objects in a JSON text."""
MOST_DIGITS = 18
"""Digits of a whole number: all that 64 bits hold."""


# --- what a record must hold -------------------------------------------------------------------


def not_blank(text: str) -> str:
    """A text; `ValueError` where it is blank."""
    if not text.strip():
        raise ValueError("it must be non-empty text")
    return text


Text = Annotated[str, AfterValidator(not_blank)]
"""Text that is not blank."""
Index = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Dose = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Dtype = Literal["float32", "bfloat16", "float16"]
"""What weights are computed in."""
Each = Annotated[
    tuple[T, ...], Field(min_length=1), AfterValidator(lambda given: tuple(dict.fromkeys(given)))
]
"""One value or more; one given twice counts once."""
NO_OTHERS = ConfigDict(extra="forbid")
"""For settings: a field that is not known is a mistake."""


class Row(BaseModel):
    """A row of a data file; fields beside those named are passed over, for data sets carry more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ClosedRow(BaseModel):
    """A row that is written by hand: a field beside those named is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def checked(kind: type[T], record: Any, where: str) -> T:
    """A record as JSON holds it, checked against a pydantic model, dataclass or type.

    Nothing is converted but what JSON cannot tell apart: a list becomes a tuple, a whole number a
    float. `where` is file and row; `DataError` names the first fault.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(record), strict=True)
    except TypeError as error:
        raise DataError(f"{where}: {first_line(str(error))}; give what JSON can hold.") from error
    except ValidationError as error:
        fault, *others = error.errors(include_url=False)
        more = f" ({len(others)} more fault{'s' * (len(others) > 1)}.)" if others else ""
        raise DataError(f"{where}: {_sentence(fault, kind)}{more}") from error


def refuse_repeated(ids: Iterable[tuple[str, str]], name: str = "id") -> None:
    """Raise `DataError` where two rows, given as (place, id), have one id."""
    seen: dict[str, str] = {}
    for where, one in ids:
        if one in seen:
            raise DataError(
                f"{where}: {name} {shown(one)} was used before, in {seen[one]}; give every row its "
                "own."
            )
        seen[one] = where


@functools.lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _sentence(fault: ErrorDetails, kind: Any) -> str:
    """A fault in words: the field, what it is, and what it must be."""
    place = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in fault["loc"])
    name, value = shown(place.lstrip(".")), fault["input"]
    if fault["type"] == "missing":
        return f"{name} is missing."
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        fields = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})
        meant = f" {did_you_mean(str(fault['loc'][-1]), fields)}" * (len(fault["loc"]) == 1)
        return f"{name} is not a field that is known here.{meant}"
    allowed = re.findall(r"'([^']*)'", fault.get("ctx", {}).get("expected", ""))
    if fault["type"] == "literal_error" and isinstance(value, str) and allowed:
        return f"{name} is unknown: {shown(value)}. {did_you_mean(value, allowed)}"
    wanted = fault["msg"].removeprefix("Value error, ")
    for theirs, ours in _WORDS.items():
        wanted = re.sub(theirs, ours, wanted)
    return f"{name if place else 'it'} is {shown(value)}; {wanted}."


_WORDS = {
    r"^\w+ should": "it must",
    r" after validation, not \d+$": "",
    "a valid string": "text",
    "a valid (array|tuple)": "a list",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "an object": "a JSON object",
}
"""Pydantic's words for what was expected, in ours."""


# --- files -------------------------------------------------------------------------------------


def read_text(path: str | Path, expected: str = "UTF-8 text") -> str:
    """The text of a file, without a byte-order mark, its lines ended by newlines.

    `DataError` where it is missing, not a file, unreadable, larger than `MOST_BYTES`, or not
    UTF-8; the message says what was `expected`.
    """
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            what = "folder" if stat.S_ISDIR(found.st_mode) else "pipe or device"
            raise DataError(f"{path} is a {what}, not a file; give a file of {expected}.")
        if found.st_size > MOST_BYTES:
            raise DataError(
                f"{path} has {found.st_size:,} bytes, more than a file of {expected} can have "
                f"({MOST_BYTES:,}); split it."
            )
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); re-save it.") from error
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}; give a file of {expected}.") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise DataError(
            f"cannot read {shown(str(path), 200)[1:-1]} ({reason}); give a file of {expected}."
        ) from error


def is_file(path: str | Path) -> bool:
    """Whether there is a file here; False, too, for what cannot be a path."""
    return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises for names that are too long)


def read_json(path: str | Path, expected: str = "JSON") -> Any:
    """What a JSON file holds; errors as in `read_text` and `parse_json`."""
    return parse_json(read_text(path, expected), str(path))


def read_rows(path: str | Path, expected: str = "rows") -> list[dict[str, Any]]:
    """A JSON file's list of objects; `DataError` names the row that is not one."""
    rows = read_json(path, f"{expected} (JSON)")
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a {type(rows).__name__}, not a list of {expected}.")
    return [_object(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def read_jsonl(path: str | Path, expected: str = "rows") -> list[tuple[int, dict[str, Any]]]:
    """One object per line, with the line's number from 1; `DataError` names a malformed line."""
    # not splitlines, which also splits at separators that may stand inside a JSON string
    lines = enumerate(read_text(path, f"{expected} (JSONL)").split("\n"), 1)
    return [
        (number, _object(parse_json(line, str(path), number), f"{path}, line {number}"))
        for number, line in lines
        if line.strip()
    ]


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a {type(row).__name__}, not a JSON object.")
    return row


def read_records(
    source: str | Path, split: str | None = None, expected: str = "rows"
) -> tuple[list[dict[str, Any]], str]:
    """The rows of a data set: a ``.json`` (a list of objects) or ``.jsonl`` file, ours, the Hub's.

    Returns the rows, and the name of where they came from. `split` is that of a Hub data set, by
    default ``train``; `expected` is what messages call the rows. `DataError` names a fault.
    """
    rows, name = _placed(source, split, expected)
    return [row for _, row in rows], name


def placed_rows(source: str | Path, expected: str = "rows") -> list[tuple[str, dict[str, Any]]]:
    """As `read_records`, each row behind the place where it stands: ``facts.jsonl, line 3``."""
    return _placed(source, None, expected)[0]


def checked_rows(
    kind: type[T], source: str | Path, expected: str = "rows", unique: str | None = None
) -> list[T]:
    """The rows of a data set, each `checked`, and its own in the field `unique`.

    `DataError` where there is none, one is faulty, or a value of that field is there twice.
    """
    placed = placed_rows(source, expected)
    if not placed:
        raise DataError(f"{source} holds no {expected}; give at least one.")
    found = [(where, checked(kind, row, where)) for where, row in placed]
    if unique is not None:
        refuse_repeated(((where, getattr(row, unique)) for where, row in found), unique)
    return [row for _, row in found]


def is_hub_id(source: str | Path) -> bool:
    """Whether ``owner/name`` means a data set of the Hub.

    Not where a file or its folder is there, nor where it ends like the name of a file: a mistyped
    path is an error of its own, without asking the network.
    """
    return (
        isinstance(source, str)
        and source.count("/") == 1
        and not source.startswith((".", "/", "~"))
        and not re.fullmatch(r"\.[a-z]{2,8}", Path(source).suffix.lower())
        and not os.path.exists(source)  # noqa: PTH110 (Path.exists raises for some texts)
        and not os.path.isdir(os.path.dirname(source))  # noqa: PTH112, PTH120
    )


def _placed(
    source: str | Path, split: str | None, expected: str
) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    if is_hub_id(source):
        name = str(source)
        found = enumerate(_from_hub(name, split or "train"), 1)
        return [(f"{name}, row {number}", dict(row)) for number, row in found], name
    path = locate(source, f"a JSON or JSONL file of {expected}, a Hub id")
    as_list = path.suffix == ".json"
    rows = enumerate(read_rows(path, expected), 1) if as_list else read_jsonl(path, expected)
    where = "row" if as_list else "line"
    return [(f"{path}, {where} {number}", row) for number, row in rows], path.name


def _from_hub(name: str, split: str) -> Iterable[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        return load_dataset(name, split=split)  # pyright: ignore[reportReturnType]
    except Exception as error:
        raise DataError(
            f"cannot load data set {shown(name, 100)} from the Hugging Face Hub "
            f"({first_line(error)}); "
            "check the id and the connection, or give a JSONL file."
        ) from error


# --- JSON --------------------------------------------------------------------------------------


def finite(value: Any) -> Any:
    """A value to write as JSON: numbers of Python's own, null for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Refused(ValueError):
    """JSON for Python's parser, but nothing that a data file may hold."""


def parse_json(text: str, where: str, line: int | None = None) -> Any:
    """A JSON text's value; anything whose meaning could be mistaken is refused.

    `where` is its file and `line`, of a JSONL file, its line. `DataError` for no JSON; NaN,
    infinity or a number that becomes it; a whole number of more than 18 digits; a key twice in one
    object; half of a surrogate pair; or more than 64 levels of lists and objects.
    """
    at = where if line is None else f"{where}, line {line}"
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unambiguous,
            parse_constant=_constant,
            parse_int=_whole,
            parse_float=_number,
        )
        _refuse_deep(value, text)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        at = f"{where}, line {line or error.lineno}"
        raise DataError(f"{at}: not valid JSON ({error.msg} at column {error.colno}).") from error
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise DataError(
            f"{at}: {half} is half of a character (a lone surrogate); write it whole."
        ) from error
    except _Refused as error:
        raise DataError(f"{at}: {error}.") from error
    except RecursionError as error:
        raise DataError(f"{at}: {_TOO_DEEP}.") from error
    return value


_TOO_DEEP = f"lists or objects are nested more than {MOST_NESTED} deep"


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _Refused(f"key {shown(twice)} stands twice in one object; keep one")
    return found


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not a number of JSON; write null or a finite number")


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        number = shown(digits, 24)[1:-1]
        raise _Refused(f"{number} is too large; whole numbers have up to {MOST_DIGITS} digits")
    return int(digits)


def _number(digits: str) -> float:
    if float(digits) in (float("inf"), float("-inf")):
        raise _Refused(f"{shown(digits, 24)[1:-1]} is too large for a number")
    return float(digits)


def _refuse_deep(value: Any, text: str) -> None:
    if text.count("[") + text.count("{") <= MOST_NESTED:
        return
    level: list[Any] = [value]
    for _ in range(MOST_NESTED + 1):
        inner: list[Any] = [one for one in level if isinstance(one, dict | list)]
        if not inner:
            return
        level = [c for one in inner for c in (one.values() if isinstance(one, dict) else one)]
    raise _Refused(_TOO_DEEP)
