"""Recall versus reasoning: are they separate circuits, and can one be removed without the other?

    model = interp.load_model("gemma-3-270m")
    result = study(model, StudySettings(design="A-conflict"), "runs/recall")
    result.verdict

`designs` says what is compared, `sources` where the prompts come from, `cells` how they are split;
`filter`, `scores`, `losses` and `dissociation` are the steps of `study`; `feasibility` says which
cells a model can do. `published` computes the published statistics, `probes` what a knock-out of
the subject costs; `bridge` reads and swaps the bridge entity of two-hop prompts,
`thought` edits written chains of thought.
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.recall_reasoning.bridge import bridge as bridge
    from circuits.recall_reasoning.bridge_result import BridgeStudy as BridgeStudy
    from circuits.recall_reasoning.cells import Data as Data
    from circuits.recall_reasoning.designs import CELLS as CELLS
    from circuits.recall_reasoning.designs import DESIGNS as DESIGNS
    from circuits.recall_reasoning.feasibility import feasibility as feasibility
    from circuits.recall_reasoning.feasibility_result import Feasibility as Feasibility
    from circuits.recall_reasoning.result import RecallReasoning as RecallReasoning
    from circuits.recall_reasoning.settings import BridgeSettings as BridgeSettings
    from circuits.recall_reasoning.settings import FeasibilitySettings as FeasibilitySettings
    from circuits.recall_reasoning.settings import StudySettings as StudySettings
    from circuits.recall_reasoning.settings import ThoughtSettings as ThoughtSettings
    from circuits.recall_reasoning.sources import build as build
    from circuits.recall_reasoning.study import study as study
    from circuits.recall_reasoning.thought import thought as thought
    from circuits.recall_reasoning.thought_result import Thought as Thought

lazy(__name__)
