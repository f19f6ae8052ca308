"""`EmotionVectors`: one vector per emotion and layer, and what they read in texts without words.

Per layer, with m_e the mean state over the texts of emotion e,

    v_e = (I - B'B) (m_e - mean of all m);

the rows of B are the principal components that explain half of the variance of neutral sentences.

Source: the method of arXiv 2604.07729.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.affect.emotion_words import FEW_OF, FOREIGN, LEAST, SHORT, EvokingTexts
from circuits.emotion.directions import unit
from circuits.emotion.texts import NEUTRAL, Vignette
from circuits.emotion.transfer import Reading, read_vignettes, tables
from interp.ablation.readouts import windows
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, PlanError, did_you_mean, shown
from interp.interventions.recording import activations
from interp.interventions.steering_vector import SITE, SteeringVector, mean_states
from interp.model.model import Model
from interp.progress import Progress, reported
from interp.results.report import Report, Section, Table, cell_text, excluded_counts
from interp.results.result import Result
from interp.results.run_folder import RunFolder, fingerprint, identity, page_of
from interp.statistics.ties import near_ties, rounding

EXPLAINED = 0.5
"""Part of the neutral sentences' variance whose components are projected out."""
AT_ONCE = 16
"""Texts whose states are in memory together."""
SINKS = 4
"""First tokens of a passage, left out of the level: attention sinks, some with extreme norms."""


def text_states(
    model: Model, texts: Sequence[str], last: bool
) -> Float[Tensor, "text layer d_model"]:
    """State behind each block: at a text's last token, or the mean over all but its first."""
    layers, at = range(model.arch.n_layers), "last" if last else "prompt"
    blocks = [texts[i : i + AT_ONCE] for i in range(0, len(texts), AT_ONCE)]
    none = torch.zeros(0, len(layers), model.arch.d_model)
    return torch.cat([none, *(mean_states(model, one, layers, at).float() for one in blocks)])


def neutral_components(x: Float[Tensor, "text d_model"]) -> Float[Tensor, "component d_model"]:
    """The fewest principal components that explain `EXPLAINED` of the variance, as unit rows."""
    _, size, axes = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    variance = size.square().cumsum(0)
    return axes[: int((variance < EXPLAINED * variance[-1]).sum()) + 1]


def differences(
    means: Float[Tensor, "emotion layer d_model"],
    components: Sequence[Float[Tensor, "component d_model"]],
) -> Float[Tensor, "emotion layer d_model"]:
    """v_e of every layer: the means minus their mean over emotions, without the components."""
    layers = (means - means.mean(0)).unbind(1)
    return torch.stack([v - v @ b.T @ b for v, b in zip(layers, components, strict=True)], 1)


def level(
    model: Model, vectors: Float[Tensor, "emotion layer d_model"], passages: Sequence[TokenPrompt]
) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "emotion layer"]]:
    """Mean state and standard deviation along each vector, over the passages' tokens."""
    found, layers = activations(model, passages, SITE), range(vectors.shape[1])
    x = [found[layer][:, SINKS:].flatten(0, 1).float() for layer in layers]
    along = [(own @ unit(vectors[:, layer]).T).std(0) for layer, own in enumerate(x)]
    return torch.stack([own.mean(0) for own in x]), torch.stack(along, 1)


def most_stable(stability: Sequence[float]) -> int:
    """The layer where vectors of two halves of the texts agree most, from a third of depth on."""
    first = len(stability) // 3
    return first + int(np.argmax(stability[first:]))


