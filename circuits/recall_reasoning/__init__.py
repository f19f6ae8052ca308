"""Recall versus reasoning: are they separate circuits, and can one go without the other?

    model = interp.load_model("gemma-3-270m")
    result = study(model, Settings("A-conflict"), "runs/recall")
    result.verdict

`cells` says what is compared and `building` where it comes from; `filtering`, `scoring`,
`measuring` and `dissociation` are the steps of `study`. `replicate` computes the published
statistics, and `probes` what two-hop recall and copying are known by.
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.recall_reasoning.building import build
    from circuits.recall_reasoning.cells import CELLS, DESIGNS, Data, load_data
    from circuits.recall_reasoning.result import RecallReasoning
    from circuits.recall_reasoning.settings import Settings
    from circuits.recall_reasoning.studying import study

__all__ = [
    "CELLS",
    "DESIGNS",
    "Data",
    "RecallReasoning",
    "Settings",
    "build",
    "load_data",
    "study",
]

lazy(__name__)
