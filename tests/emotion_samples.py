"""Small emotion texts, prompts, judges and comparisons, for tests of several rooms."""

import numpy as np
import pandas as pd
import torch

from circuits.emotion import EMOTIONS, LABELS, load_frames, load_scenarios
from circuits.emotion.emotion_comparison import EmotionComparison
from circuits.emotion.emotion_metrics import judged
from circuits.emotion.emotion_settings import CircuitSize, Decoding, EmotionSettings, ReplyCriteria
from circuits.emotion.prompts import EmotionPrompt, ReplyPrompts
from circuits.emotion.texts import Situation
from interp.interventions.plan import Add, Plan
from interp.model.model import Model

SCENARIOS = load_scenarios("emotion_scenarios_discovery")[::20]
SETTINGS = EmotionSettings(
    n_neutral=4, n_demonstrations=0, size=CircuitSize(neurons=30, heads=0.25)
)
CRITERIA = ReplyCriteria(perplexity_ratio=4.0, relevance=0.0, words=3, sentences=2)
SHORT = Decoding(new_tokens=4, min_tokens=2)
TEXTS = [
    Situation(f"s{i}_x", f"s{i}", "Work/Job", "neutral", f"w{i + 1} w{i + 7} w4", f"w{i + 20} w5")
    for i in range(5)
]


class Spelled:
    """A judge that finds the label that a reply names."""

    def probabilities(self, texts: list[str]) -> np.ndarray:
        out = np.full((len(texts), len(LABELS)), 0.01)
        for row, text in enumerate(texts):
            named = [label for label in LABELS if label in text]
            out[row, LABELS.index(named[0] if named else "neutral")] = 0.94
        return out


class Small(ReplyPrompts):
    """Prompts of the tiny models' words; the emotion is one word."""

    def __init__(self) -> None:
        super().__init__(load_frames("emotion_frames"))

    def prompt(self, kind: str, situation: Situation, emotion: str) -> EmotionPrompt:
        named = kind in ("word", "demonstrations")
        word = f" w{60 + EMOTIONS.index(emotion)}" if named else ""
        return EmotionPrompt(f"{situation.scenario} {situation.event}{word} w3")


def steered(model: Model, strength: float, seed: int = 0) -> Plan:
    """A random vector per emotion, added to the stream after layer 1."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(1, 6, 1, model.arch.d_model, generator=draw)
    where = {"layers": [1], "positions": "generating", "relative": "norm"}
    return Plan.of(Add("resid_post", values, strength, **where))


def row(
    condition: str, scenario: int, emotion: str, reply: str, **changes: object
) -> dict[str, object]:
    """One measured reply."""
    return {
        "condition": condition,
        "place": scenario,
        "situation": f"s{scenario}_neutral",
        "scenario": f"s{scenario}",
        "theme": "Work/Job",
        "valence": "neutral",
        "emotion": emotion,
        "text": "I did it. It went well.",
        "reply": reply,
        "ids": [1, 2, 3],
        "nll": 2.0,
        "perplexity_ratio": 1.5,
        "relevance": 0.5,
        "faults": "",
        "n_words": 5,
        "n_sentences": 1,
        "capitals": 0.0,
        "exclamations": 0.0,
    } | changes


def comparison() -> EmotionComparison:
    """The circuit's replies all name the target, steering's in two scenarios of four."""
    rows = [
        row(name, scenario, emotion, emotion if name == "circuit" or scenario < 2 else "so it is")
        for name in ("circuit", "steering")
        for scenario in range(4)
        for emotion in EMOTIONS
    ]
    table = judged(pd.DataFrame(rows), {"spelled": Spelled()})
    return EmotionComparison(table, CRITERIA, ("spelled",), "planted", {"seed": 0})
