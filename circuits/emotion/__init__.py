"""Emotion circuits: texts that evoke emotions, and what is found and done with them."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.emotion.circuit_effects import circuit_effects as circuit_effects
    from circuits.emotion.directions import Directions as Directions
    from circuits.emotion.discovery import discover as discover
    from circuits.emotion.emotion_circuit import EmotionCircuit as EmotionCircuit
    from circuits.emotion.emotion_comparison import EmotionComparison as EmotionComparison
    from circuits.emotion.emotion_comparison import compare as compare
    from circuits.emotion.emotion_settings import EffectSettings as EffectSettings
    from circuits.emotion.emotion_settings import EmotionRecipe as EmotionRecipe
    from circuits.emotion.emotion_settings import EmotionSettings as EmotionSettings
    from circuits.emotion.prompts import EmotionTexts as EmotionTexts
    from circuits.emotion.prompts import ReplyPrompts as ReplyPrompts
    from circuits.emotion.prompts import load_frames as load_frames
    from circuits.emotion.replies import ReplyWriter as ReplyWriter
    from circuits.emotion.result import EmotionDiscovery as EmotionDiscovery
    from circuits.emotion.result import EmotionEffects as EmotionEffects
    from circuits.emotion.selection import overlap_table as overlap_table
    from circuits.emotion.steering import Condition as Condition
    from circuits.emotion.steering import conditions_of as conditions_of
    from circuits.emotion.texts import EMOTIONS as EMOTIONS
    from circuits.emotion.texts import LABELS as LABELS
    from circuits.emotion.texts import load_replies as load_replies
    from circuits.emotion.texts import load_scenarios as load_scenarios
    from circuits.emotion.texts import situations as situations
    from circuits.emotion.transfer import transfer_tests as transfer_tests

lazy(__name__)
