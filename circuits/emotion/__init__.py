"""Emotion circuits: the texts that bring emotions about, and what is found and done with them."""

from circuits.emotion.data import (
    EMOTIONS,
    LABELS,
    NEUTRAL,
    THEMES,
    VALENCES,
    Event,
    Reply,
    Scenario,
    Vignette,
    load_replies,
    load_scenarios,
    load_vignettes,
)
from circuits.emotion.frames import Demonstrations, Frame, Frames, Prompt, load_frames
from circuits.emotion.overlap import Overlap, overlaps
from circuits.emotion.rules import (
    Finding,
    check_overlap,
    check_replies,
    check_scenarios,
    check_vignettes,
    require,
    scenario_texts,
)

__all__ = [
    "EMOTIONS",
    "LABELS",
    "NEUTRAL",
    "THEMES",
    "VALENCES",
    "Demonstrations",
    "Event",
    "Finding",
    "Frame",
    "Frames",
    "Overlap",
    "Prompt",
    "Reply",
    "Scenario",
    "Vignette",
    "check_overlap",
    "check_replies",
    "check_scenarios",
    "check_vignettes",
    "load_frames",
    "load_replies",
    "load_scenarios",
    "load_vignettes",
    "overlaps",
    "require",
    "scenario_texts",
]
