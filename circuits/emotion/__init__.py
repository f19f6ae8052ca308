"""Emotion circuits: texts that evoke emotions, and what is found and done with them."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.emotion.circuit_effects import circuit_effects
    from circuits.emotion.directions import Directions
    from circuits.emotion.discovery import discover
    from circuits.emotion.emotion_circuit import EmotionCircuit
    from circuits.emotion.emotion_comparison import EmotionComparison, compare
    from circuits.emotion.emotion_settings import EffectSettings, EmotionRecipe, EmotionSettings
    from circuits.emotion.prompts import EmotionTexts, ReplyPrompts, load_frames
    from circuits.emotion.replies import ReplyWriter
    from circuits.emotion.result import EmotionDiscovery, EmotionEffects
    from circuits.emotion.selection import overlap_table
    from circuits.emotion.steering import Condition, conditions_of
    from circuits.emotion.texts import EMOTIONS, LABELS, load_replies, load_scenarios, situations
    from circuits.emotion.transfer import transfer_tests

__all__ = [
    "EMOTIONS",
    "LABELS",
    "Condition",
    "Directions",
    "EffectSettings",
    "EmotionCircuit",
    "EmotionComparison",
    "EmotionDiscovery",
    "EmotionEffects",
    "EmotionRecipe",
    "EmotionSettings",
    "EmotionTexts",
    "ReplyPrompts",
    "ReplyWriter",
    "circuit_effects",
    "compare",
    "conditions_of",
    "discover",
    "load_frames",
    "load_replies",
    "load_scenarios",
    "overlap_table",
    "situations",
    "transfer_tests",
]

lazy(__name__)
