"""From final residual streams to metric values, computing only the logits a metric reads."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.data.answers import AnswerTable
from interp.errors import ModelError
from interp.metrics import AnswerScores, Metric, NextToken
from interp.model.model import Model
from interp.model.weights import bias_in

LOGITS_AT_ONCE = 2**26
"""How many full-vocabulary logits are held at a time (256 MB in fp32)."""


def measure(
    model: Model,
    metric: Metric,
    resid: Float[Tensor, "row node d_model"],
    answers: AnswerTable,
    clean_resid: Float[Tensor, "row d_model"] | None = None,
) -> Float[Tensor, " row"]:
    """A metric's value for each row, in fp32, from final residual streams at its answers' nodes.

    `answers` are each row's, `clean_resid` is the clean run's stream at the prompts' last token,
    for metrics that compare with it. `ModelError` where float16 is too narrow for the model.
    """
    if resid.dtype == torch.float16 and not bool(resid.isfinite().all()):
        raise ModelError(
            f"{model.name} overflows in float16: its residual stream is not finite at an answer; "
            "load it in bfloat16 or float32."
        )
    if metric.reads in ("answers", "ranks"):
        own = answers.only(metric.n_answers)
        ranks = metric.reads == "ranks"
        return metric.compute(answer_scores(model, resid, own, metric.relative, ranks)).cpu()
    step, last = _rows_at_once(model), resid[:, 0]
    reference = last if clean_resid is None else clean_resid
    values: list[Tensor] = []
    for part, clean, first in zip(
        last.split(step), reference.split(step), answers.first.split(step), strict=True
    ):
        logits = model.logits(part)
        compared = model.logits(clean) if metric.reads == "clean" else logits
        values.append(metric.compute(NextToken(logits, compared, first.to(logits.device))).cpu())
    return torch.cat(values)


def answer_scores(
    model: Model,
    resid: Float[Tensor, "row node d_model"],
    answers: AnswerTable,
    relative: bool = False,
    ranks: bool = False,
) -> AnswerScores:
    """Log-probabilities of every alias of every answer, on the unembedding's device.

    Where only differences between answers count (`relative`), the log-normalisers of nodes that
    all aliases of a row pass are left out, and with them all logits but those of their tokens.
    """
    device = model.unembed_device
    node, token, real = (x.to(device) for x in (answers.node, answers.token, answers.real))
    there = real.any(-1)
    n_nodes = resid.shape[1]
    flat = resid.flatten(0, 1)
    normalised = _normalised(node, real, n_nodes, relative)
    row, answer, alias, t = real.nonzero(as_tuple=True)
    at, of = row * n_nodes + node[real], token[real]
    whole = normalised.flatten()[at]
    pieces = [chosen_logits(model, flat, at[~whole], of[~whole])]
    preferred: list[Tensor] = []
    order = [(~whole).nonzero()[:, 0]]
    places = normalised.flatten().nonzero()[:, 0]
    for some in places.split(_rows_at_once(model)):
        if not len(some):
            break
        logits = model.logits(flat[some.to(flat.device)])
        mine = (whole & (at >= some[0]) & (at <= some[-1])).nonzero()[:, 0]
        line = torch.searchsorted(some, at[mine])
        own = logits[line, of[mine]]
        pieces.append(own - logits.logsumexp(-1)[line])
        order.append(mine)
        if ranks:
            preferred.append(_preferred(logits[line], own, of[mine]))
    values = torch.cat(pieces)
    row, answer, alias, t = (x[torch.cat(order)] for x in (row, answer, alias, t))
    empty = torch.zeros(real.shape, dtype=values.dtype, device=device)
    logprob = empty.index_put((row, answer, alias, t), values).sum(-1)
    rank = None
    if ranks:
        of_token = empty.index_put((row, answer, alias, t), torch.cat(preferred))
        rank = of_token.amax(-1).masked_fill(~there, torch.inf)
    return AnswerScores(logprob.masked_fill(~there, -torch.inf), real.sum(-1), rank)


def _preferred(
    logits: Float[Tensor, "n vocab"], own: Float[Tensor, " n"], of: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """How many tokens greedy decoding takes before one: likelier ones, and equals of lower number.

    Ties are common in 16 bits: from 16 to 32 bfloat16 holds every eighth alone.
    """
    before = torch.arange(logits.shape[1], device=logits.device) < of[:, None]
    more = (logits > own[:, None]) | ((logits == own[:, None]) & before)
    return more.sum(-1).float()


def _normalised(
    node: Int[Tensor, "row answer alias token"],
    real: Bool[Tensor, "row answer alias token"],
    n_nodes: int,
    relative: bool,
) -> Bool[Tensor, "row node"]:
    """At which nodes the whole vocabulary must be read."""
    passed = torch.zeros(*real.shape[:3], n_nodes + 1, dtype=torch.bool, device=real.device)
    passed = passed.scatter(3, node.masked_fill(~real, n_nodes), True)[..., :n_nodes].flatten(1, 2)
    needed = passed.any(1)
    if relative:
        there = real.any(-1).flatten(1)
        needed &= ~(passed | ~there[..., None]).all(1)
    return needed


def chosen_logits(
    model: Model,
    resid: Float[Tensor, "place d_model"],
    at: Int[Tensor, " n"],
    tokens: Int[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Logits of single tokens: their unembedding rows alone are multiplied, in fp32."""
    weight, device = model.unembedding, model.unembed_device
    places, line = at.unique(return_inverse=True)
    normed = model.ln_final(resid[places.to(resid.device)].to(device)).float()
    wanted, index = tokens.to(device).unique(return_inverse=True)
    logits = normed @ weight[wanted].float().T
    bias = bias_in(model.unembed)
    if bias is not None:
        logits = logits + bias[wanted].float()
    return model.arch.logits_transform(logits)[line.to(device), index]


def answer_logits(
    model: Model, resid: Float[Tensor, "row d_model"], answers: Int[Tensor, "row answer"]
) -> Float[Tensor, "row answer"]:
    """Logits of each row's answers of one token."""
    at = torch.arange(len(resid), device=resid.device).repeat_interleave(answers.shape[1])
    return chosen_logits(model, resid, at, answers.flatten()).view(answers.shape)


def _rows_at_once(model: Model) -> int:
    return max(1, LOGITS_AT_ONCE // model.n_vocab)
