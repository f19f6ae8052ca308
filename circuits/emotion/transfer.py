"""Do directions read emotions where they were not found: under other words, other frames, none?

Accuracy by layer, chance 1/6, with an interval over scenarios and a permutation null.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from circuits.emotion.directions import Directions, nearest
from circuits.emotion.prompts import EmotionPrompt, Frames, ReplyPrompts, token_prompt
from circuits.emotion.states import (
    DEMONSTRATIONS,
    REPLIES,
    EmotionGroup,
    States,
    demonstration_groups,
    groups_of,
    reply_groups,
    states,
)
from circuits.emotion.texts import (
    EMOTIONS,
    NEUTRAL,
    Reply,
    Scenario,
    Vignette,
    interleaved,
    situations,
)
from interp.brief import brief
from interp.data.chat import has_template
from interp.errors import DataError
from interp.interventions.last_token import last_activations
from interp.model.model import Model
from interp.progress import Progress, StageProgress
from interp.statistics import bootstrap_mean

N_PERMUTATIONS = 999
COLUMNS = ["test", "layer", "n", "clusters", "accuracy", "low", "high", "null", "p"]


@brief
@dataclass(frozen=True)
class Reading:
    """The emotions that directions read in states whose emotion is known, layer by layer.

    Intervals resample clusters, such as scenarios; under the null, labels are shuffled within
    blocks: the texts' groups, or one block.
    """

    name: str
    found: Int[np.ndarray, "state layer"]
    true: Int[np.ndarray, " state"]
    clusters: Sequence[Hashable]
    blocks: Int[np.ndarray, " state"]

    @property
    def correct(self) -> Bool[np.ndarray, "state layer"]:
        """Which states were read as what they are."""
        return self.found == self.true[:, None]

    def table(self, seed: int = 0) -> pd.DataFrame:
        """One row per layer.

        Returns:
            ``test``, ``layer``, ``n`` states, ``clusters``, ``accuracy`` with its 95 % interval
            ``low`` and ``high``, ``null``: the 95th percentile of `N_PERMUTATIONS` shuffles of the
            labels within blocks, and ``p`` by them.
        """
        accuracy = bootstrap_mean(self.correct.astype(float), seed, clusters=self.clusters)
        null = self._shuffled(seed)
        columns: dict[str, Any] = {
            "test": self.name,
            "layer": np.arange(self.found.shape[1]),
            "n": len(self.true),
            "clusters": len(set(self.clusters)),
            "accuracy": accuracy.value,
            "low": accuracy.low,
            "high": accuracy.high,
            "null": np.quantile(null, 0.95, axis=0),
            "p": (1 + (null >= accuracy.value - 1e-12).sum(0)) / (1 + len(null)),
        }
        return pd.DataFrame(columns, columns=COLUMNS)

    def _shuffled(self, seed: int) -> Float[np.ndarray, "shuffle layer"]:
        """Accuracy under labels shuffled within blocks."""
        rng, order = np.random.default_rng(seed), np.argsort(self.blocks, kind="stable")
        true, found, blocks = self.true[order], self.found[order], self.blocks[order]
        out = np.empty((N_PERMUTATIONS, found.shape[1]))
        for i in range(N_PERMUTATIONS):
            mixed = true[np.lexsort((rng.random(len(true)), blocks))]
            out[i] = (found == mixed[:, None]).mean(0)
        return out


def read_groups(directions: Directions, found: States, name: str) -> Reading:
    """Read complete groups, group-centred; clusters are scenarios."""
    n_groups, n = found.resid_post.shape[:2]
    return Reading(
        name,
        directions.read(found.resid_post).flatten(0, 1).numpy(),
        np.tile(np.arange(n), n_groups),
        [scenario for scenario in found.scenarios for _ in range(n)],
        np.repeat(np.arange(n_groups), n),
    )


def left_out(train: States, test: States, name: str) -> Reading:
    """Read each theme by directions from the other themes, where both are of the same texts.

    With `train` itself as `test` this is the trap: where the word is visible it is near 1 from
    layer 0 on, and shows nothing more. `DataError` where no theme leaves any other in `train`.
    """
    readings: list[Reading] = []
    for theme in dict.fromkeys(test.themes):
        rest = [i for i, other in enumerate(train.themes) if other != theme]
        own = [i for i, other in enumerate(test.themes) if other == theme]
        if rest:
            readings.append(read_groups(Directions.of(train.only(rest)), test.only(own), name))
    if not readings:
        raise DataError(f"all groups are of the theme {test.themes[0]!r}; give a second one.")
    return joined(readings, name)


def across(found: States, pairs: Sequence[tuple[str, str]]) -> list[Reading]:
    """Read one style by directions of another, theme by theme from the other themes' texts."""
    return [
        left_out(found.of_style(source), found.of_style(target), f"{source}→{target}")
        for source, target in pairs
    ]


def joined(readings: Sequence[Reading], name: str) -> Reading:
    """Several readings as one."""
    offsets = np.cumsum([0, *(int(r.blocks.max()) + 1 for r in readings)])
    return Reading(
        name,
        np.concatenate([r.found for r in readings]),
        np.concatenate([r.true for r in readings]),
        [cluster for r in readings for cluster in r.clusters],
        np.concatenate([r.blocks + at for r, at in zip(readings, offsets, strict=False)]),
    )


def tables(readings: Sequence[Reading]) -> pd.DataFrame:
    """The tables of several readings, one below the other."""
    found = [reading.table() for reading in readings]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COLUMNS)


