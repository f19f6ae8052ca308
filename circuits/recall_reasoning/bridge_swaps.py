"""Swaps of states: the residual stream at one layer and position is taken from another prompt."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from circuits.recall_reasoning.settings import BridgeSettings
from circuits.recall_reasoning.two_hop import (
    HALVES,
    Asked,
    TwoHop,
    answered,
    end_of,
    read_from,
    swapped,
)
from interp.data.answers import Tokens
from interp.data.chat import in_chat
from interp.data.prompts import TokenPrompt, prompt
from interp.errors import DataError, PlanError
from interp.metrics import AnswerScores, Metric
from interp.model.model import Model
from interp.patching.cells import run_sweep
from interp.patching.sweep import Sweep
from interp.progress import Progress, reported

UNRELATED = (8, 64)
"""Of the neutral text, the tokens whose state may be the unrelated one: from, to."""


def measured_swaps(
    model: Model,
    asked: Asked,
    drawn: "Sequence[Drawn]",
    settings: BridgeSettings,
    progress: Progress | bool,
) -> pd.DataFrame:
    """A row per swap, condition, layer and place: whether the answer follows, and if it stays."""
    layers, positions = layers_and_positions(model, asked, settings)
    spans = [f"{i}_last" for i in positions]
    sweep = Sweep.of(model, "resid_pre", "layer,span", SAID, "denoise", "all", layers, 1)
    pairs = [swapped(target.prompt, donor, both) for _, target, donor, *both in drawn]
    with reported(progress, "swaps", len(pairs), "swaps") as report:
        said = run_sweep(model, sweep, pairs, spans, progress=report).values[..., 0]
    layer, place = (i.ravel() for i in np.indices(said.shape[1:]))
    places = [asked.places[positions[i]] for i in place]
    frames = [
        outcomes(labels, target, np.array(layers)[layer], places, own.ravel())
        for (labels, target, *_), own in zip(drawn, said, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def layers_and_positions(
    model: Model, asked: Asked, settings: BridgeSettings
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is swapped, each once; `PlanError` for a position that the prompts do not have."""
    layers = tuple(dict.fromkeys(settings.layers)) or tuple(range(model.arch.n_layers))
    positions = tuple(dict.fromkeys(settings.positions)) or tuple(range(len(asked.places)))
    if max(positions) >= len(asked.places):
        raise PlanError(f"position {max(positions)}: there are 0 to {len(asked.places) - 1}.")
    return layers, positions


def outcomes(
    labels: Mapping[str, Any], target: TwoHop, layer: Any, places: Sequence[str], said: np.ndarray
) -> pd.DataFrame:
    """What became of one swap, by layer and place; `said` is what `SAID` measured."""
    read = {"follows": said == FOLLOWS, "stays": said == STAYS}
    cells = {"country": target.bridge, "layer": layer, "position": places}
    return pd.DataFrame({**labels, **cells, **read})


FOLLOWS, STAYS = 1, 2


def _said(scores: AnswerScores) -> Tensor:
    assert scores.rank is not None
    follows, stays = (scores.rank.amin(-1) == 0).unbind(1)
    return (FOLLOWS * follows + STAYS * stays).float()


SAID = Metric("answer", "which", "ranks", _said)
"""Which answer greedy decoding writes: that which follows, that which stays, or another (0)."""


Drawn = tuple[dict[str, Any], TwoHop, TokenPrompt, Tokens, Tokens]
"""Half, swap and condition; the target; the donor; the tokens of a following, a staying answer."""


def drawn_swaps(model: Model, asked: Asked, neutral: str, settings: BridgeSettings) -> list[Drawn]:
    """Swaps of each half, each under every condition that has a donor."""
    rng = np.random.default_rng(settings.seed + 1)
    passage, named = tuple(model.encode(neutral))[: UNRELATED[1]], _named(model, asked, settings)
    if len(passage) < UNRELATED[0] + len(asked.places):
        raise DataError(f"the neutral text has {len(passage)} tokens; give a longer one.")
    shortcut = dict(zip(asked.table["landmark"], asked.table["by_shortcut"], strict=True))
    found: list[Drawn] = []
    for half in HALVES:
        own = asked.of_half(half)
        swaps = _paired(own, settings.n_swaps, rng)
        if not swaps:
            names = ", ".join(sorted({one.answer for one in own}))
            raise DataError(
                f"the capitals of one half ({names}) begin with one token, so no swap can change "
                "the answer; give facts of more countries."
            )
        for number, (target, donor) in enumerate(swaps):
            alike = [o for o in own if o.bridge == target.bridge and o is not target]
            n = len(target.prompt.spans["read"])
            places = rng.choice(np.arange(UNRELATED[0], len(passage)), n, replace=False)
            donors = {
                "bridge": donor.prompt,
                "named": named.get(donor.bridge),
                "same bridge": alike[rng.integers(len(alike))].prompt if alike else None,
                "unrelated": TokenPrompt(passage, {"read": tuple(sorted(map(int, places)))}),
            }
            label = {"half": half, "swap": f"{half}-{number}"}
            label |= {"donor": donor.bridge}
            label |= {"by_shortcut": bool(shortcut[target.landmark] or shortcut[donor.landmark])}
            found += [
                (label | {"condition": name}, target, one, donor.capital, target.capital)
                for name, one in donors.items()
                if one is not None
            ]
    return found


def without_donor(drawn: Sequence[Drawn]) -> dict[str, int]:
    """How many swaps are not done under a condition, as no prompt can be its donor."""
    n = Counter(labels["condition"] for labels, *_ in drawn)
    lack = {name: n["bridge"] - n[name] for name in ("named", "same bridge")}
    return {f"{name}: no prompt can be donor": k for name, k in lack.items() if k}


def _paired(own: Sequence[TwoHop], n: int, rng: np.random.Generator) -> list[tuple[TwoHop, TwoHop]]:
    """At most `n` different (target, donor) of other answers; each target in turn."""
    taken: dict[tuple[str, str], tuple[TwoHop, TwoHop]] = {}
    left = {t.landmark: [d for d in own if d.capital[0] != t.capital[0]] for t in own}
    while len(taken) < n and any(left.values()):
        for i in rng.permutation(len(own)):
            target = own[i]
            if left[target.landmark] and len(taken) < n:
                donor = left[target.landmark].pop(int(rng.integers(len(left[target.landmark]))))
                taken[target.landmark, donor.landmark] = target, donor
    return list(taken.values())


def _named(model: Model, asked: Asked, settings: BridgeSettings) -> dict[str, TokenPrompt]:
    """Of each bridge the prompt that names it in the landmark's place, where that is answered."""
    capital = {one.bridge: one.capital for one in asked.of_half()}
    rows: dict[str, TokenPrompt] = {}
    for name in capital:
        with contextlib.suppress(DataError):  # the template holds the name, too
            text = in_chat(settings.template.replace("{}", name), settings.chat)
            row = read_from(prompt(model, text, landmark=name))
            if end_of(row) == end_of(asked.prompts[0].prompt):
                rows[name] = row
    right = answered(model, list(rows.values()), [capital[name] for name in rows])
    return {name: row for (name, row), known in zip(rows.items(), right, strict=True) if known}
