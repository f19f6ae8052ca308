"""The log-probability increase of an answer: two softmaxes under one fixed final-norm scale.

    I(v) = log p(w | x + v) - log p(w | x)                        nats

where p(. | x) reads x through the final norm, its scale that of the whole run, and the unembedding
(before a soft-cap). As log-softmax is concave in the logits and these are linear in v,

    I(v) <= v . g,    g = d log p(w | x) / dx

so one gradient per base bounds every neuron's score from above, and the strongest neurons are found
exactly by scoring only those whose bound could still put them among the strongest.

Source: Yu & Ananiadou, arXiv 2312.12141, eq. 7; the bound is Jensen's inequality.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from circuits.query_value.trace import Trace
from interp.attribution.estimators import fixed_scale_transpose, with_fixed_scale
from interp.brief import brief
from interp.model.weights import bias_in

LOGITS_AT_ONCE = 2**24
"""Full-vocabulary logits held at a time (64 MB in fp32)."""


@brief
@dataclass(frozen=True)
class Lens:
    """Base states of one prompt, read at its last token: `log_p` of every token, at each base."""

    run: Trace
    answer: int
    log_p: Float[Tensor, "base vocab"]

    @classmethod
    def of(cls, run: Trace, answer: int, bases: Float[Tensor, "base d_model"]) -> "Lens":
        """Read base states of a run."""
        normed = scaled(run, bases)
        bias = bias_in(run.model.ln_final)
        logits = run.model.unembed(normed if bias is None else normed + bias)
        return cls(run, answer, logits.float().log_softmax(-1))

    def gradient(self) -> Float[Tensor, "base d_model"]:
        """The gradient of log p(answer) at each base, the final norm's scale held fixed."""
        model = self.run.model
        weight = model.unembedding
        mean = torch.cat([log_p.exp().to(weight) @ weight for log_p in self.log_p.split(64)])
        read = weight[self.answer] - mean
        at = self.run.final.expand_as(read)
        return fixed_scale_transpose(model, model.ln_final, at, read[:, None])[:, 0]

    def increase(
        self, writes: Float[Tensor, "write d_model"], base: Int[Tensor, " write"]
    ) -> Float[Tensor, " write"]:
        """I of each write at its base, exactly."""
        step = max(1, LOGITS_AT_ONCE // self.log_p.shape[1])
        found = [writes.new_zeros(0, dtype=torch.float32)]
        rows = scaled(self.run, writes)
        for part, at in zip(rows.split(step), base.split(step), strict=True):
            change = linear(part, self.run.model.unembedding).float()
            answer = change[:, self.answer].clone()
            found.append(answer - change.add_(self.log_p[at]).logsumexp(-1))
        return torch.cat(found)


def scaled(run: Trace, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """The final norm's linear part, its scale that of the run's final state."""
    norm, at = run.model.ln_final, run.final[None, None]
    return with_fixed_scale(run.model, norm, at, rows[:, None])[:, 0]


def strongest(
    bounds: Float[Tensor, " unit"],
    n: int,
    score: Callable[[Int[Tensor, " some"]], Float[Tensor, " some"]],
    at_once: int = 64,
) -> tuple[Int[Tensor, " top"], Float[Tensor, " top"], int]:
    """The `n` units of the largest positive score, by falling score, given an upper bound of each.

    `score` gives the exact scores of some units; `at_once` of them are scored between two looks at
    the bounds. Also returns the units' scores, and how many units were scored.
    """
    order = bounds.argsort(descending=True, stable=True)
    order = order[bounds[order] > 0]
    scores = bounds.new_zeros(0)
    for part in order.split(at_once):
        if len(scores) >= n and bool(scores.topk(n).values[-1] >= bounds[part[0]]):
            break
        scores = torch.cat([scores, score(part).to(bounds)])
    ranked = scores.argsort(descending=True, stable=True)[:n]
    ranked = ranked[scores[ranked] > 0]
    return order[ranked], scores[ranked], len(scores)