def best_layer(readings: Sequence[Reading]) -> int:
    """The layer of the best mean accuracy over tests, smoothed over its two neighbours."""
    return int(smoothed(np.mean([reading.correct.mean(0) for reading in readings], 0)).argmax())


def smoothed(accuracy: Float[np.ndarray, " layer"]) -> Float[np.ndarray, " layer"]:
    """Sum over each layer and its neighbours; ties are exact, the first is best."""
    return np.convolve(np.pad(accuracy, 1, mode="edge"), np.ones(3), "valid").round(9)


def vignette_states(
    model: Model, frames: Frames, vignettes: Sequence[Vignette], progress: Progress | None = None
) -> Float[torch.Tensor, "vignette layer d_model"]:
    """States after each block at the last token of the prompt around each vignette."""
    texts = [EmotionPrompt(frames.vignette.format(text=one.text)) for one in vignettes]
    prompts = [token_prompt(model, text) for text in texts]
    return last_activations(model, prompts, progress)["resid_post"]


def read_vignettes(
    vectors: Float[torch.Tensor, "emotion layer d_model"],
    emotions: Sequence[str],
    x: Float[torch.Tensor, "vignette layer d_model"],
    vignettes: Sequence[Vignette],
) -> list[Reading]:
    """Read vignettes by the vectors of those emotions that any is labelled with, from two origins.

    They are the mean over emotions of their means (the design is balanced), and the mean of the
    vignettes without an emotion, which needs no knowledge of the others.
    """
    labels = [one.emotion for one in vignettes]
    of = {e: x[[i for i, label in enumerate(labels) if label == e]].mean(0) for e in set(labels)}
    both = [name for name in emotions if name in of]
    used = [i for i, label in enumerate(labels) if label in both]
    true = np.array([both.index(labels[i]) for i in used], dtype=int)
    own = vectors[[list(emotions).index(name) for name in both]]
    origins = {"vignettes": torch.stack([of[name] for name in both]).mean(0)}
    if NEUTRAL in of:
        origins["vignettes, neutral origin"] = of[NEUTRAL]
    return [
        Reading(
            name,
            nearest(x[used] - origin, own).numpy(),
            true,
            range(len(true)),
            np.zeros_like(true),
        )
        for name, origin in origins.items()
    ]


SYNONYMS = (("felt:A", "felt:B"), ("felt:B", "felt:C"), ("felt:C", "felt:A"))
"""(styles of the directions, style read). No word is on both sides, so none is read by itself."""
HELD_OUT = (("felt:A+felt:C", "felt:B"), ("felt:A+felt:B", "felt:C"), ("felt:B+felt:C", "felt:A"))
FRAMES = (("felt:A", "day:B"), ("felt:B", "diary:C"), ("felt:A", "made:B"))
CHAT = (("felt:A", "chat:B"),)


def transfer_tests(
    model: Model,
    by_style: dict[str, Directions],
    frames: Frames,
    scenarios: Sequence[Scenario],
    vignettes: Sequence[Vignette] = (),
    replies: Sequence[Reply] = (),
    n_scenarios: int = 24,
    progress: StageProgress | None = None,
    *,
    double_bos: bool = False,
) -> list[Reading]:
    """Read states of unseen texts by directions of one style, or of all styles where no word is.

    Synonyms are read by one set of words and by two, each and joined; then other frames; chat,
    where the model has a template; texts after demonstrations; replies, at their last token;
    vignettes.

    Args:
        model: the model.
        by_style: directions of each style; pairs of styles that it lacks are left out.
        frames: words and prompts.
        scenarios: texts that the directions do not come from.
        vignettes: situations without an emotion word.
        replies: read themselves, and shown as demonstrations.
        n_scenarios: how many of the scenarios, in all their events; demonstrations take one.
        progress: called with (test, done, in all).
        double_bos: begin chat prompts with two BOS tokens, as the discovery did.
    """
    say = progress or (lambda stage, done, total: None)
    texts = interleaved(scenarios)[:n_scenarios]
    groups_in = partial(groups_of, model, texts, frames, double_bos=double_bos)
    seen: dict[str, States] = {}

    def at(style: str, make: list[EmotionGroup]) -> States:
        seen[style] = states(model, make, progress=partial(say, style))
        return seen[style]

    def read(pairs: Sequence[tuple[str, str]]) -> list[Reading]:
        out: list[Reading] = []
        for source, target in pairs:
            if set(source.split("+")) <= set(by_style):
                own = Directions.pooled([by_style[style] for style in source.split("+")])
                x = seen.get(target) or at(target, groups_in((target,)))
                out.append(read_groups(own, x, f"{source}→{target}"))
        return out

    out: list[Reading] = []
    for pairs, name in ((SYNONYMS, "synonyms"), (HELD_OUT, "held-out words")):
        several = read(pairs)
        out += [*several, *([joined(several, name)] if several else [])]
    out += read((*FRAMES, *(CHAT if has_template(model) else ())))
    directions = Directions.pooled(list(by_style.values()))
    if replies:
        asking, chosen = ReplyPrompts(frames, replies), situations(texts, len(texts))
        for name, groups in (
            (DEMONSTRATIONS, demonstration_groups(model, asking, chosen)),
            (REPLIES, reply_groups(model, frames, replies)),
        ):
            out.append(read_groups(directions, at(name, groups), name))
    if vignettes:
        x = vignette_states(model, frames, vignettes, partial(say, "vignettes"))
        out += read_vignettes(directions.resid_post, EMOTIONS, x, vignettes)
    return out
