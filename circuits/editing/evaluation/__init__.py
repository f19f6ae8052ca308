"""Evaluating edits: cases, what is asked about them, and methods compared by their answers.

`load_benchmark` reads cases; `prior_knowledge` keeps those whose facts a model knows, of which
`control_questions` and `preservation_set` draw; `case_questions` lists what to ask and `Shots`
how; `compare_methods` edits, asks, and makes a `Comparison` with intervals of the answers.
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.editing.evaluation.comparison_settings import (
        ComparisonSettings as ComparisonSettings,
    )
    from circuits.editing.evaluation.demonstrations import SHOTS as SHOTS
    from circuits.editing.evaluation.edited_models import Ask as Ask
    from circuits.editing.evaluation.edited_models import generations as generations
    from circuits.editing.evaluation.formats import load_benchmark as load_benchmark
    from circuits.editing.evaluation.formats import load_cases as load_cases
    from circuits.editing.evaluation.method_comparison import Comparison as Comparison
    from circuits.editing.evaluation.method_comparison import compare_methods as compare_methods

lazy(__name__)
