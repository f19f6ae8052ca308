"""Evaluating edits: cases, what is asked about them, and methods compared by their answers.

`load_benchmark` reads cases; `prior_knowledge` keeps those whose facts a model knows, of which
`control_questions` and `preservation_set` draw; `case_questions` lists what to ask and `Shots`
how; `compare_methods` edits, asks, and makes a `Comparison` with intervals of the answers.
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.editing.evaluation.comparison_settings import ComparisonSettings
    from circuits.editing.evaluation.demonstrations import SHOTS
    from circuits.editing.evaluation.edited_models import Ask, generations
    from circuits.editing.evaluation.formats import load_benchmark, load_cases
    from circuits.editing.evaluation.method_comparison import Comparison, compare_methods

__all__ = [
    "SHOTS",
    "Ask",
    "Comparison",
    "ComparisonSettings",
    "compare_methods",
    "generations",
    "load_benchmark",
    "load_cases",
]

lazy(__name__)
