"""Evaluating edits: cases, what is asked about them, and methods compared by their answers.

`load_benchmark` reads cases; `prior_knowledge` keeps those whose facts a model knows, of which
`control_questions` and `preservation_set` draw; `case_questions` lists what to ask and `Shots`
how; `compare_methods` edits, asks, and makes a `Comparison` with intervals of the answers.
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.editing.evaluation.answers import Answer
    from circuits.editing.evaluation.card_measurement import card
    from circuits.editing.evaluation.cases import Case, Cases, SingleEdit
    from circuits.editing.evaluation.comparison_settings import ComparisonSettings
    from circuits.editing.evaluation.demonstrations import REASONED, SHOTS, Shots, load_shots
    from circuits.editing.evaluation.edit_card import EditCard
    from circuits.editing.evaluation.edited_models import Ask, generations
    from circuits.editing.evaluation.formats import load_benchmark, load_cases, parse_cases
    from circuits.editing.evaluation.method_comparison import Comparison, compare_methods

__all__ = [
    "REASONED",
    "SHOTS",
    "Answer",
    "Ask",
    "Case",
    "Cases",
    "Comparison",
    "ComparisonSettings",
    "EditCard",
    "Shots",
    "SingleEdit",
    "card",
    "compare_methods",
    "generations",
    "load_benchmark",
    "load_cases",
    "load_shots",
    "parse_cases",
]

lazy(__name__)
