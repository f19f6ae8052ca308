"""The published statistics, computed as its released notebooks do: layers, heads and neurons.

Fartale et al., "Disentangling Recall and Reasoning in Transformer Models through Layer-wise
Attention and Activation Analysis", arXiv 2510.03366. All features are taken at the last token of
the prompt, and compared between recall and reasoning prompts. Nothing is intervened on: whatever
differs between the two sets of prompts, their length first of all, makes components "significant".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from interp.brief import brief
from interp.errors import PlanError
from interp.forward.hooks import hook_point
from interp.model.model import Model
from interp.model.sites import SITES
from interp.statistics import benjamini_hochberg

LAYER_METRICS = ("norm", "mean", "entropy", "concentration", "gate", "sparsity")
HEAD_METRICS = ("entropy", "max_weight", "self_focus", "spread", "gini")
SPARSE = 0.01

Features = Mapping[str, Float[np.ndarray, "prompt ..."]]
"""Name -> values: of layers [prompt, layer], of heads [prompt, layer, head]."""


@brief
@dataclass(frozen=True)
class LastToken:
    """What the published statistics look at, of each prompt's last token.

    Attributes:
        layers: name -> [prompt, layer].
        heads: name -> [prompt, layer, head].
        gates: what the gate projection gives, before its activation, [prompt, layer, neuron].
        lengths: tokens of each prompt.
    """

    layers: Features
    heads: Features
    gates: Float[np.ndarray, "prompt layer neuron"]
    lengths: Float[np.ndarray, " prompt"]


def last_token(model: Model, prompts: Sequence[str]) -> LastToken:
    """Run prompts one by one with eager attention, as the notebooks do.

    Raises:
        PlanError: the model has no gated MLPs.
    """
    _gate(model, 0)  # before anything runs
    rows = [_features(model, text) for text in prompts]
    layers = {name: np.stack([row[0][name] for row in rows]) for name in LAYER_METRICS}
    heads = {name: np.stack([row[1][name] for row in rows]) for name in HEAD_METRICS}
    lengths = np.array([float(len(model.encode(text))) for text in prompts])
    return LastToken(layers, heads, np.stack([row[2] for row in rows]), lengths)


def _gate(model: Model, layer: int) -> torch.nn.Module:
    mlp = model.blocks[layer].get_submodule("mlp")
    gate = getattr(mlp, "gate_proj", None)
    if gate is None:
        raise PlanError(
            f"{model.name} has no gate projection in its MLPs; the published neuron statistics "
            "need one (Llama, Qwen, Gemma and Mistral have)."
        )
    return gate


@torch.no_grad()
def _features(model: Model, text: str) -> tuple[Features, Features, np.ndarray]:
    ids = torch.tensor([model.encode(text)], device=model.device)
    gates: list[Tensor] = []
    states: list[Tensor] = []
    handles = [
        _gate(model, i).register_forward_hook(
            lambda module, inputs, output: gates.append(output[0, -1].float().cpu())
        )
        for i in range(model.arch.n_layers)
    ]
    for layer in range(model.arch.n_layers):
        module, point = model.point(SITES["resid_post"], layer)
        handles.append(hook_point(module, point, lambda a: states.append(a[0, -1].float().cpu())))
    before = model.attention_implementation
    try:
        with model.attention_named("eager"):
            found = model.hf(input_ids=ids, output_attentions=True, use_cache=False).attentions
    finally:
        for handle in handles:
            handle.remove()
    assert model.attention_implementation == before
    weights = torch.stack([a[0, :, -1].float().cpu() for a in found])  # (layer, head, key)
    heads = _of_heads(weights.numpy())
    gate, state = torch.stack(gates).numpy(), torch.stack(states).numpy()
    entropy = heads["entropy"].mean(1)
    layers = {
        "norm": np.linalg.norm(state, axis=1),
        "mean": state.mean(1),
        "entropy": entropy,
        "concentration": 1 / (1 + entropy),
        "gate": np.abs(gate).mean(1),
        "sparsity": (np.abs(gate) < SPARSE).mean(1),
    }
    return layers, heads, gate


def _of_heads(weights: Float[np.ndarray, "layer head key"]) -> dict[str, np.ndarray]:
    """Shape of each head's attention from the last token."""
    n = weights.shape[-1]
    rising = np.sort(weights, axis=-1)
    rank = 2 * np.arange(1, n + 1) - n - 1
    return {
        "entropy": -(weights * np.log(weights + 1e-10)).sum(-1),
        "max_weight": weights.max(-1),
        "self_focus": weights[..., -1],
        "spread": weights.std(-1),
        "gini": (rising * rank).sum(-1) / (n * rising.sum(-1) + 1e-10),
    }


