"""Query scores of one prompt: what, at which token, switches the value neurons on.

A value neuron reads the stream x with a key: the gate row (or row of `W_in`) of an FFN neuron, the
``v_proj`` row of an attention neuron's key-value head, each pulled back through the pre-norm at its
fixed scale, so that ``x . key`` is the neuron's pre-activation less its biases. As x is the sum of
what the embedding, attention and FFNs have written, each writer c has a fraction
``c . key / x . key``; fractions of one value neuron sum to 1. Weighted by the value neurons' scores
and summed over them they are query scores, in nats of the answer's log-probability.

Three paths lead from a writer to a value neuron's key:

    direct      a writer at the last token, where FFN value neurons read
    moved       a writer at any token whose write a head's value reads and the head writes, at the
                last token, into the key of an FFN value neuron; this splits up the direct
                fraction of attention
    attention   a writer at token j, into the key of an attention value neuron that carries j's
                value

Source: Yu & Ananiadou, arXiv 2312.12141, section 3.3; ACE, arXiv 2510.07896, eq. 10. The moved
path is ours: without it, the tokens of the question are invisible to FFN value neurons.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.query_value.trace import Trace, output_rows
from circuits.query_value.value import ValueNeurons
from interp.brief import brief
from interp.forward.blocks import neuron_keys, weight_of

PATHS = ("direct", "moved", "attention")
WRITERS = ("attention", "ffn")


@brief
@dataclass(frozen=True)
class QueryScores:
    """Scores in nats of attention layers and FFNs, of the embeddings, FFN neurons and heads.

    Attributes:
        heads: direct scores, by the token that a head reads.
        unmoved: what of attention's direct score no writer has: its biases.
    """

    writers: Float[Tensor, "path writer layer pos"]
    embedding: Float[Tensor, "path pos"]
    neurons: Float[Tensor, "path layer pos neuron"]
    heads: Float[Tensor, "layer head pos"]
    unmoved: float


def query_scores(
    run: Trace, neurons: ValueNeurons, attention_neurons: ValueNeurons, key: str
) -> QueryScores:
    """Score every writer of a prompt by what it gives to the keys of its value neurons.

    `key` is ``"gate"`` or ``"up"``; see `interp.forward.blocks.neuron_keys`.
    """
    at_ffn = _ffn_keys(run, neurons, key)
    # what is read of attention's, and of an FFN's, write at the last token of each layer
    above = _sum_above(at_ffn)
    of_attention = above if run.model.parts(0).parallel else above + at_ffn
    moved, heads = _moved_keys(run, of_attention)
    valued = _value_keys(run, attention_neurons)
    keys = torch.zeros(3, *run.pre.shape).to(run.pre)
    keys[0, :, -1], keys[1], keys[2] = above, _sum_above(moved), _sum_above(valued)
    writers = torch.einsum("wljd,pljd->pwlj", torch.stack([run.attn, run.mlp]), keys)
    writers[0, 0, :, -1] = (run.attn[:, -1] * of_attention).sum(-1)
    read = torch.stack([moved.sum(0), valued.sum(0)])
    embedding = torch.zeros(3, run.n_pos).to(run.pre)
    embedding[0, -1] = run.pre[0, -1] @ at_ffn.sum(0)
    embedding[1:] = (run.pre[0] * read).sum(-1)
    unmoved = writers[0, 0].sum() - writers[1].sum() - embedding[1].sum()
    of_neurons = torch.zeros(3, *run.neurons.shape, device=keys.device)
    for layer, coefficient in enumerate(run.neurons):
        rows = output_rows(run.model, "mlp_post", layer)
        for path in range(len(PATHS)):
            seen = run.key("mlp_post", layer, keys[path, layer], slice(None)) @ rows.T
            of_neurons[path, layer] = (coefficient * seen).float()
    return QueryScores(
        writers.float(), embedding.float(), of_neurons, heads.float(), float(unmoved)
    )


def _sum_above(keys: Float[Tensor, "layer *rest"]) -> Float[Tensor, "layer *rest"]:
    """For each layer the sum over the layers above it."""
    return keys.flip(0).cumsum(0).flip(0) - keys


def _ffn_keys(run: Trace, neurons: ValueNeurons, key: str) -> Float[Tensor, "layer d_model"]:
    """Keys of each layer's FFN value neurons, times score over pre-activation, summed."""
    out = torch.zeros_like(run.pre[:, -1])
    for layer in neurons.layer.unique().tolist():
        mine = neurons.layer == layer
        rows = neuron_keys(run.model, layer, key)[neurons.unit[mine]]
        keys = run.before("mlp_post", layer, rows)
        total = keys @ run.read_by_mlp(layer)[-1]
        out[layer] = (neurons.score[mine].to(total) / total) @ keys
    return out


def _value_keys(run: Trace, neurons: ValueNeurons) -> Float[Tensor, "layer pos d_model"]:
    """The same for attention value neurons, at the tokens whose values they carry."""
    out, a = torch.zeros_like(run.pre), run.model.arch
    for layer in neurons.layer.unique().tolist():
        mine = neurons.layer == layer
        unit, pos = neurons.unit[mine], neurons.pos[mine]
        kv_head = unit // a.d_head // (a.n_heads // a.n_kv_heads)
        rows = weight_of(run.model, "v", layer)[kv_head * a.d_head + unit % a.d_head]
        keys = run.before("z", layer, rows, pos)
        total = (keys * run.pre[layer, pos]).sum(-1)
        weighted = (neurons.score[mine].to(total) / total)[:, None] * keys
        out[layer].index_add_(0, pos, weighted)
    return out


def _moved_keys(
    run: Trace, of_attention: Float[Tensor, "layer d_model"]
) -> tuple[Float[Tensor, "layer pos d_model"], Float[Tensor, "layer head pos"]]:
    """Keys pulled back through the heads to the tokens they read, and the heads' own scores."""
    a = run.model.arch
    moved, heads = torch.zeros_like(run.pre), torch.zeros_like(run.pattern)
    for layer in range(a.n_layers):
        read = run.key("z", layer, of_attention[layer, None])[0]
        by_head = (output_rows(run.model, "z", layer) @ read).view(a.n_heads, a.d_head)
        heads[layer] = torch.einsum("hjk,hk->hj", run.weighted_values(layer), by_head)
        # heads of one group read the same values
        weighted = run.pattern[layer][..., None] * by_head[:, None]  # (head, pos, d_head)
        by_value = weighted.unflatten(0, (a.n_kv_heads, -1)).sum(1).transpose(0, 1).flatten(1)
        rows = by_value @ weight_of(run.model, "v", layer)  # (pos, d_model)
        moved[layer] = run.before("z", layer, rows, torch.arange(run.n_pos))
    return moved, heads
