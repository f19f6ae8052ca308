"""What edits do beside their answers: fluency of what is generated, and drift on neutral text."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.editing.change import Changes, under
from interp.data.prompts import TokenPrompt
from interp.forward.readout import LOGITS_AT_ONCE
from interp.model.model import Model

SIDE_EFFECTS = ("fluency", "kl", "perplexity_ratio")
"""`ngram_entropy` of what an edited model writes, in bits; and on neutral text (`drift`) the
divergence from the plain model, in nats per token, and the perplexity over the plain one's."""


@torch.no_grad()
def drift(
    model: Model, passages: Sequence[TokenPrompt], edits: Sequence[Changes]
) -> tuple[Float[Tensor, " edit"], Float[Tensor, " edit"]]:
    """Read passages of two or more tokens with and without each edit.

    Returns:
        Per edit, mean over the passages' tokens: KL(plain || edited) of the next token, in nats,
        and the perplexity of the edited model over that of the plain one.
    """
    kl, nll = torch.zeros(len(edits)), torch.zeros(len(edits))
    n_predicted = sum(len(passage.ids) - 1 for passage in passages)
    for passage in passages:
        ids = torch.tensor(passage.ids)
        plain = _log_p(model, ids, [()], torch.zeros(1, dtype=torch.long))
        at_once = max(1, LOGITS_AT_ONCE // plain.numel())
        for some in torch.arange(len(edits)).split(at_once):
            edited = _log_p(model, ids, edits, some)
            kl[some] += (plain.exp() * (plain - edited)).sum((1, 2)).cpu()
            nll[some] += (_of_text(plain, ids) - _of_text(edited, ids)).cpu()
    return kl / n_predicted, (nll / n_predicted).exp()


def _log_p(
    model: Model, ids: Int[Tensor, " pos"], edits: Sequence[Changes], owner: Int[Tensor, " row"]
) -> Float[Tensor, "row pos vocab"]:
    """Log-probabilities of each next token, one row per edit."""
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


def ngram_entropy(text: str) -> float:
    """GE: fluency of a generation, in bits; papers print a hundred times its mean.

    The mean of 2/3 of the entropy of its bigrams and 4/3 of that of its trigrams; repetition
    lowers it. Words and punctuation marks are the tokens; the papers use NLTK's, which also part
    contractions, so compare figures of one tokenisation only.

    Source: arXiv 2202.05262, section 3.4, after Zhang et al. 2018.
    """
    tokens = re.findall(r"\w+|[^\w\s]", text)
    weighted = [w * _entropy(tokens, n) for n, w in ((2, 2 / 3), (3, 4 / 3))]
    return float(np.mean(weighted))


def _entropy(tokens: Sequence[str], n: int) -> float:
    grams = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
    if not grams:
        return 0.0
    p = np.array(list(grams.values())) / grams.total()
    return float(-(p * np.log2(p)).sum())
