"""Records from files against pydantic models: types of their fields, and faults in a sentence."""

import functools
import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from interp.errors import DataError, did_you_mean, shown

T = TypeVar("T")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it must be non-empty text")
    return text


Text = Annotated[str, AfterValidator(_not_blank)]
"""Text that says something."""
Index = Annotated[int, Field(ge=0)]
"""A whole number from 0."""
Count = Annotated[int, Field(ge=1)]
"""A whole number from 1."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A number that is neither NaN nor infinite."""
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number from 0."""
Dose = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""
Dtype = Literal["float32", "bfloat16", "float16"]
"""What weights are computed in."""

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
    float.

    Args:
        kind: what it must be.
        record: the record.
        where: file and row, for messages.

    Raises:
        DataError: it is not of this kind; the first fault is named.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        raise DataError(f"{where}: {_sentence(error, kind)}") from error


@functools.lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _sentence(refused: ValidationError, kind: Any) -> str:
    """The first fault in words, with the field, what it is, and what it must be."""
    fault, *others = refused.errors(include_url=False)
    more = f" ({len(others)} more fault{'s' * (len(others) > 1)}.)" if others else ""
    return f"{_fault(fault, kind)}{more}"


def _fault(fault: ErrorDetails, kind: Any) -> str:
    place = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in fault["loc"])
    name, value = shown(place.lstrip(".")), fault["input"]
    if fault["type"] == "missing":
        return f"{name} is missing."
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        said, last = f"{name} is not a field that is known here.", str(fault["loc"][-1])
        return f"{said} {did_you_mean(last, _fields(kind))}" if len(fault["loc"]) == 1 else said
    allowed = re.findall(r"'([^']*)'", fault.get("ctx", {}).get("expected", ""))
    if fault["type"] == "literal_error" and isinstance(value, str) and allowed:
        return f"{name} is unknown: {shown(value)}. {did_you_mean(value, allowed)}"
    is_what = f"{name} is {shown(value)}" if place else f"it is {shown(value)}"
    return f"{is_what}; {_wanted(fault['msg'])}."


def _fields(kind: Any) -> list[str]:
    found = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})
    return list(found)


_WORDS = {
    "a valid string": "text",
    "a valid array": "a list",
    "a valid tuple": "a list",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "an object": "a JSON object",
}


def _wanted(message: str) -> str:
    """Pydantic's words for what was expected, in ours."""
    said = message.removeprefix("Value error, ")
    said = re.sub(r"^\w+ should", "it must", said)
    said = re.sub(r" after validation, not \d+$", "", said)
    for theirs, ours in _WORDS.items():
        said = said.replace(theirs, ours)
    return said
