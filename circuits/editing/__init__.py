"""Editing knowledge: facts become low-rank changes of weights, applied, undone and evaluated.

Fact -> prompts -> targets and keys -> one closed form -> changes -> an `Edit`.
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.editing.edit import Edit as Edit
    from circuits.editing.edit import export as export
    from circuits.editing.edit import ledger as ledger
    from circuits.editing.edit import merge as merge
    from circuits.editing.editor import edit as edit
    from circuits.editing.evaluated_chains import EvaluatedChain as EvaluatedChain
    from circuits.editing.evaluation.card_measurement import card as card
    from circuits.editing.evaluation.edit_card import EditCard as EditCard
    from circuits.editing.fact import Fact as Fact
    from circuits.editing.fact import PreservedQuestion as PreservedQuestion
    from circuits.editing.implicit import ImplicitSubjects as ImplicitSubjects
    from circuits.editing.implicit import implicit_subjects as implicit_subjects
    from circuits.editing.layer_search import select_layers as select_layers
    from circuits.editing.layer_selection import LayerSelection as LayerSelection
    from circuits.editing.methods import METHODS as METHODS
    from circuits.editing.methods import FineTune as FineTune
    from circuits.editing.methods import Method as Method
    from circuits.editing.methods import Neurons as Neurons
    from circuits.editing.methods import Search as Search
    from circuits.editing.methods import Stage as Stage
    from circuits.editing.moments import second_moments as second_moments
    from circuits.editing.presets import preset as preset

lazy(__name__)
