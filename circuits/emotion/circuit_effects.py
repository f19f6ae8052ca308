"""Causal tests of circuits: take one out under emotion prompts, put it in without one.

Read as a contrast: how far the final states of an emotion's own prompts lie above those of the
other five along its reference direction, with the same components changed in all six. The
projection alone misleads, since taking components out moves all prompts together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.emotion_circuit import Circuits, EmotionCircuit, SiteVectors, random_circuits
from circuits.emotion.emotion_settings import EffectSettings
from circuits.emotion.prompts import Frames, token_prompt
from circuits.emotion.result import EmotionDiscovery, EmotionEffects
from circuits.emotion.states import EmotionGroup, groups_of
from circuits.emotion.texts import EMOTIONS, Scenario, situations
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import DegenerateGap
from interp.interventions.last_token import final_states
from interp.interventions.plan import Ablate, Add, Plan
from interp.model.model import Model
from interp.progress import Progress, StageProgress
from interp.results.run_folder import fingerprint, identity, in_one_piece
from interp.statistics import bootstrap_ratio

Fill = Literal["mean", "zero"]
PLANS_AT_ONCE = 256
ALL = "all"


def removing(circuit: EmotionCircuit, means: SiteVectors, fill: Fill = "mean") -> Plan:
    """Put the mean of all prompts, or zero, in place of a circuit's components."""
    steps: list[Ablate] = []
    for site, layer, units, mean in _placed(circuit, means):
        value = mean if fill == "mean" else None
        steps.append(Ablate(site, value, kind=fill, layers=layer, units=units, positions="last"))
    return Plan.of(*steps)


def inserting(circuit: EmotionCircuit, differences: SiteVectors, strength: float = 1.0) -> Plan:
    """Add an emotion's difference to a circuit's components."""
    own = differences.of(circuit.emotion)
    steps = (
        Add(site, value, strength, layers=layer, units=units, positions="last")
        for site, layer, units, value in _placed(circuit, own)
    )
    return Plan.of(*steps)


def _placed(
    circuit: EmotionCircuit, vectors: SiteVectors
) -> list[tuple[str, int, tuple[int, ...], Float[Tensor, " width"]]]:
    """Site, layer, units and the site's whole vector, wherever a circuit has components."""
    tables = (("z", circuit.heads, vectors.z), ("mlp_post", circuit.neurons, vectors.mlp_post))
    return [
        (site, layer, units, values[layer].flatten())
        for site, table, values in tables
        for layer, units in table.items()
    ]


@brief
@dataclass(frozen=True)
class CircuitSet:
    """One circuit per emotion, all chosen in one way.

    Its `name` is a preset, or ``random`` (then `draw` counts); of its components ``both`` kinds are
    tested, or ``neurons`` alone.
    """

    name: str
    part: str
    draw: int
    circuits: Circuits


def circuit_sets(found: EmotionDiscovery, n_random: int = 3, seed: int = 0) -> list[CircuitSet]:
    """The circuits of every preset, and random ones of like norm for ``centred``; their neurons."""
    rng = np.random.default_rng(seed)
    whole = [CircuitSet(preset, "both", 0, own) for preset, own in found.circuits.items()]
    for draw in range(n_random):
        drawn = random_circuits(found.circuits["centred"], rng, found.differences)
        whole.append(CircuitSet("random", "both", draw, drawn))
    for one in list(whole):
        own = {emotion: circuit.only("neurons") for emotion, circuit in one.circuits.items()}
        whole.append(CircuitSet(one.name, "neurons", one.draw, own))
    return whole


