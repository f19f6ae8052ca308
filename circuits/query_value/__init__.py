"""Query and value neurons: what raises an answer's log-probability, and what switches that on."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.query_value.find import find
    from circuits.query_value.questions import Question
    from circuits.query_value.result import ChosenLayers, QueryValue
    from circuits.query_value.validate import Validation, validate

__all__ = ["ChosenLayers", "Question", "QueryValue", "Validation", "find", "validate"]

lazy(__name__)