@brief
@dataclass(frozen=True)
class EmotionVectors(Result):
    """A vector per emotion and layer of the residual stream behind a block.

    Attributes:
        vectors: v_e.
        origin, spread: mean state and standard deviation along v_e, over all tokens of passages of
            the neutral text but each one's first `SINKS`.
        layers: per layer the ``stability`` (mean cosine between vectors of either half of the
            texts), the vectors' mean ``length`` as a part of the neutral states' mean norm, and
            the number of neutral ``components`` projected out.
        readings: accuracy per layer of reading vignettes, which name no emotion.
        texts, left_out: every text, and why it was excluded; how many were, by reason.
        without: emotions of the list that have no vector, since fewer than two texts could be read.
        layer: chosen by `most_stable`.
    """

    KIND: ClassVar[str] = "emotion vectors"
    vectors: Float[Tensor, "emotion layer d_model"] = field(repr=False)
    origin: Float[Tensor, "layer d_model"] = field(repr=False)
    spread: Float[Tensor, "emotion layer"] = field(repr=False)
    emotions: tuple[str, ...]
    words: tuple[str, ...]
    layers: pd.DataFrame = field(repr=False)
    readings: pd.DataFrame = field(repr=False)
    texts: pd.DataFrame = field(repr=False)
    left_out: dict[str, int]
    without: tuple[str, ...]
    layer: int
    source: str
    model: str
    family: str
    weights: str

    def of(self, model: Model) -> Self:
        """The same, which is a model's own; `PlanError` where it was made in other weights."""
        if self.weights != model.weights_hash:
            raise PlanError(
                f"these vectors are those of {self.model!r} with other weights; load that model."
            )
        return self

    def rows(self, emotions: Sequence[str]) -> list[int]:
        """Their places in `emotions`; `PlanError` for one that there is not, or for none."""
        for name in emotions or [""]:
            if name not in self.emotions:
                raise PlanError(f"no vector of {shown(name)}. {did_you_mean(name, self.emotions)}")
        return [self.emotions.index(name) for name in emotions]

    def coordinates(
        self, x: Float[Tensor, "state d_model"], emotions: Sequence[str], layer: int
    ) -> Float[Tensor, "state emotion"]:
        """Where states are along some vectors, in standard deviations over neutral tokens."""
        rows = self.rows(emotions)
        along = (x.float() - self.origin[layer]) @ unit(self.vectors[rows, layer]).T
        return along / self.spread[rows, layer]

    def steering(self, emotion: str) -> SteeringVector:
        """One emotion's vector in every layer, for plans, generation and export."""
        (row,) = self.rows([emotion])
        layers, how = tuple(range(self.vectors.shape[1])), f"emotion vector of {emotion}"
        return SteeringVector(self.vectors[row], layers, self.model, self.family, how)

    def report(self) -> Report:
        """How stable the vectors are, and what they read."""
        found = self.layers["stability"].to_numpy(float)
        stable = cell_text(float(found[self.layer]))
        names = [f"layer {at}" for at in range(len(found))][len(found) // 3 :]
        near = near_ties(names, found[len(found) // 3 :], rounding(1))
        emotions = [[*self.emotions], f"Without a vector: {cell_text(self.without)}."]
        shown = [Table("Layer by layer", self.layers)]
        if len(self.readings):
            shown.append(Table("Vignettes without an emotion word", self.readings))
        return Report(
            title=f"Vectors of {len(self.emotions)} emotions in {self.model}",
            lead=f"Texts: {self.source}. In layer {self.layer}, which was chosen, the "
            f"vectors of two halves of the texts have a mean cosine of {stable}. {near}".strip(),
            sections=[Section("Layers", shown), Section("Emotions", emotions)],
            method=(
                "A vector is the mean state over an emotion's texts minus the mean over all "
                f"emotions, without the principal components that explain {EXPLAINED:.0%} of the "
                "variance of neutral sentences (arXiv 2604.07729). Frames are read at their last "
                "token, other texts over all tokens but the first of the sequence. The chosen "
                "layer is the most stable one from a third of the depth on. Frames hold the "
                "emotion's word, so stability alone shows little.",
                "A vignette is read as the labelled emotion whose vector has the largest cosine "
                "with its state, minus the mean over emotions or that of neutral vignettes.",
            ),
            excluded=excluded_counts(self.left_out),
            provenance=self.provenance,
        )


def emotion_vectors(
    model: Model,
    source: EvokingTexts,
    neutral: str,
    vignettes: Sequence[Vignette],
    out: str | Path,
    *,
    force: bool = False,
    progress: Progress | bool = True,
) -> EmotionVectors:
    """A vector per emotion and layer, in a run folder that goes on emotion by emotion.

    `neutral` is text without emotion, read sentence by sentence, and in passages for the level; of
    `vignettes` those are read by the vectors that are labelled with one of the emotions;
    `progress` is called with (emotions done, in all).

    Raises:
        DataError: fewer than three emotions have two texts, or the neutral text three sentences.
        PlanError: the neutral text is shorter than two passages.
        RunFolderError: `out` holds another run, which `force` replaces.
    """
    sentences = [one for one in re.split(r"(?<=[.!?])\s+", neutral) if len(one.split()) > 1]
    if len(sentences) < LEAST:
        raise DataError(f"the neutral text has {len(sentences)} sentences; give {LEAST} or more.")
    passages = windows(model, neutral)
    data = fingerprint((source, neutral, list(vignettes)))
    named, n = {"kind": source.kind, "data": data} | identity(model), len(source.words)
    with RunFolder.open(out, "emotion vectors", named, unit="emotions", force=force) as run:
        if not run.finished:
            x = run.step("neutral", partial(_wrapped_states, model, source, sentences), Tensor)
            parts: list[dict[str, Any]] = []
            with reported(progress, "emotions", n, "emotions") as report:
                for number, emotion in enumerate(source.words, 1):
                    make = partial(_halves, model, source, emotion)
                    parts.append(run.step(f"emotion{number:04d}", make, dict[str, Any]))
                    run.count(number, n)
                    report(number, n)
            made = _vectors(model, source, x, passages, parts, vignettes)
            run.finish(made.save, page=page_of(EmotionVectors))
    return EmotionVectors.load(out)


def _wrapped_states(model: Model, source: EvokingTexts, texts: Sequence[str]) -> Tensor:
    wrapped = [source.wrap.format(text=text) for text in texts]
    return text_states(model, wrapped, source.kind == "frames")


def _halves(model: Model, source: EvokingTexts, emotion: str) -> dict[str, Any]:
    """Sum and number of the states of every second text, from the first and from the second on."""
    texts = source.of(model, emotion)
    some = texts.loc[texts["excluded"] == "", "text"]
    short = np.array([len(model.encode(text)) < 2 for text in some], dtype=bool)
    texts.loc[some.index[short], "excluded"] = SHORT
    x = text_states(model, some[~short].tolist(), source.kind == "frames")
    sums = torch.stack([x[half::2].sum(0) for half in (0, 1)])
    return {"texts": texts, "sums": sums, "n": [len(x[half::2]) for half in (0, 1)]}


def _vectors(
    model: Model,
    source: EvokingTexts,
    x: Float[Tensor, "text layer d_model"],
    passages: Sequence[TokenPrompt],
    parts: Sequence[dict[str, Any]],
    vignettes: Sequence[Vignette],
) -> EmotionVectors:
    """The vectors from neutral sentences' states `x` and passages, and each emotion's halves."""
    texts = pd.concat([one["texts"] for one in parts], ignore_index=True)
    used = [i for i, one in enumerate(parts) if min(one["n"]) > 0]
    emotions = tuple(list(source.words)[i] for i in used)
    texts.loc[~texts["emotion"].isin(emotions) & (texts["excluded"] == ""), "excluded"] = FEW_OF
    counts = texts["excluded"].value_counts().drop("", errors="ignore")
    left_out: dict[str, int] = {FOREIGN: source.foreign} | counts.to_dict()
    if len(used) < LEAST:
        raise DataError(
            f"{len(used)} of {len(parts)} emotions have two texts that can be read; {LEAST} are "
            f"needed. Left out: {cell_text(left_out)}."
        )
    sums = torch.stack([parts[i]["sums"] for i in used], 1)  # (half, emotion, layer, d_model)
    n = torch.tensor([parts[i]["n"] for i in used]).T[..., None, None]
    components = [neutral_components(own) for own in x.unbind(1)]
    vectors = differences(sums.sum(0) / n.sum(0), components)
    first, second = (unit(differences(half, components)) for half in sums / n)
    stability = (first * second).sum(-1).mean(0).tolist()
    length = (vectors.norm(dim=-1).mean(0) / x.norm(dim=-1).mean(0)).tolist()
    columns = {"layer": range(len(length)), "stability": stability, "length": length}
    labelled = [one for one in vignettes if one.emotion in (*emotions, NEUTRAL)]
    readings: list[Reading] = []
    if len({one.emotion for one in labelled} - {NEUTRAL}) > 1:
        states = _wrapped_states(model, source, [one.text for one in labelled])
        readings = read_vignettes(vectors, emotions, states, labelled)
    return EmotionVectors(
        vectors,
        *level(model, vectors, passages),
        emotions=emotions,
        words=tuple(source.words[name] for name in emotions),
        layers=pd.DataFrame(columns | {"components": [len(own) for own in components]}),
        readings=tables(readings),
        texts=texts,
        left_out=left_out,
        without=tuple(name for name in source.words if name not in emotions),
        layer=most_stable(stability),
        source=source.kind,
        model=model.name,
        family=str(model.hf.config.model_type),
        weights=model.weights_hash,
    )
