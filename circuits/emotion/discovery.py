"""`discover`: directions, scores, influence and circuits of a model, in one pass over prompts.

States of all prompts are kept beside the folder until it is written, so a stopped discovery goes
on where it was.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import TypeVar

from circuits.emotion.components import (
    Influence,
    component_scores,
    influence,
    normed,
    stream_scales,
)
from circuits.emotion.directions import Directions, projections, shown_layers, window_layers
from circuits.emotion.emotion_circuit import SiteVectors
from circuits.emotion.emotion_settings import EmotionSettings
from circuits.emotion.prompts import Frames, ReplyPrompts, token_prompt
from circuits.emotion.result import EmotionDiscovery
from circuits.emotion.selection import select_circuits
from circuits.emotion.states import (
    DEMONSTRATIONS,
    EmotionGroup,
    States,
    demonstration_groups,
    groups_of,
    states,
)
from circuits.emotion.texts import TRAP, Reply, Scenario, situations
from circuits.emotion.transfer import Reading, across, best_layer, joined, left_out, read_groups
from circuits.emotion.transfer import tables as reading_tables
from interp.data.prompts import TokenPrompt
from interp.model.model import Model
from interp.progress import StageProgress
from interp.results.run_folder import RunFolder, Steps, fingerprint, identity

T = TypeVar("T")


def discover(
    model: Model,
    scenarios: Sequence[Scenario],
    frames: Frames,
    settings: EmotionSettings | None = None,
    replies: Sequence[Reply] = (),
    out: str | Path | None = None,
    force: bool = False,
    progress: StageProgress | None = None,
) -> EmotionDiscovery:
    """Find a model's emotion directions, the components that write them, and circuits.

    Args:
        model: the model.
        scenarios: discovery texts; none of them is to be tested on.
        frames: words and prompts; `DataError` where a style is not among them.
        settings: how; by default the clean preset.
        replies: self-written, shown as demonstrations. The layer in which states are read is the
            one where directions carry over best: to styles with another word and another frame,
            and to texts after demonstrations.
        out: folder to write; a stopped discovery resumes, a finished one is loaded.
        force: replace another run, or a damaged one, that `out` holds.
        progress: called with (stage, done, in all).

    Raises:
        RunFolderError: `out` holds another discovery, or something else.
    """
    chosen = settings or EmotionSettings()
    used = [frames.style(style) for style in chosen.styles]
    made = partial(_Discovering, model, scenarios, frames, replies, chosen)
    say = progress or (lambda stage, done, total: None)
    if out is None:
        return made(Steps(), say).run()
    options = chosen.model_dump() | {
        "scenarios": len(scenarios),
        "texts": fingerprint(scenarios),
        "replies": fingerprint(replies),
        "frames": fingerprint([used, frames.demonstrations]),
    }
    with RunFolder.open(out, "emotion circuit", options | identity(model), force=force) as run:
        if not run.finished:
            run.finish(made(run, say).run().save)
    return EmotionDiscovery.load(out)


@dataclass
class _Discovering:
    """A discovery under way: finished stages are kept in `steps`, with the seconds they took."""

    model: Model
    scenarios: Sequence[Scenario]
    frames: Frames
    replies: Sequence[Reply]
    settings: EmotionSettings
    steps: Steps
    say: StageProgress
    seconds: dict[str, float] = field(default_factory=dict)

    def _stage(self, name: str, make: Callable[[], T], kind: type[T]) -> T:
        def measured() -> tuple[T, float]:
            began = time.monotonic()
            return make(), time.monotonic() - began

        made, self.seconds[name] = self.steps.step(name, measured, tuple[kind, float])
        return made

    def _states(self, name: str, groups: Sequence[EmotionGroup]) -> States:
        make = partial(states, self.model, groups, progress=partial(self.say, name))
        return self._stage(name, make, States)

    def run(self) -> EmotionDiscovery:
        model, chosen = self.model, self.settings
        groups = groups_of(
            model, self.scenarios, self.frames, chosen.styles, double_bos=chosen.double_bos
        )
        found = self._states("states", groups)
        if chosen.final == "normed":
            found = with_normed_final(model, found)
        by_style = Directions.by_style(found)
        directions = Directions.pooled(list(by_style.values()))
        neutral = neutral_prompts(model, self.scenarios, self.frames, chosen)
        how = {"alphas": chosen.alphas, "final": chosen.final}
        measure = partial(influence, progress=partial(self.say, "influence"), **how)
        given = (model, neutral, directions, stream_scales(found))
        pushed = self._stage("influence", lambda: measure(*given), Influence)
        readings = self._readings(found, directions)
        began = time.monotonic()
        scored = component_scores(model, found, directions)
        circuits = select_circuits(model, scored, pushed, chosen.size)
        self.seconds["scores"] = time.monotonic() - began
        tests = [reading for reading in readings if not reading.name.startswith(TRAP)]
        layer = best_layer(tests) if tests else sum(window_layers(model.arch.n_layers)) // 2
        return EmotionDiscovery(
            model=model.name,
            weights_hash=model.weights_hash,
            settings=chosen,
            texts=tuple(scenario.text for scenario in self.scenarios),
            by_style=by_style,
            differences=SiteVectors.differences(found),
            means=SiteVectors.means(found),
            scores=scored,
            influence=pushed,
            circuits=circuits,
            layer=layer,
            readings=reading_tables(readings),
            projections=projections(found, shown_layers(model.arch.n_layers, layer)),
            seconds={name: round(value, 1) for name, value in self.seconds.items()},
        )

    def _readings(self, found: States, directions: Directions) -> list[Reading]:
        """What chooses the layer, first; then the other tests within the discovery texts."""
        n = min(self.settings.n_demonstrations, len(self.scenarios))
        out: list[Reading] = []
        if self.replies and n:
            asking, texts = ReplyPrompts(self.frames, self.replies), situations(self.scenarios, n)
            groups = demonstration_groups(self.model, asking, texts)
            seen = self._states(DEMONSTRATIONS, groups)
            out.append(read_groups(directions, seen, DEMONSTRATIONS))
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


def with_normed_final(model: Model, found: States) -> States:
    """The last block's stream after the final norm, as Hugging Face's hidden states have it."""
    post = found.resid_post.clone()
    post[:, :, -1] = normed(model, post[:, :, -1])
    return replace(found, resid_post=post)


def neutral_prompts(
    model: Model, scenarios: Sequence[Scenario], frames: Frames, settings: EmotionSettings
) -> list[TokenPrompt]:
    """Texts without an emotion, in the neutral forms of the styles' frames in turn.

    As many as the settings say, each of another scenario, or all.
    """
    used = [frames.style(style)[0] for style in settings.styles]
    n = settings.n_neutral
    if n is None:
        texts = [(s.text, event) for s in scenarios for _, event in s.events]
    else:
        texts = [(t.scenario, t.event) for t in situations(scenarios, min(n, len(scenarios)))]
    return [
        token_prompt(model, used[i % len(used)].fill(*text), double_bos=settings.double_bos)
        for i, text in enumerate(texts)
    ]
