"""Ablation: what is lost without some components, against what random ones cost.

`interp.model.components` names components and sets of them, `controls` draws random sets for them,
`values` says what takes their place; `rows` runs many sets at once, `readouts` reads the outcome.
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from interp.ablation.ablate import ablate
    from interp.ablation.result import AblationResult
    from interp.model.components import Component, ComponentSet, all_but, cumulative, singles

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
