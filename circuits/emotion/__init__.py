"""Emotion circuits: texts that evoke emotions, and what is found and done with them."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.emotion.circuit_effects import circuit_effects
    from circuits.emotion.directions import Directions
    from circuits.emotion.discovery import discover
    from circuits.emotion.emotion_circuit import EmotionCircuit, SiteVectors
    from circuits.emotion.emotion_comparison import EmotionComparison, EmotionRun, compare
    from circuits.emotion.emotion_settings import (
        CircuitSize,
        Criteria,
        Decoding,
        Doses,
        EffectSettings,
        EmotionRecipe,
        EmotionSettings,
    )
    from circuits.emotion.prompts import EmotionTexts, Frames, ReplyPrompts, load_frames
    from circuits.emotion.replies import ReplyWriter
    from circuits.emotion.result import EmotionDiscovery, EmotionEffects
    from circuits.emotion.selection import overlap_table, stability_table, top_table
    from circuits.emotion.states import States, groups_of, states
    from circuits.emotion.steering import Condition, driven_conditions, prompted_conditions
    from circuits.emotion.texts import (
        EMOTIONS,
        LABELS,
        NEUTRAL,
        THEMES,
        VALENCES,
        Reply,
        Scenario,
        Situation,
        Vignette,
        load_replies,
        load_scenarios,
        load_vignettes,
        situations,
    )
    from circuits.emotion.transfer import Reading, tables, transfer_tests

__all__ = [
    "EMOTIONS",
    "LABELS",
    "NEUTRAL",
    "THEMES",
    "VALENCES",
    "CircuitSize",
    "Condition",
    "Criteria",
    "Decoding",
    "Directions",
    "Doses",
    "EffectSettings",
    "EmotionCircuit",
    "EmotionComparison",
    "EmotionDiscovery",
    "EmotionEffects",
    "EmotionRecipe",
    "EmotionRun",
    "EmotionSettings",
    "EmotionTexts",
    "Frames",
    "Reading",
    "Reply",
    "ReplyPrompts",
    "ReplyWriter",
    "Scenario",
    "SiteVectors",
    "Situation",
    "States",
    "Vignette",
    "circuit_effects",
    "compare",
    "discover",
    "driven_conditions",
    "groups_of",
    "load_frames",
    "load_replies",
    "load_scenarios",
    "load_vignettes",
    "overlap_table",
    "prompted_conditions",
    "situations",
    "stability_table",
    "states",
    "tables",
    "top_table",
    "transfer_tests",
]

lazy(__name__)
