"""Editing knowledge: facts become low-rank changes of weights, applied, undone and judged.

facts -> prompts -> targets (search) and keys -> one closed form -> changes -> an `Edit`.
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.editing.edits import Edit, edit, export, merge
    from circuits.editing.facts import Fact
    from circuits.editing.ledger import ledger
    from circuits.editing.methods import (
        METHODS,
        FineTune,
        Method,
        Neurons,
        Placement,
        Stage,
        preset,
    )
    from circuits.editing.moments import second_moments
    from circuits.editing.prompting import Kept
    from circuits.editing.search import Search
    from interp.errors import DataError

__all__ = [
    "METHODS",
    "Edit",
    "Fact",
    "DataError",
    "FineTune",
    "Kept",
    "Method",
    "Neurons",
    "Placement",
    "Search",
    "Stage",
    "edit",
    "export",
    "ledger",
    "merge",
    "preset",
    "second_moments",
]

lazy(__name__)
