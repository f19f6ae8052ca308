"""What components write into the logits directly: of a run, of one unit, and of weights alone.

The final norm's scale is that of the whole run, held fixed, so contributions add up exactly, also
those of logits, which are the model's own, scaled as it scales them, before any soft-cap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attribution.estimators import with_fixed_scale
from interp.brief import brief
from interp.data.pairs import TokenPair, answer_tokens
from interp.data.prompts import prompts_of
from interp.errors import PlanError
from interp.forward.blocks import head_writes, norm, weight_of
from interp.forward.readout import LOGITS_AT_ONCE
from interp.interventions.recording import recorded
from interp.model.model import Model
from interp.model.sites import SITES
from interp.model.weights import bias_in
from interp.statistics.ties import first_largest


@brief
@dataclass(frozen=True)
class LastTokenStates:
    """Clean prompts at their last token, layer by layer.

    `resid` is the residual stream before every layer, and after the last one; `mid` what each MLP
    reads; `neurons` the down-projection's input; `answers` the ids of answer and wrong answer.
    """

    resid: Float[Tensor, "pair depth d_model"]
    mid: Float[Tensor, "pair layer d_model"]
    z: Float[Tensor, "pair layer width"]
    neurons: Float[Tensor, "pair layer d_mlp"] | None
    mlp_out: Float[Tensor, "pair layer d_model"]
    answers: Int[Tensor, "pair 2"]


def last_token(model: Model, pairs: Sequence[TokenPair]) -> LastTokenStates:
    """Run the clean prompts once and keep what direct attribution reads."""
    rows = prompts_of(pairs)
    names = ["resid_pre", "z", "mlp_out", "resid_post"]
    every = tuple(range(model.arch.n_layers))
    names += [n for n in ("mlp_post", "resid_mid") if model.arch.layers_with(n) == every]
    points = [(SITES[name], layer) for name in names for layer in every]
    found = recorded(model, rows, points, [(len(row.ids) - 1,) for row in rows])
    layers: dict[str, list[Tensor]] = {name: [] for name in names}
    for (site, _), values in zip(points, found, strict=True):
        layers[site.name].append(values[:, 0].to(model.device))
    stack = {name: torch.stack(own, 1) for name, own in layers.items()}
    answers = answer_tokens(pairs, "direct attribution to the logits")
    return LastTokenStates(
        resid=torch.cat([stack["resid_pre"], stack["resid_post"][:, -1:]], 1),
        mid=stack.get("resid_mid", stack["resid_pre"]),
        z=stack["z"],
        neurons=stack.get("mlp_post"),
        mlp_out=stack["mlp_out"],
        answers=answers.to(model.device),
    )


@brief
@dataclass(frozen=True)
class DirectEffects:
    """The logit(answer) - logit(wrong answer) that each source writes, and what no source does.

    The latter are the biases of attention, the final norm and the unembedding.
    """

    nodes: Float[Tensor, "pair source"]
    bias: Float[Tensor, " pair"]


def direct_logit_attribution(model: Model, pairs: Sequence[TokenPair]) -> DirectEffects:
    """Split the logit difference of clean prompts among everything that writes to the stream.

    ``nodes.sum(1) + bias`` is the logit difference exactly (before a soft-cap). `pairs` are from
    `interp.data.pairs.tokenise`; answers of several tokens have no one direction in the logits,
    `PlanError`: tokenise them with ``answers="first"``. Source: Elhage et al. 2021; Wang et al.,
    arXiv 2211.00593.
    """
    at = last_token(model, pairs)
    parts = [at.resid[:, :1]]
    for layer in range(model.arch.n_layers):
        mlp = model.parts(layer).mlp_scale * at.mlp_out[:, layer, None]
        parts += [head_shares(model, layer, at.z[:, layer]), mlp]
    writes = torch.cat(parts, 1).transpose(0, 1)  # (source, pair, d_model)
    final, rows = at.resid[:, -1], model.unembedding[at.answers].float()
    read, scale = rows[:, 0] - rows[:, 1], _logit_scale(model)
    nodes = (with_fixed_scale(model, model.ln_final, final[None], writes) * read).sum(-1).T * scale
    total = (model.ln_final(final) * read).sum(-1)
    bias = bias_in(model.unembed)
    if bias is not None:
        total = total + bias[at.answers[:, 0]] - bias[at.answers[:, 1]]
    return DirectEffects(nodes.cpu(), (total * scale - nodes.sum(1)).cpu())


def _logit_scale(model: Model) -> float:
    """The factor between the unembedding's output and the logits, at 0, where no soft-cap bends."""
    zero = torch.zeros(1, requires_grad=True)
    with torch.enable_grad():
        (scale,) = torch.autograd.grad(model.arch.logits_transform(zero), zero)
    return float(scale)


def head_shares(
    model: Model, layer: int, z: Float[Tensor, "pair width"]
) -> Float[Tensor, "pair head d_model"]:
    """Each head's part of what attention adds to the stream; a post-norm's scale is held fixed."""
    heads = head_writes(model, layer, z[:, None])[:, :, 0]
    return _through_post_norm(model, layer, "z", z, heads)


def _through_post_norm(
    model: Model, layer: int, site: str, values: Tensor, writes: Float[Tensor, "pair unit d_model"]
) -> Float[Tensor, "pair unit d_model"]:
    parts = model.parts(layer)
    path, scale = (
        (parts.ln1_post, parts.attn_scale) if site == "z" else (parts.ln2_post, parts.mlp_scale)
    )
    if path is None:
        return scale * writes
    module, _ = model.point(SITES[site], layer)
    post, total = norm(model, layer, path), module(values)[None]
    return scale * with_fixed_scale(model, post, total, writes.transpose(0, 1)).transpose(0, 1)


