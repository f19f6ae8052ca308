"""Query and value neurons: what raises an answer's log-probability, and what switches that on."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.query_value.causal import validate
    from circuits.query_value.finding import find
    from circuits.query_value.questions import Question, QuestionError
    from circuits.query_value.result import ChosenLayers, QueryValue
    from circuits.query_value.validation import Validation

__all__ = [
    "ChosenLayers",
    "Question",
    "QuestionError",
    "QueryValue",
    "Validation",
    "find",
    "validate",
]

lazy(__name__)
