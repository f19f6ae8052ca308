"""Editing knowledge: facts become low-rank changes of weights, applied, undone and evaluated.

Fact -> prompts -> targets and keys -> one closed form -> changes -> an `Edit`.
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.editing.edit import Edit, export, ledger, merge
    from circuits.editing.editor import edit
    from circuits.editing.evaluated_chains import EvaluatedChain
    from circuits.editing.evaluation.card_measurement import card
    from circuits.editing.evaluation.edit_card import EditCard
    from circuits.editing.fact import Fact, PreservedQuestion
    from circuits.editing.implicit import ImplicitSubjects, implicit_subjects
    from circuits.editing.layer_search import select_layers
    from circuits.editing.layer_selection import LayerSelection
    from circuits.editing.methods import METHODS, FineTune, Method, Neurons, Search, Stage
    from circuits.editing.moments import second_moments
    from circuits.editing.presets import preset

__all__ = [
    "METHODS",
    "Edit",
    "EditCard",
    "Fact",
    "FineTune",
    "EvaluatedChain",
    "ImplicitSubjects",
    "LayerSelection",
    "Method",
    "Neurons",
    "PreservedQuestion",
    "Search",
    "Stage",
    "card",
    "edit",
    "export",
    "implicit_subjects",
    "ledger",
    "merge",
    "preset",
    "second_moments",
    "select_layers",
]

lazy(__name__)