def log_prob_increase(
    model: Model, pairs: Sequence[TokenPair], unit: str, layers: Sequence[int] | None = None
) -> Float[Tensor, "pair layer unit"]:
    """How much each unit's write, alone, raises the answer's log-probability.

    log p(answer | x + v) - log p(answer | x), where x is the stream that the unit's sublayer
    reads and v what the unit writes, both under the final norm with the whole run's scale, and p
    the model's own probability, any factor or soft-cap of its logits included.
    `pairs` are from `interp.data.pairs.tokenise`; `unit` is ``"neuron"`` (FFN neurons), ``"head"``,
    or ``"attention-neuron"`` (one coordinate of one head's output); `layers` are all by default.

    Source: Yu & Ananiadou, arXiv 2312.12141, eq. 7.
    """
    at = last_token(model, pairs)
    chosen = range(model.arch.n_layers) if layers is None else layers
    model.check_layers(chosen)
    base, out = at.mid if unit == "neuron" else at.resid, []
    with torch.no_grad():
        for layer in chosen:
            writes = _unit_writes(model, at, unit, layer)
            rows = [
                _increase(model, base[i, layer], writes[i], at.resid[i, -1], int(at.answers[i, 0]))
                for i in range(len(pairs))
            ]
            out.append(torch.stack(rows))
    return torch.stack(out, 1).cpu()


def _unit_writes(
    model: Model, at: LastTokenStates, unit: str, layer: int
) -> Float[Tensor, "pair unit d_model"]:
    if unit == "head":
        return head_shares(model, layer, at.z[:, layer])
    if unit == "attention-neuron":
        site, values = "z", at.z[:, layer]
    elif unit == "neuron" and at.neurons is not None:
        site, values = "mlp_post", at.neurons[:, layer]
    else:
        known = "'neuron', 'head' and 'attention-neuron'"
        raise PlanError(f"no unit {unit!r} in {model.name}: units are {known}.")
    writes = values[..., None] * weight_of(model, site, layer).T
    return _through_post_norm(model, layer, site, values, writes)


def _increase(
    model: Model,
    base: Float[Tensor, " d_model"],
    writes: Float[Tensor, "unit d_model"],
    final: Float[Tensor, " d_model"],
    answer: int,
) -> Float[Tensor, " unit"]:
    def log_p(logits: Float[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
        return model.arch.logits_transform(logits).log_softmax(-1)[:, answer]

    both = torch.cat([base[None], writes])[:, None]
    normed = with_fixed_scale(model, model.ln_final, final[None, None], both)[:, 0]
    bias, weight = bias_in(model.ln_final), model.unembedding.T
    plain = model.unembed(normed[:1] if bias is None else normed[:1] + bias).float()
    step = max(1, LOGITS_AT_ONCE // model.n_vocab)
    # logits are added, in fp32: in 16 bits a stream swallows what is small beside it
    parts = [log_p(plain + (x @ weight).float()) for x in normed[1:].split(step)]
    return torch.cat(parts) - log_p(plain)


def neuron_logits(model: Model, layer: int, units: Sequence[int]) -> Float[Tensor, "unit vocab"]:
    """What each neuron's output row gives each token, normed as if it were the whole stream."""
    with torch.no_grad():
        rows = weight_of(model, "mlp_post", layer)[:, list(units)].T
        zero = torch.zeros_like(rows[0])
        for step in (norm(model, layer, model.parts(layer).ln2_post), model.ln_final):
            rows = step(rows) - step(zero)  # without what the norm adds to nothing
        weight = model.unembedding
        return (rows.to(weight.device) @ weight.T).float().cpu()


def top_tokens(model: Model, site: str, layer: int, unit: int, n: int = 10) -> pd.DataFrame:
    """The tokens that a neuron promotes and suppresses when it is active, off its weights alone.

    Its output row (column of the down-projection) goes through the final norm and the unembedding
    as if it were all that the residual stream holds; a post-norm of the MLP comes first. Where the
    neuron's activation is negative, the two lists swap. Computed in the model's dtype. `site` is
    ``"mlp_post"``.

    Returns:
        `n` rows of each ``effect`` (promoted or suppressed): ``rank`` from 0, ``token``,
        ``token_id`` and ``logit`` (of the normed row; only its order can be compared between
        neurons).

    Raises:
        PlanError: another site, no such layer or neuron, or not so many tokens.

    Source: Geva et al., arXiv 2203.14680.
    """
    if site != "mlp_post":
        raise PlanError(f"{site!r} has no output rows to read tokens off; give 'mlp_post'.")
    model.check_layers([layer])
    n_units = model.n_units(SITES[site])
    if not 0 <= unit < n_units:
        raise PlanError(f"no neuron {unit}: {model.name} has neurons 0 to {n_units - 1} per layer.")
    (logits,) = neuron_logits(model, layer, [unit])
    if not 1 <= n <= len(logits):
        raise PlanError(f"n={n}: ask for 1 to {len(logits)} tokens.")
    found = [
        (effect, rank, model.token(token), token, float(logits[token]))
        for effect, sign in (("promoted", 1), ("suppressed", -1))
        for rank, token in enumerate(first_largest(sign * logits, n)[1].tolist())
    ]
    return pd.DataFrame(found, columns=["effect", "rank", "token", "token_id", "logit"])
