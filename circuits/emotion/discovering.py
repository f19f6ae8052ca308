"""`discover`: directions, scores, influence and circuits of a model, in one pass over prompts.

States of all prompts are kept beside the folder until it is written, so a stopped discovery goes
on where it was.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.activations import last_activations
from circuits.emotion.arms import references_of
from circuits.emotion.circuit import Differences
from circuits.emotion.data import EMOTIONS, Reply, Scenario
from circuits.emotion.directions import Directions, window_layers
from circuits.emotion.discovery import Discovery, Means, Settings
from circuits.emotion.frames import Frames
from circuits.emotion.influence import influence, normed, stream_scales
from circuits.emotion.projections import projections, shown_layers
from circuits.emotion.scores import scores
from circuits.emotion.selection import circuits_of
from circuits.emotion.situations import Asking, situations
from circuits.emotion.stages import Stages
from circuits.emotion.states import States, groups_of, states
from circuits.emotion.tokens import token_prompt
from circuits.emotion.transfer import (
    Reading,
    across,
    best_layer,
    joined,
    left_out,
    read_groups,
    tables,
)
from circuits.emotion.wordless import DEMONSTRATIONS, demonstration_groups
from interp.data.prompts import TokenPrompt
from interp.model.model import Model
from interp.results.run_folder import RunFolder, Steps, fingerprint, identity

TRAP = "within (trap)"
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, in all)."""


