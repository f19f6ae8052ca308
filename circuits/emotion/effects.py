"""Is the circuit what carries an emotion? Take it out under emotion prompts; put it in without one.

Read as a contrast: how far the final states of an emotion's own prompts lie above those of the
other five along its reference direction, with the same components changed in all six. The
projection alone misleads, since taking components out moves all prompts together.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.circuit import Differences, EmotionCircuit
from circuits.emotion.data import EMOTIONS
from circuits.emotion.discovery import Discovery, Means
from circuits.emotion.last_token import Change, Progress, Variant, final_states
from circuits.emotion.states import Group
from circuits.emotion.trials import Trial
from interp.data.prompts import TokenPrompt
from interp.errors import DegenerateGap
from interp.model.model import Model
from interp.statistics import bootstrap_ratio

Fill = Literal["mean", "zero"]
VARIANTS_AT_ONCE = 256
ALL = "all"


# --- changes --------------------------------------------------------------------------------------


def removing(circuit: EmotionCircuit, means: Means, fill: Fill = "mean") -> Variant:
    """Put the mean of all prompts, or zero, in place of a circuit's components."""
    return _changes(circuit, means.z, means.mlp_post, replaces=True, factor=float(fill == "mean"))


def inserting(circuit: EmotionCircuit, differences: Differences, strength: float = 1.0) -> Variant:
    """Add an emotion's difference to a circuit's components."""
    row = EMOTIONS.index(circuit.emotion)
    z, mlp_post = differences.z[row], differences.mlp_post[row]
    return _changes(circuit, z, mlp_post, replaces=False, factor=strength)


def _changes(
    circuit: EmotionCircuit,
    z: Float[Tensor, "layer head d_head"],
    mlp_post: Float[Tensor, "layer neuron"],
    replaces: bool,
    factor: float,
) -> Variant:
    out: list[Change] = []
    for site, table, values in (
        ("z", circuit.heads, z),
        ("mlp_post", circuit.neurons, mlp_post[..., None]),
    ):
        for layer, units in table.items():
            inside = torch.zeros_like(values[layer])
            inside[list(units)] = 1.0
            add = (factor * inside * values[layer]).flatten()
            out.append(Change(site, layer, add, (1 - inside).flatten() if replaces else None))
    return out


# --- necessity and sufficiency --------------------------------------------------------------------