def necessity(
    model: Model,
    found: EmotionDiscovery,
    groups: Sequence[EmotionGroup],
    sets: Sequence[CircuitSet],
    *,
    fill: Fill = "mean",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The fraction of each emotion's gap that is left when circuits are taken out.

    The components of each set are set to `fill` at the last token of every prompt of the groups
    (texts in all emotions, none of the discovery's).

    Returns:
        ``test``, ``name``, ``part``, ``k``, ``draw``, ``emotion`` (or ``all``), ``value``: mean gap
        over the mean intact gap, with its 95 % interval over scenarios ``low`` and ``high``, ``n``
        texts.

    Raises:
        DegenerateGap: an emotion's prompts give the same states as the others'.
    """
    n = len(EMOTIONS)
    plans = [removing(one.circuits[e], found.means, fill) for e in EMOTIONS for one in sets]
    prompts = [prompt for group in groups for prompt in group.prompts]
    own = _projected(model, found, prompts, plans, progress).unflatten(0, (len(groups), n))
    base = _gap(own[:, :, 0])
    changed = own[:, :, 1:].unflatten(2, (n, len(sets)))  # text, prompt, circuit of, set, v_ref
    gaps = [_gap(changed[:, :, row].transpose(1, 2))[..., row] for row in range(n)]
    return _table("necessity", sets, torch.stack(gaps, 1), base, groups)


def sufficiency(
    model: Model,
    found: EmotionDiscovery,
    groups: Sequence[EmotionGroup],
    neutral: Sequence[TokenPrompt],
    sets: Sequence[CircuitSet],
    *,
    strength: float = 1.0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The fraction of each emotion's gap that the circuits' differences recover by themselves.

    Each emotion's circuit is driven under neutral prompts (the same texts without an emotion); the
    gap is how much further its own differences go along its direction than those of the other
    five. Arguments and table are as of `necessity`, which takes the natural gap of `groups`, too.
    """
    n = len(EMOTIONS)
    prompts = [prompt for group in groups for prompt in group.prompts]
    natural = _projected(model, found, prompts, [], progress)[:, 0]
    plans = [
        inserting(one.circuits[e], found.differences, strength) for one in sets for e in EMOTIONS
    ]
    moved = _projected(model, found, neutral, plans, progress)
    gaps = _gap(moved[:, 1:].unflatten(1, (len(sets), n)))  # text, set, emotion
    base = _gap(natural.unflatten(0, (len(groups), n)))
    return _table("sufficiency", sets, gaps.transpose(1, 2), base, groups)


def _projected(
    model: Model,
    found: EmotionDiscovery,
    prompts: Sequence[TokenPrompt],
    plans: Sequence[Plan],
    progress: Progress | None = None,
) -> Float[Tensor, "prompt plan emotion"]:
    """Final states along every v_ref, of the plain run and then under each plan."""
    to, run = found.reference, [Plan(), *plans]
    parts = [
        final_states(model, prompts, run[i : i + PLANS_AT_ONCE], progress, lambda x: x @ to.T)
        for i in range(0, len(run), PLANS_AT_ONCE)
    ]
    return torch.cat(parts, 1)


def _gap(x: Float[Tensor, "... emotion direction"]) -> Float[Tensor, "... direction"]:
    """How far each emotion's states lie above the mean of the other five along its direction."""
    own = x.diagonal(dim1=-2, dim2=-1)
    return own - (x.sum(-2) - own) / (x.shape[-1] - 1)


def _table(
    test: str,
    sets: Sequence[CircuitSet],
    gaps: Float[Tensor, "text emotion set"],
    base: Float[Tensor, "text emotion"],
    groups: Sequence[EmotionGroup],
) -> pd.DataFrame:
    ratio = partial(bootstrap_ratio, clusters=[group.scenario for group in groups])
    top, bottom = gaps.double().numpy(), base.double().numpy()
    scale = bottom.mean(0)  # so that every emotion counts alike in their mean
    if (scale == 0).any():
        flat = EMOTIONS[int((scale == 0).argmax())]
        raise DegenerateGap(
            f"the final states of {flat} prompts are those of the others; use prompts that differ."
        )
    found = {e: ratio(top[:, row], bottom[:, row]) for row, e in enumerate(EMOTIONS)}
    found[ALL] = ratio((top / scale[:, None]).mean(1), (bottom / scale).mean(1))
    k = [max(circuit.size for circuit in one.circuits.values()) for one in sets]
    rows = [
        (test, one.name, one.part, k[i], one.draw, emotion, *(float(x[i]) for x in estimate))
        for emotion, estimate in found.items()
        for i, one in enumerate(sets)
    ]
    columns = ["test", "name", "part", "k", "draw", "emotion", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).assign(n=len(top))


def circuit_effects(
    model: Model,
    found: EmotionDiscovery,
    scenarios: Sequence[Scenario],
    frames: Frames,
    settings: EffectSettings | None = None,
    out: str | Path | None = None,
    force: bool = False,
    progress: StageProgress | None = None,
) -> EmotionEffects:
    """Test the circuits of a discovery on unseen texts, against random circuits.

    Args:
        model: the model.
        found: its discovery; `PlanError` where it is another model's.
        scenarios: texts of which one event each is used; `DataError` where the discovery read any.
        frames: words and prompts.
        settings: how.
        out: folder to write; a finished one is loaded.
        force: replace another run, or a damaged one, that `out` holds.
        progress: called with (test, done, in all).

    Raises:
        RunFolderError: `out` holds another run, or something else.
    """
    chosen, say = settings or EffectSettings(), progress or (lambda stage, done, total: None)
    found = found.of(model)
    found.refuse_seen(scenarios)
    options = chosen.model_dump() | identity(model)
    options |= {"texts": fingerprint(scenarios), "discovery": found.fingerprint}
    options["frames"] = fingerprint([frames.style(style) for style in found.settings.styles])

    def made() -> EmotionEffects:
        groups, neutral = _texts(model, found, scenarios, frames, chosen.n)
        sets = circuit_sets(found, chosen.n_random, chosen.seed)
        lost = necessity(
            model, found, groups, sets, fill=chosen.fill, progress=partial(say, "necessity")
        )
        gained = sufficiency(
            model, found, groups, neutral, sets,
            strength=chosen.strength, progress=partial(say, "sufficiency"),
        )  # fmt: skip
        return EmotionEffects(model.name, chosen, pd.concat([lost, gained], ignore_index=True))

    return in_one_piece(out, "emotion test", options, made, EmotionEffects, force)


def _texts(
    model: Model, found: EmotionDiscovery, scenarios: Sequence[Scenario], frames: Frames, n: int
) -> tuple[list[EmotionGroup], list[TokenPrompt]]:
    """One event of each of `n` scenarios, in the discovery's styles and without an emotion."""
    by_id = {text.id: text for text in situations(scenarios, n)}
    used = {text.scenario_id for text in by_id.values()}
    told = [scenario for scenario in scenarios if scenario.id in used]
    styles, double_bos = found.settings.styles, found.settings.double_bos
    every = groups_of(model, told, frames, styles, double_bos=double_bos)
    groups = [group for group in every if group.text in by_id]
    neutral = [
        frames.style(group.style)[0].fill(by_id[group.text].scenario, by_id[group.text].event)
        for group in groups
    ]
    return groups, [token_prompt(model, one, double_bos=double_bos) for one in neutral]
