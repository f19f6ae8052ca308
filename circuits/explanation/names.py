"""Names for the nodes of a graph, read off weights and attention patterns.

A neuron is named after the tokens whose embeddings its key is most aligned with and those that its
output row promotes, a head after where it looks from its own position. Names describe; they are not
evidence of what a node does.

Source: Geva et al., arXiv 2203.14680 (output rows as tokens); Olsson et al., arXiv 2209.11895
(pattern types of heads).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.explanation.graph import AttributionGraph
from circuits.explanation.tracer_records import rows_of
from interp.attribution.logit_attribution import neuron_logits
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, PlanError
from interp.forward.blocks import neuron_keys, norm
from interp.forward.readout import LOGITS_AT_ONCE
from interp.interventions.recording import activations
from interp.model.model import Model
from interp.statistics.ties import first_largest

N_TOKENS = 3
"""Tokens in a name, of each side."""
N_CONTEXTS = 3
SURE = 0.5
"""Attention weight from which a head's pattern has a type."""
WINDOW, AT_ONCE = 64, 16
"""Tokens of a text that are run together, and such pieces per pass."""
BEFORE = 8
"""Tokens of a context before the one at which a neuron is active."""

_Neuron = tuple[int, int, bool]
"""Layer, number, and whether its activation is negative."""
_Norm = Callable[[Tensor], Tensor]


def named(
    model: Model, graph: AttributionGraph, texts: Sequence[str] | None = None
) -> AttributionGraph:
    """The graph with a label for each node that has none.

    Neurons: ``reads France; writes Paris``: the tokens whose embeddings, through the MLP's norm,
    the neuron's key (of gated MLPs the gate's row) is most aligned with, and those that its output
    row promotes, or suppresses where its activation is negative. Heads: where they look from their
    position: induction, duplicate token, previous token, own token or first token, where one of
    them has at least half of the attention, else the token with most. Embeddings are named after
    their token, rests and MLPs after their sublayer.

    Args:
        model: the model that the graph is of.
        graph: its labels stay.
        texts: of each neuron, the places in these texts where it is most active (in the sign that
            it has on the prompt) become a column ``contexts`` of the graph's nodes.

    Raises:
        PlanError: the graph is of other weights.
        DataError: the graph does not hold its prompt's tokens (an imported one), or `texts` have
            none.
    """
    graph.check_model(model)
    nodes: Any = graph.nodes
    free = nodes[nodes["label"] == ""]
    labels = _plain_names(graph, free) | _neuron_names(model, free)
    labels |= _head_names(model, graph, free[free["kind"] == "head"])
    found = graph.relabelled({node: label for node, label in labels.items() if label})
    return found if texts is None else _with_contexts(model, found, texts)


def _plain_names(graph: AttributionGraph, nodes: Any) -> dict[str, str]:
    names: dict[str, str] = {}
    for node, kind, layer, pos in rows_of(nodes, "id", "kind", "layer", "pos"):
        part = "attention" if node.startswith("a") else "MLP"
        names[node] = {
            "embedding": f"token {_word(graph.tokens[pos])}",
            "mlp": f"MLP {layer}",
            "rest": f"rest of {part} {layer}",
            "bias": "biases",
            "logits": graph.target,
        }.get(kind, "")
    return names


def _word(token: str) -> str:
    return token.strip() or repr(token)


# --- neurons -----------------------------------------------------------------------------------


def _neurons(nodes: Any) -> dict[str, _Neuron]:
    """Node id -> neuron."""
    rows = rows_of(nodes[nodes["kind"] == "neuron"], "id", "layer", "unit", "activation")
    return {node: (layer, unit, a < 0) for node, layer, unit, a in rows}