def discover(
    model: Model,
    scenarios: Sequence[Scenario],
    frames: Frames,
    settings: Settings | None = None,
    replies: Sequence[Reply] = (),
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Discovery:
    """Find a model's emotion directions, the components that write them, and circuits.

    Args:
        model: the model.
        scenarios: discovery texts; none of them is to be tested on.
        frames: words and prompts.
        settings: how; by default the clean preset.
        replies: self-written replies, shown as demonstrations without an emotion word. The layer
            in which states are read is the one where directions carry over best: to styles with
            another word and another frame, and to texts after demonstrations.
        out: folder to write; a stopped discovery resumes, a finished one is loaded.
        force: replace another run, or a damaged one, that `out` holds.
        progress: called with (stage, done, in all).

    Raises:
        RunFolderError: `out` holds another discovery, or something else.
        DataError: a style that the frames do not have.
    """
    chosen = settings or Settings()
    given = (model, scenarios, frames, replies, progress or (lambda stage, done, total: None))
    if out is None:
        return _discovered(Stages(Steps(), chosen), *given)
    named = _plain_settings(chosen) | {
        "scenarios": len(scenarios),
        "texts": fingerprint([(s.id, s.text, [e.text for e in s.events]) for s in scenarios]),
        "replies": fingerprint([(r.id, r.text) for r in replies]),
        "frames": fingerprint(_used(frames, chosen)),
    }
    with RunFolder.open(out, "emotion circuit", named | identity(model), force=force) as run:
        if not run.finished:
            made = _discovered(Stages(run, chosen), *given)
            run.finish(made.save)
    return Discovery.load(out)


def _plain_settings(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def _used(frames: Frames, settings: Settings) -> list[Any]:
    """The frames and word sets that the styles name."""
    pairs = [style.partition(":")[::2] for style in settings.styles]
    return [
        [frames.frames[frame] for frame, _ in pairs if frame in frames.frames],
        {words: frames.words[words] for _, words in pairs if words in frames.words},
    ]


def _discovered(
    run: Stages,
    model: Model,
    scenarios: Sequence[Scenario],
    frames: Frames,
    replies: Sequence[Reply],
    say: Progress,
) -> Discovery:
    chosen = run.settings
    groups = groups_of(model, scenarios, frames, chosen.styles, double_bos=chosen.double_bos)
    found = run.states("states", lambda: states(model, groups, progress=partial(say, "states")))
    if chosen.normed_final:
        found = with_normed_final(model, found)
    directions = Directions.of(found)
    neutral = neutral_prompts(model, scenarios, frames, chosen)
    pushed = run.influence(
        lambda: influence(
            model,
            neutral,
            directions,
            stream_scales(found),
            alphas=chosen.alphas,
            final=chosen.final,
            progress=partial(say, "influence"),
        )
    )
    plain = last_activations(model, neutral, progress=partial(say, "neutral")).resid_post
    readings = _readings(model, run, frames, scenarios, replies, found, directions, say)
    began = time.monotonic()
    scored = scores(
        model, found, directions, normed_heads=chosen.normed_heads and not _parallel(model)
    )
    circuits, layer = circuits_of(model, scored, pushed, chosen.size), _layer(model, readings)
    run.seconds["scores"] = time.monotonic() - began
    return Discovery(
        model=model.name,
        weights_hash=model.weights_hash,
        settings=chosen,
        directions=directions,
        by_style={s: Directions.of(found.of_style(s)) for s in directions.styles},
        differences=Differences.of(found),
        means=Means(found.z.mean((0, 1)), found.mlp_post.mean((0, 1))),
        scores=scored,
        influence=pushed,
        circuits=circuits,
        references=references_of(found.z, found.mlp_post),
        low=directions.cosines(plain).mean(0).T.contiguous(),
        high=_own(directions.cosines(found.resid_post)),
        layer=layer,
        readings=tables(readings),
        projections=projections(found, shown_layers(model.arch.n_layers, layer)),
        cost=_cost(
            model, len(groups), len(neutral), min(chosen.n_demonstrations, len(scenarios)), run
        ),
    )


def with_normed_final(model: Model, found: States) -> States:
    """The last block's stream after the final norm, as Hugging Face's hidden states have it."""
    post = found.resid_post.clone()
    post[:, :, -1] = normed(model, post[:, :, -1])
    return replace(found, resid_post=post)


def neutral_prompts(
    model: Model, scenarios: Sequence[Scenario], frames: Frames, settings: Settings
) -> list[TokenPrompt]:
    """Texts without an emotion, in the neutral forms of the styles' frames, taking turns.

    As many as the settings say, each of another scenario, or all.
    """
    used = [frames.frames[style.partition(":")[0]] for style in settings.styles]
    if settings.n_neutral is None:
        texts = [(s.text, event.text) for s in scenarios for event in s.events]
    else:
        chosen = situations(scenarios, min(settings.n_neutral, len(scenarios)))
        texts = [(one.scenario, one.event) for one in chosen]
    return [
        token_prompt(model, used[i % len(used)].fill(*text), double_bos=settings.double_bos)
        for i, text in enumerate(texts)
    ]


def _parallel(model: Model) -> bool:
    return model.arch.parts.parallel


def _own(
    cosines: Float[Tensor, "group emotion layer direction"],
) -> Float[Tensor, "emotion layer"]:
    """Mean cosine of each emotion's prompts with its own direction."""
    own = torch.arange(len(EMOTIONS))
    return cosines.mean(0)[own, :, own]


# --- the layer in which states are read -----------------------------------------------------------


def _readings(
    model: Model,
    run: Stages,
    frames: Frames,
    scenarios: Sequence[Scenario],
    replies: Sequence[Reply],
    found: States,
    directions: Directions,
    say: Progress,
) -> list[Reading]:
    """What chooses the layer, first; then the other tests within the discovery texts."""
    n = min(run.settings.n_demonstrations, len(scenarios))
    out: list[Reading] = []
    if replies and n:
        asking = Asking(frames, replies)
        groups = demonstration_groups(model, asking, situations(scenarios, n))
        shown = run.states(
            DEMONSTRATIONS, lambda: states(model, groups, progress=partial(say, DEMONSTRATIONS))
        )
        out.append(read_groups(directions, shown, DEMONSTRATIONS))
    spread = [s for s in directions.styles if len(set(found.of_style(s).themes)) > 1]
    pairs = [
        (one, other)
        for one, other in permutations(spread, 2)
        if all(a != b for a, b in zip(one.split(":"), other.split(":"), strict=True))
    ]
    if pairs:
        out.append(joined(across(found, pairs), "other word and frame"))
    for style in spread[:1]:
        own = found.of_style(style)
        out.append(left_out(own, own, f"{TRAP} {style}"))
    return out


def _layer(model: Model, readings: Sequence[Reading]) -> int:
    """The best layer of all tests but the trap; without any, the middle of v_ref's window."""
    telling = [reading for reading in readings if not reading.name.startswith(TRAP)]
    if telling:
        return best_layer(telling)
    return sum(window_layers(model.arch.n_layers)) // 2


def _cost(model: Model, n_groups: int, n_neutral: int, n_shown: int, run: Stages) -> dict[str, Any]:
    """What was run, and what the released procedure runs for the same number of texts.

    The released code runs every prompt for directions, for neurons, twice for differences, and
    once and once a head for heads; and for each emotion every neutral prompt once and once for
    each nudge of four sizes.
    """
    a, n = model.arch, len(EMOTIONS)
    nudges = n * len(run.settings.alphas) * 2 * a.n_layers
    released = n_groups * n * (5 + a.n_layers * a.n_heads) + n_groups * n * (1 + 8 * a.n_layers)
    shown = n_shown * n if DEMONSTRATIONS in run.seconds else 0
    return {
        "seconds": {name: round(value, 1) for name, value in run.seconds.items()},
        "prompts": n_groups * n + 2 * n_neutral + shown,
        "single_tokens": n_neutral * nudges,
        "released_prompts": released,
    }
