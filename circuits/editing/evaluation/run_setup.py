"""What a comparison and a sequence of edits have in common: their options, text and contexts."""

import hashlib
from collections.abc import Callable
from typing import Any

from circuits.editing.evaluation.cases import Cases
from circuits.editing.evaluation.comparison_settings import EvaluationSettings
from circuits.editing.fact_prompts import contexts
from circuits.editing.layer_selection import LayerSelection
from interp.ablation.readouts import windows
from interp.data.prompts import TokenPrompt
from interp.model.model import Model
from interp.results.run_folder import fingerprint, identity

N_PASSAGES = 4
"""Windows of neutral text that every edited model reads."""
N_CONTEXTS = 2
"""Sampled contexts of a cloze beside the bare one."""
Progress = Callable[[str, int, int], None]


def run_options(
    model: Model, cases: Cases[Any], settings: EvaluationSettings, layers: LayerSelection | None
) -> dict[str, Any]:
    """Every option, by name; the moments of a layer selection are its layers' own."""
    covariances = layers.covariances.values() if layers else ()
    digests = [hashlib.blake2b(one.numpy().tobytes()).hexdigest() for one in covariances]
    text = settings.neutral_text()
    return {
        **settings.model_dump(mode="json"),
        "layers": layers and fingerprint([layers.summary(), digests]),
        "shots": fingerprint(settings.demonstrations()),
        "neutral": text and fingerprint(text),
        "cases": len(cases),
        "format": cases.format,
        "rows": fingerprint(list(cases)),
        **identity(model),
    }


def passages_of(model: Model, settings: EvaluationSettings) -> tuple[TokenPrompt, ...]:
    """The passages of neutral text on which drift is measured, if any."""
    text = settings.neutral_text()
    return () if text is None else tuple(windows(model, text)[:N_PASSAGES])


def templates_of(model: Model, seed: int) -> tuple[str, ...]:
    """The contexts of a cloze."""
    return tuple(contexts(model, seed=seed)[: 1 + N_CONTEXTS])