def _neuron_names(model: Model, nodes: Any) -> dict[str, str]:
    neurons = _neurons(nodes)
    by_layer: dict[int, list[_Neuron]] = defaultdict(list)
    for one in sorted(set(neurons.values())):
        by_layer[one[0]].append(one)
    reads = _read(model, by_layer)
    names: dict[_Neuron, str] = {}
    for layer, own in by_layer.items():
        units = [unit for _, unit, _ in own]
        signs = torch.tensor([-1.0 if negative else 1.0 for *_, negative in own])
        for one, out in zip(own, _promoted(model, layer, units, signs), strict=True):
            names[one] = "; ".join([f"reads {reads[one]}"] * (one in reads) + [f"writes {out}"])
    return {node: names[neuron] for node, neuron in neurons.items()}


def _promoted(model: Model, layer: int, units: Sequence[int], signs: Tensor) -> list[str]:
    """The tokens that neurons write for, in the sign that they have."""
    step = max(1, LOGITS_AT_ONCE // model.n_vocab)
    found: list[str] = []
    for first in range(0, len(units), step):
        logits = neuron_logits(model, layer, units[first : first + step])
        signed = logits * signs[first : first + step, None]
        found += [_words(model, ids) for ids in first_largest(signed, N_TOKENS)[1].tolist()]
    return found


def _read(model: Model, by_layer: Mapping[int, Sequence[_Neuron]]) -> dict[_Neuron, str]:
    """The tokens whose embeddings neurons read most, of those whose keys can be read so."""
    embedding = model.hf.get_input_embeddings().weight
    groups: list[tuple[_Norm, list[Tensor], list[_Neuron]]] = []
    with torch.no_grad():
        for layer, own in by_layer.items():
            try:
                keys = neuron_keys(model, layer)[[unit for _, unit, _ in own]]
            except PlanError:
                continue
            if embedding.shape[1] != keys.shape[1]:  # embeddings that a projection follows
                continue
            through = _without_bias(norm(model, layer, model.parts(layer).ln2), keys[0])
            for other, scaled, neurons in groups:
                scale = _scale(through, other, embedding[:32].to(keys))
                if scale is not None:
                    scaled.append(keys * scale)
                    neurons += own
                    break
            else:
                groups.append((through, [keys], [*own]))
        found: dict[_Neuron, str] = {}
        for through, scaled, neurons in groups:
            top = _most_aligned(through, torch.cat(scaled), embedding)
            found |= zip(neurons, (_words(model, ids) for ids in top.tolist()), strict=True)
    return found


def _without_bias(through: _Norm, like: Tensor) -> _Norm:
    constant = through(torch.zeros_like(like))
    return lambda x: through(x) - constant


def _scale(one: _Norm, other: _Norm, x: Float[Tensor, "row d"]) -> Float[Tensor, " d"] | None:
    """What the features of another norm are multiplied by to give this one's; None if by nothing.

    Norms of one model differ in their weights alone, so the vocabulary is normed once.
    """
    want, have = one(x).float(), other(x).float()
    scale = (want * have).sum(0) / (have * have).sum(0).clamp_min(1e-30)
    same = torch.allclose(scale * have, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))
    return scale.to(x) if same else None


