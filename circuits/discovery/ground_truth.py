"""Compiled programs as ground truth: their circuit is known, so methods can be scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attribution.attribute import edges_by
from interp.attribution.contrast import Contrast, forward_equivalents
from interp.errors import DataError, shown
from interp.forward.layer_calls import record_layer_calls
from interp.loading.devices import usable
from interp.loading.tracr import Program, load_program, read_program
from interp.model.graph import Graph
from interp.model.model import Model
from interp.statistics import auroc

STORED = {"exact": "exact", "eap": "eap", "eap-ig": "eap_ig5", "clean-corrupted": "cc"}
"""Which stored scores each method must reproduce."""


@dataclass(frozen=True)
class MethodScore:
    """How well a method does on a compiled program.

    Attributes:
        auroc: of |score| against the edges whose resampling changes the output.
        max_abs_error: largest difference to the scores stored with the program; ``None`` where
            none are stored for this method.
        forwards: cost, in floating-point operations of one forward pass of the clean examples.
        half_edges: |E| / 2, the cost a cheap method must stay below.
        n_pairs: examples.
    """

    method: str
    auroc: float
    max_abs_error: float | None
    forwards: float
    half_edges: float
    n_pairs: int


def score_methods(
    path: str | Path, methods: Sequence[str], device: str | None = None
) -> list[MethodScore]:
    """Score attribution methods (`EDGE_METHODS`) on a compiled program: a name or ``.npz`` file.

    Runs in float64: the programs' steep selectors lose 1e-5 of a score in fp32.

    Raises:
        DataError: the description lacks the true circuit or the scores.
        PlanError: unknown method.
    """
    where = usable(device or "cpu")
    program, model = read_program(path), load_program(path)
    model.hf.to(device=where, dtype=torch.float64)
    truth, stored = program.gt_edges_resample_nonzero, program.edge_scores
    described = Path(path).with_suffix(".json")
    if not truth or stored is None:
        raise DataError(
            f"{described} lacks gt_edges_resample_nonzero or edge_scores, which scoring needs."
        )
    graph = Graph.of(model.arch)
    unknown = sorted({*truth, *stored} - {*graph.edge_names})
    if unknown:
        raise DataError(f"{described}: {shown(unknown[0])} is not an edge of its graph.")
    contrast = program_contrast(model, program)
    labels = np.array([name in truth for name in graph.edge_names])

    def scored(method: str) -> MethodScore:
        def score() -> Float[Tensor, "source destination"]:
            return torch.stack(list(edges_by(model, contrast, method)[0])).mean(0)

        per_edge, error = score()[graph.exists].numpy(), None
        if method in STORED:
            # Edges that are not stored score 0.
            want = [stored.get(n, {}).get(STORED[method], 0.0) for n in graph.edge_names]
            error = float(np.abs(per_edge - np.array(want)).max())
        area, cost = auroc(np.abs(per_edge).round(6), labels), graph.n_edges / 2
        forwards = forward_equivalents(model, contrast, score)
        return MethodScore(method, area, error, forwards, cost, len(contrast))

    return list(map(scored, methods))


def program_contrast(model: Model, program: Program) -> Contrast:
    """All clean/corrupt examples of a compiled program as one contrast.

    The metric is linear in the outputs and read at every token after BOS. Of a categorical
    program it is output[clean answer] - output[corrupt answer], summed over the tokens where
    these differ; of a numeric one, sign(clean - corrupt) x output.
    """
    prompts = [ids for pair in program.pairs for ids in (pair.clean_ids, pair.corrupt_ids)]
    ids = torch.tensor(prompts, device=model.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        out = model.hf(input_ids=ids).logits
    clean, corrupt = out[0::2, 1:], out[1::2, 1:]
    if out.shape[-1] == 1:
        weights = (clean - corrupt).sign()
    else:
        answer, wrong = (
            torch.nn.functional.one_hot(x.argmax(-1), x.shape[-1]) for x in (clean, corrupt)
        )
        weights = (answer - wrong).to(clean)

    def read(
        resid: Float[Tensor, "row pos d_model"], pair: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        return (model.logits(resid[:, 1:]) * weights[pair]).sum((1, 2))

    return Contrast(record_layer_calls(model, ids, mask), mask[0::2], read)
