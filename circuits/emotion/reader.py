"""Texts as another model understands them: mean activations, for a judge that reads meaning.

A judge of words and parts of words learns one source's openers and is lost on another source's
replies. The middle layers of a language model put texts that mean alike close together, so a
linear classifier on them carries over further. The reader must not be the model under test.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from circuits.emotion.judge import Make
from interp.data.prompts import TokenPrompt, batches, pad
from interp.errors import PlanError
from interp.forward.budget import default_budget
from interp.forward.hooks import hooked
from interp.forward.layer_calls import positions_and_mask
from interp.model.model import Model
from interp.model.sites import SITES

BEFORE = 'I said: "'
"""So that the reader takes the text for speech."""


STRENGTH = 0.01
"""Inverse regularisation: there are more features than replies."""


class _Reached(Exception):
    """Ends a run at the last layer that is read."""


@torch.no_grad()
def read_texts(
    model: Model, texts: Sequence[str], layers: Sequence[int]
) -> Float[np.ndarray, "text layer d_model"]:
    """Mean over a text's tokens of the residual stream after each of some blocks.

    Args:
        model: the reader.
        texts: what it reads.
        layers: after which blocks.

    Raises:
        PlanError: a text is empty.
    """
    start = list(model.encode(BEFORE))
    prompts: list[TokenPrompt] = []
    for text in texts:
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise PlanError("an empty text cannot be read; leave it out.")
        prompts.append(TokenPrompt((*start, *ids)))
    out = np.empty((len(texts), len(layers), model.arch.d_model), dtype=np.float32)
    for group in batches(prompts, default_budget(model)):
        out[group] = _means(model, [prompts[i] for i in group], len(start), layers)
    return out


def _means(
    model: Model, prompts: list[TokenPrompt], skip: int, layers: Sequence[int]
) -> Float[np.ndarray, "text layer d_model"]:
    ids, mask = pad(model, prompts)
    spoken = mask & (mask.long().cumsum(1) > skip)
    weight = (spoken / spoken.sum(1, keepdim=True))[..., None]
    found: dict[int, Tensor] = {}

    def read(layer: int, activation: Float[Tensor, "text pos d_model"]) -> None:
        found[layer] = (activation.float() * weight).sum(1)
        if layer == max(layers):
            raise _Reached

    edits = [
        (SITES["resid_post"], layer, lambda x, layer=layer: read(layer, x)) for layer in layers
    ]
    try:
        with hooked(model, edits):
            said = positions_and_mask(model, mask)
            model.hf.base_model(input_ids=ids, use_cache=False, **said)
    except _Reached:
        pass
    return torch.stack([found[layer] for layer in layers], 1).cpu().numpy()


class Reads(TransformerMixin, BaseEstimator):
    """Texts -> their mean activations in one layer, each text read once."""

    def __init__(self, model: Model, layer: int, seen: dict[str, Any]):
        self.model, self.layer, self.seen = model, layer, seen

    def fit(self, texts: Sequence[str], y: Any = None) -> "Reads":
        """Nothing to fit."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, texts: Sequence[str]) -> Float[np.ndarray, "text d_model"]:
        """Activations of the texts; an empty one reads as a full stop."""
        shown = [text or "." for text in texts]
        new = [text for text in dict.fromkeys(shown) if text not in self.seen]
        if new:
            found = read_texts(self.model, new, [self.layer])[:, 0]
            self.seen.update(zip(new, found, strict=True))
        return np.stack([self.seen[text] for text in shown])


def by_reading(model: Model, layer: int) -> Make:
    """A maker of classifiers on what `model` makes of texts; they share what was read.

    Args:
        model: the reader; not the model under test.
        layer: after which block.
    """
    seen: dict[str, Any] = {}

    def make() -> Pipeline:
        regression = LogisticRegression(C=STRENGTH, max_iter=1000, class_weight="balanced")
        return make_pipeline(Reads(model, layer, seen), StandardScaler(), regression)

    return make
