"""Query and value neurons: what raises an answer's log-probability, and what switches that on."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.query_value.find import find as find
    from circuits.query_value.questions import Question as Question
    from circuits.query_value.result import ChosenLayers as ChosenLayers
    from circuits.query_value.result import QueryValue as QueryValue
    from circuits.query_value.validate import Validation as Validation
    from circuits.query_value.validate import validate as validate

lazy(__name__)
