"""`drift`: what edits do to a model's predictions on text that has nothing to do with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.editing.change import Changes, under
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.forward.readout import LOGITS_AT_ONCE
from interp.model.model import Model


@brief
@dataclass(frozen=True)
class Drift:
    """Of each edit, mean over the passages' tokens.

    Attributes:
        kl: divergence of the edited from the plain distribution of the next token,
            KL(plain || edited), in nats.
        perplexity: that of the edited model over that of the plain one.
    """

    kl: Float[Tensor, " edit"]
    perplexity: Float[Tensor, " edit"]


@torch.no_grad()
def drift(model: Model, passages: Sequence[TokenPrompt], edits: Sequence[Changes]) -> Drift:
    """Read passages with and without each edit.

    Args:
        model: the model; its weights are not touched.
        passages: of two or more tokens, such as `interp.ablation.readouts.windows` cuts.
        edits: changes by edit.
    """
    kl, gain = torch.zeros(len(edits)), torch.zeros(len(edits))
    n_predicted = sum(len(passage.ids) - 1 for passage in passages)
    for passage in passages:
        ids = torch.tensor(passage.ids)
        plain = _log_p(model, ids, [()], torch.zeros(1, dtype=torch.long))
        at_once = max(1, LOGITS_AT_ONCE // plain.numel())
        for some in torch.arange(len(edits)).split(at_once):
            edited = _log_p(model, ids, edits, some)
            kl[some] += (plain.exp() * (plain - edited)).sum((1, 2)).cpu()
            gain[some] += (_of_text(plain, ids) - _of_text(edited, ids)).cpu()
    return Drift(kl / n_predicted, (gain / n_predicted).exp())


def _log_p(
    model: Model, ids: Int[Tensor, " pos"], edits: Sequence[Changes], owner: Int[Tensor, " row"]
) -> Float[Tensor, "row pos vocab"]:
    """Log-probabilities of each next token, one row an edit."""
    rows = ids.to(model.device).expand(len(owner), -1)
    with under(model, edits, owner):
        normed = model.hf.base_model(input_ids=rows, use_cache=False).last_hidden_state
    logits = model.arch.logits_transform(model.unembed(normed[:, :-1]).float())
    return logits.log_softmax(-1)


def _of_text(
    log_p: Float[Tensor, "row pos vocab"], ids: Int[Tensor, " pos"]
) -> Float[Tensor, " row"]:
    """Log-probability of the passage itself."""
    taken = ids[1:].to(log_p.device).expand(len(log_p), -1)
    return log_p.gather(2, taken[..., None])[..., 0].sum(1)
