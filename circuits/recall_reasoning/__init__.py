"""Recall versus reasoning: are they separate circuits, and can one be removed without the other?

    model = interp.load_model("gemma-3-270m")
    result = study(model, StudySettings(design="A-conflict"), "runs/recall")
    result.verdict

`designs` says what is compared, `sources` where the prompts come from, `cells` how they are split;
`filter`, `scores`, `losses` and `dissociation` are the steps of `study`; `feasibility` says which
cells a model can do. `published` computes the published statistics, `probes` those of two-hop
recall and copying; `bridge` reads and swaps the bridge entity of two-hop prompts,
`thought` edits written chains of thought.
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.recall_reasoning.bridge import bridge
    from circuits.recall_reasoning.bridge_result import BridgeStudy
    from circuits.recall_reasoning.cells import Data, load_data
    from circuits.recall_reasoning.designs import CELLS, DESIGNS
    from circuits.recall_reasoning.feasibility import feasibility
    from circuits.recall_reasoning.feasibility_result import Feasibility
    from circuits.recall_reasoning.result import RecallReasoning
    from circuits.recall_reasoning.settings import (
        BridgeSettings,
        FeasibilitySettings,
        StudySettings,
        ThoughtSettings,
    )
    from circuits.recall_reasoning.sources import build
    from circuits.recall_reasoning.study import study
    from circuits.recall_reasoning.thought import thought
    from circuits.recall_reasoning.thought_result import Thought

__all__ = [
    "CELLS",
    "DESIGNS",
    "BridgeSettings",
    "BridgeStudy",
    "Data",
    "Feasibility",
    "FeasibilitySettings",
    "RecallReasoning",
    "StudySettings",
    "Thought",
    "ThoughtSettings",
    "bridge",
    "build",
    "feasibility",
    "load_data",
    "study",
    "thought",
]

lazy(__name__)
