"""Ablation: what is lost without some components, against what random ones cost.

`components` names them, `sets` says which go together, `controls` draws matched random sets,
`values` says what takes their place; `rows` runs many sets at once, `readouts` reads the outcome.
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from interp.ablation.ablate import ablate
    from interp.ablation.components import Component
    from interp.ablation.result import AblationResult
    from interp.ablation.sets import ComponentSet, all_but, cumulative, singles

__all__ = [
    "AblationResult",
    "Component",
    "ComponentSet",
    "ablate",
    "all_but",
    "cumulative",
    "singles",
]

lazy(__name__)
