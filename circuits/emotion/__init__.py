"""Emotion circuits: the texts that bring emotions about, and what is found and done with them."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.emotion.allocation import Budget, allocate
    from circuits.emotion.circuit import (
        Differences,
        EmotionCircuit,
        load_circuits,
        save_circuits,
    )
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
    from circuits.emotion.directions import Directions
    from circuits.emotion.discovering import discover
    from circuits.emotion.discovery import Discovery, Settings
    from circuits.emotion.effects import necessity, sufficiency
    from circuits.emotion.frames import Demonstrations, Frame, Frames, Prompt, load_frames
    from circuits.emotion.influence import Influence, influence
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
    from circuits.emotion.scores import Scores, scores
    from circuits.emotion.selection import (
        PRESETS,
        Size,
        circuits_of,
        overlap_table,
        stability_table,
        top_table,
    )
    from circuits.emotion.states import Group, States, groups_of, states
    from circuits.emotion.transfer import Reading, tables
    from circuits.emotion.trials import Trial, preset_trials, trials
    from circuits.emotion.trying import transfer_tests

__all__ = [
    "EMOTIONS",
    "LABELS",
    "NEUTRAL",
    "PRESETS",
    "THEMES",
    "VALENCES",
    "Budget",
    "Demonstrations",
    "Differences",
    "Directions",
    "Discovery",
    "EmotionCircuit",
    "Event",
    "Finding",
    "Frame",
    "Frames",
    "Group",
    "Influence",
    "Overlap",
    "Prompt",
    "Reading",
    "Reply",
    "Scenario",
    "Scores",
    "Settings",
    "Size",
    "States",
    "Trial",
    "Vignette",
    "allocate",
    "check_overlap",
    "check_replies",
    "check_scenarios",
    "check_vignettes",
    "circuits_of",
    "discover",
    "groups_of",
    "influence",
    "load_circuits",
    "load_frames",
    "load_replies",
    "load_scenarios",
    "load_vignettes",
    "necessity",
    "overlap_table",
    "overlaps",
    "preset_trials",
    "require",
    "save_circuits",
    "scenario_texts",
    "scores",
    "stability_table",
    "states",
    "sufficiency",
    "tables",
    "top_table",
    "transfer_tests",
    "trials",
]

lazy(__name__)