def _most_aligned(
    through: _Norm, keys: Float[Tensor, "neuron d"], embedding: Float[Tensor, "vocab d"]
) -> Int[Tensor, "neuron n_tokens"]:
    best, ids = torch.zeros(len(keys), 0), torch.zeros(len(keys), 0, dtype=torch.long)
    step = max(1, LOGITS_AT_ONCE // embedding.shape[1])
    for first in range(0, len(embedding), step):
        rows = through(embedding[first : first + step].to(keys))
        value, at = first_largest((keys @ rows.T).float().cpu(), min(N_TOKENS, len(rows)))
        best, ids = torch.cat([best, value], 1), torch.cat([ids, at + first], 1)
        best, order = first_largest(best, min(N_TOKENS, best.shape[1]))
        ids = ids.gather(1, order)
    return ids


def _words(model: Model, ids: Sequence[int]) -> str:
    """Tokens as one text; those that differ in case or space alone stand once."""
    words: dict[str, str] = {}
    for word in (_word(model.token(i)) for i in ids):
        words.setdefault(word.lower(), word)
    return ", ".join(words.values())


def _with_contexts(model: Model, graph: AttributionGraph, texts: Sequence[str]) -> AttributionGraph:
    neurons = _neurons(graph.nodes)
    found = contexts(model, sorted(set(neurons.values())), texts)
    column = [found[neurons[i]] if i in neurons else "" for i in graph.nodes["id"]]
    return replace(graph, nodes=graph.nodes.assign(contexts=column))


def contexts(model: Model, neurons: Sequence[_Neuron], texts: Sequence[str]) -> dict[_Neuron, str]:
    """Of each neuron, the places where it is most active in its sign, one per line.

    A place is up to eight tokens before and the token itself in «», with the activation. Texts are
    cut into pieces of 64 tokens; a token that begins every text is passed over.
    """
    start = model.encode("")
    pieces = [
        TokenPrompt((*start, *ids[at : at + WINDOW]))
        for text in texts
        for ids in [model.encode(text)[len(start) :]]
        for at in range(0, len(ids), WINDOW)
    ]
    if not pieces:
        raise DataError("the texts have no tokens; give some, such as the lines of a text file.")
    layers = sorted({layer for layer, *_ in neurons})
    best: dict[_Neuron, list[tuple[float, str]]] = {one: [] for one in neurons}
    for first in range(0, len(pieces) if neurons else 0, AT_ONCE):
        part = pieces[first : first + AT_ONCE]
        found = activations(model, part, "mlp_post", layers)
        for one in neurons:
            layer, unit, negative = one
            own = found[layer][:, len(start) :, unit].float() * (-1 if negative else 1)
            flat = own.nan_to_num(-torch.inf).flatten()
            top = first_largest(flat, min(N_CONTEXTS, len(flat)))
            for value, at in zip(*(part.tolist() for part in top), strict=True):
                row, pos = divmod(at, own.shape[1])
                if value > 0:
                    text = _context(model, part[row].ids, pos + len(start))
                    best[one].append((value, text))
            best[one] = sorted(best[one], key=lambda place: -place[0])[:N_CONTEXTS]
    return {
        one: "\n".join(f"{-value if one[2] else value:.2f} {text}" for value, text in places)
        for one, places in best.items()
    }


def _context(model: Model, ids: Sequence[int], pos: int) -> str:
    before = "".join(model.token(i) for i in ids[max(0, pos - BEFORE) : pos])
    return " ".join(f"{before}«{model.token(ids[pos])}»".split())


# --- heads -------------------------------------------------------------------------------------


def _head_names(model: Model, graph: AttributionGraph, heads: Any) -> dict[str, str]:
    if heads.empty:
        return {}
    prompt = TokenPrompt(graph.prompt.clean)
    patterns = activations(model, [prompt], "pattern", sorted(set(heads["layer"].tolist())))
    return {
        node: pattern_type(patterns[layer][0, unit, pos], prompt.ids, pos, graph.tokens)
        for node, layer, unit, pos in rows_of(heads, "id", "layer", "unit", "pos")
        if pos < len(prompt.ids)
    }


def pattern_type(
    weights: Float[Tensor, " key"], ids: Sequence[int], pos: int, tokens: Sequence[str]
) -> str:
    """What a head's attention from one position is, with its share.

    ``induction``: keys right after earlier copies of the token; ``duplicate token``: these copies;
    then the previous token, the own and the first one. The largest share counts, in this order
    among equals, if it is at least `SURE`; else the name says which token has most.
    """
    row = weights[: pos + 1].float()
    same = [k for k in range(pos) if ids[k] == ids[pos]]
    places = {
        "induction": [k + 1 for k in same],
        "duplicate token": same,
        "previous token": [pos - 1] * (pos > 0),
        "own token": [pos],
        "first token": [0],
    }
    shares = {name: float(row[keys].sum()) for name, keys in places.items() if keys}
    name = max(shares, key=lambda one: round(shares[one], 6))
    if shares[name] >= SURE:
        return f"{name} ({shares[name]:.2f})"
    most = int(row.argmax())
    return f"looks at {_word(tokens[most])} ({float(row[most]):.2f})"