def necessity(
    model: Model,
    found: Discovery,
    groups: Sequence[Group],
    tried: Sequence[Trial],
    *,
    fill: Fill = "mean",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """What remains of each emotion's gap when components are taken out at the last token.

    Args:
        model: the model.
        found: what was found.
        groups: texts in all emotions, none of the discovery's.
        tried: what is taken out.
        fill: what stands in its place.
        progress: called with (prompts done, prompts in all).

    Returns:
        `Trial`'s columns, ``emotion`` (or ``all``), ``remaining``: mean gap over the mean intact
        gap, with its 95 % interval over scenarios ``low`` and ``high``, ``n`` texts.
    """
    variants = [removing(one.circuits[e], found.means, fill) for e in EMOTIONS for one in tried]
    prompts = [prompt for group in groups for prompt in group.prompts]
    projections = projected(model, found, prompts, variants, progress)
    own = projections.unflatten(0, (len(groups), len(EMOTIONS)))  # text, emotion, variant, v_ref
    intact = own[:, :, 0].diagonal(dim1=1, dim2=2)  # text, emotion
    base = intact - _others(own[:, :, 0])
    changed = own[:, :, 1:].unflatten(2, (len(EMOTIONS), len(tried)))
    rows = torch.arange(len(EMOTIONS))
    # of each emotion, the trials on its own circuits along its own direction
    changed = changed[:, :, rows, :, rows].permute(1, 2, 0, 3)  # text, prompt, emotion, trial
    level = changed[:, rows, rows]
    gaps = level - (changed.sum(1) - level) / (len(EMOTIONS) - 1)
    return _table(tried, gaps, base, _scenarios(groups), "remaining")


def sufficiency(
    model: Model,
    found: Discovery,
    groups: Sequence[Group],
    neutral: Sequence[TokenPrompt],
    tried: Sequence[Trial],
    *,
    strength: float = 1.0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """What part of each emotion's natural gap the circuits' differences bring about by themselves.

    Each emotion's circuit is modulated under neutral prompts; the gap is how much further its own
    modulation goes along its direction than those of the other five.

    Args:
        model: the model.
        found: what was found.
        groups: texts in all emotions, none of the discovery's; they give the natural gap.
        neutral: the same texts without an emotion.
        tried: what is modulated.
        strength: lambda.
        progress: called with (prompts done, prompts in all).

    Returns:
        As `necessity`, with ``brought``: mean gap over the mean natural one.
    """
    prompts = [prompt for group in groups for prompt in group.prompts]
    natural = projected(model, found, prompts, [], progress)[:, 0]
    natural = natural.unflatten(0, (len(groups), len(EMOTIONS)))
    base = natural.diagonal(dim1=1, dim2=2) - _others(natural)
    variants = [
        inserting(one.circuits[e], found.differences, strength) for one in tried for e in EMOTIONS
    ]
    moved = projected(model, found, neutral, variants, progress)
    moved = moved[:, 1:].unflatten(1, (len(tried), len(EMOTIONS)))  # text, trial, by, v_ref
    gaps = moved.diagonal(dim1=2, dim2=3) - _others(moved)
    return _table(tried, gaps.transpose(1, 2), base, _scenarios(groups), "brought")


def projected(
    model: Model,
    found: Discovery,
    prompts: Sequence[TokenPrompt],
    variants: Sequence[Variant],
    progress: Progress | None = None,
) -> Float[Tensor, "prompt variant emotion"]:
    """Final states along every v_ref, of the plain run and then of each variant."""
    to = found.reference

    def read(x: Float[Tensor, "prompt row d_model"]) -> Float[Tensor, "prompt row emotion"]:
        return x @ to.T

    parts = [
        final_states(model, prompts, part, progress=progress, read=read)
        for part in _parts([[], *variants])
    ]
    return torch.cat(parts, 1)


def _parts(variants: Sequence[Variant]) -> list[Sequence[Variant]]:
    return [variants[i : i + VARIANTS_AT_ONCE] for i in range(0, len(variants), VARIANTS_AT_ONCE)]


def _others(
    x: Float[Tensor, "... emotion direction"],
) -> Float[Tensor, "... direction"]:
    """Mean over the five emotions other than each direction's own."""
    own = x.diagonal(dim1=-2, dim2=-1)
    return (x.sum(-2) - own) / (x.shape[-1] - 1)


def _scenarios(groups: Sequence[Group]) -> list[str]:
    return [group.text.rpartition("_")[0] or group.text for group in groups]


def _table(
    tried: Sequence[Trial],
    gaps: Float[Tensor, "text emotion trial"],
    base: Float[Tensor, "text emotion"],
    clusters: Sequence[str],
    name: str,
) -> pd.DataFrame:
    ratio = partial(bootstrap_ratio, clusters=clusters)
    top, bottom = gaps.double().numpy(), base.double().numpy()
    scale = bottom.mean(0)  # so that every emotion counts alike in their mean
    if (scale == 0).any():
        flat = EMOTIONS[int((scale == 0).argmax())]
        raise DegenerateGap(
            f"the final states of {flat} prompts are those of the others; use prompts that differ."
        )
    found = {
        emotion: ratio(top[:, row], bottom[:, row]) for row, emotion in enumerate(EMOTIONS)
    } | {ALL: ratio((top / scale[:, None]).mean(1), (bottom / scale).mean(1))}
    rows = [
        (
            one.name,
            one.part,
            one.k,
            one.draw,
            emotion,
            *(float(bound[i]) for bound in estimate),
            len(top),
        )
        for emotion, estimate in found.items()
        for i, one in enumerate(tried)
    ]
    columns = ["name", "part", "k", "draw", "emotion", name, "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)