# --- tests -------------------------------------------------------------------------------------


def cohens_d(
    first: Float[np.ndarray, "prompt ..."], second: Float[np.ndarray, "prompt ..."], ddof: int = 0
) -> Float[np.ndarray, "..."]:
    """(mean of second - mean of first) / root of their mean variance; 0 where nothing varies.

    Source: Cohen 1988, section 2.5.
    """
    spread = np.sqrt((first.var(0, ddof=ddof) + second.var(0, ddof=ddof)) / 2)
    gap = second.mean(0) - first.mean(0)
    return np.divide(gap, spread, out=np.zeros_like(gap), where=spread > 0)


def _mann_whitney(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.nan_to_num(stats.mannwhitneyu(first, second, axis=0).pvalue, nan=1.0)


def layer_table(recall: LastToken, reasoning: LastToken) -> pd.DataFrame:
    """The published layer test (H1), a row a layer.

    A metric is significant if Benjamini-Hochberg at 0.01 rejects and |d| > 0.5. A layer is labelled
    by the majority sign of the metrics with |d| > 0.8, of which it needs two.
    """
    d = np.stack([cohens_d(recall.layers[m], reasoning.layers[m]) for m in LAYER_METRICS])
    p = np.stack([_mann_whitney(recall.layers[m], reasoning.layers[m]) for m in LAYER_METRICS])
    significant = (benjamini_hochberg(p) < 0.01) & (np.abs(d) > 0.5)
    rows = [
        {
            "layer": layer,
            "label": _label(d[:, layer], 0.8, 2),
            "significant_metrics": int(significant[:, layer].sum()),
            **{f"d_{m}": d[i, layer] for i, m in enumerate(LAYER_METRICS)},
        }
        for layer in range(d.shape[1])
    ]
    return pd.DataFrame(rows)


def head_table(recall: LastToken, reasoning: LastToken) -> pd.DataFrame:
    """The published head test (H2, second version), a row a head.

    Benjamini-Hochberg at 1e-4 over all heads and metrics, |d| >= 1 with the sample variance,
    |d| > 15 set to 0; a head is specialised if three metrics or more are left.
    """
    d = np.stack([cohens_d(recall.heads[m], reasoning.heads[m], 1) for m in HEAD_METRICS])
    d = np.where(np.abs(d) > 15, 0, d)
    p = np.stack([_mann_whitney(recall.heads[m], reasoning.heads[m]) for m in HEAD_METRICS])
    kept = np.where((benjamini_hochberg(p) < 1e-4) & (np.abs(d) >= 1), d, 0)
    n_layers, n_heads = d.shape[1:]
    rows: list[dict[str, object]] = []
    for layer in range(n_layers):
        for head in range(n_heads):
            own = kept[:, layer, head]
            agreeing = int((own != 0).sum())
            rows.append(
                {
                    "layer": layer,
                    "head": head,
                    "label": _label(own, 0, 3),
                    "specialised": agreeing >= 3,
                    "effect": float(np.abs(own[own != 0]).mean()) if agreeing else 0.0,
                }
            )
    return pd.DataFrame(rows)


def _label(d: np.ndarray, least: float, needed: int) -> str:
    large = d[np.abs(d) > least]
    if len(large) < needed or (large > 0).sum() == (large < 0).sum():
        return "mixed"
    return "reasoning" if (large > 0).sum() > (large < 0).sum() else "recall"


def neuron_counts(recall: LastToken, reasoning: LastToken) -> dict[str, float]:
    """The published neuron test (H3): Bonferroni at 1e-4 over all neurons and |d| > 1.

    Neurons whose variance is below 0.01 in both sets, or whose mean absolute value is below 0.1,
    are skipped.
    """
    a, b = (one.gates.reshape(len(one.gates), -1) for one in (recall, reasoning))
    size = np.abs(np.concatenate([a, b])).mean(0)
    tested = ~((a.var(0) < 0.01) & (b.var(0) < 0.01)) & (size >= 0.1)
    a, b, total = a[:, tested], b[:, tested], a.shape[1]
    d = cohens_d(a, b)
    found = (_mann_whitney(a, b) * total < 1e-4) & (np.abs(d) > 1)
    firing = np.abs((a > 0).mean(0) - (b > 0).mean(0))
    return {
        "neurons": total,
        "tested": int(tested.sum()),
        "significant": int(found.sum()),
        "share": float(found.sum() / total),
        "recall": int((found & (d < 0)).sum()),
        "reasoning": int((found & (d > 0)).sum()),
        "firing_specificity_top_50": float(np.sort(firing)[-50:].mean()) if len(firing) else 0.0,
    }
