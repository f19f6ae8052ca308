"""Which tokens a neuron writes for and against, read off its weights alone."""

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import PlanError
from interp.forward.blocks import norm, weight_of
from interp.model.model import Model
from interp.model.sites import SITES


def top_tokens(model: Model, site: str, layer: int, unit: int, n: int = 10) -> pd.DataFrame:
    """The tokens that a neuron promotes and suppresses when it is active.

    Its output row (column of the down-projection) goes through the final norm and the unembedding
    as if it were all that the residual stream holds; a post-norm of the MLP comes first. Where the
    neuron's activation is negative, the two lists swap. Computed in the model's dtype.

    Args:
        model: from `interp.load_model`.
        site: ``"mlp_post"``.
        layer: the neuron's layer.
        unit: the neuron's number in its layer.
        n: how many tokens of each kind.

    Returns:
        2 n rows: ``effect`` (promoted or suppressed), ``rank`` from 0, ``token``, ``token_id`` and
        ``logit`` (of the normed row; only its order can be compared between neurons).

    Raises:
        PlanError: another site, no such layer or neuron, or `n` is not a number of tokens that the
            vocabulary has.

    Source: Geva et al., arXiv 2203.14680.
    """
    if site != "mlp_post":
        raise PlanError(f"{site!r} has no output rows to read tokens off; give 'mlp_post'.")
    model.check_layers([layer])
    n_units = model.n_units(SITES[site])
    if not 0 <= unit < n_units:
        raise PlanError(f"no neuron {unit}: {model.name} has neurons 0 to {n_units - 1} per layer.")
    logits = _logits(model, weight_of(model, site, layer)[:, unit], layer)
    if not 1 <= n <= len(logits):
        raise PlanError(f"n={n}: ask for 1 to {len(logits)} tokens.")
    found: list[dict[str, object]] = []
    for effect, sign in (("promoted", 1), ("suppressed", -1)):
        for rank, token in enumerate((sign * logits).topk(n).indices.tolist()):
            found.append(
                {
                    "effect": effect,
                    "rank": rank,
                    "token": model.token(token),
                    "token_id": token,
                    "logit": float(logits[token]),
                }
            )
    return pd.DataFrame(found)


@torch.no_grad()
def _logits(model: Model, row: Float[Tensor, " d_model"], layer: int) -> Float[Tensor, " vocab"]:
    """The row's own share of the logits: what norms and unembedding add to nothing is left out."""
    zero = torch.zeros_like(row)
    for step in (norm(model, layer, model.arch.parts.ln2_post), model.ln_final):
        row = step(row) - step(zero)
    weight = model.unembed.weight
    return (weight @ row.to(weight.device)).float().cpu()
