"""Names of nodes equal what plain loops over weights, patterns and texts find."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny
from graph_samples import hand_made, large, recorded

import interp
from circuits.explanation import AttributionGraph, activity, clustered, named
from circuits.explanation.names import contexts, pattern_type
from interp.errors import DataError, PlanError

TEXT = "w5 w6 w5"


def graph_of(model: interp.Model) -> AttributionGraph:
    ids = model.encode(TEXT)
    tokens = tuple(map(model.token, ids))
    own = {
        "weights_hash": model.weights_hash,
        "model": model.name,
        "settings": {"prompt": recorded(ids)},
    }
    return replace(hand_made(), tokens=tokens, n_prompt=len(tokens), **own)


def word(token: str) -> str:
    return token.strip() or repr(token)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("sign", [1, -1])
def test_neurons_are_named_after_the_tokens_they_read_and_write(family: str, sign: int):
    model = tiny(family)
    graph = graph_of(model)
    active = graph.nodes["activation"].where(graph.nodes["kind"] != "neuron", sign * 1.0)
    label = named(model, replace(graph, nodes=graph.nodes.assign(activation=active))).node(
        "m0.n5@2"
    )["label"]
    effect = "promoted" if sign > 0 else "suppressed"
    tokens = interp.top_tokens(model, "mlp_post", 0, 5, n=3)
    writes = [word(token) for token in tokens[tokens["effect"] == effect]["token"]]
    block, embedding = model.blocks[0], model.hf.get_input_embeddings().weight
    if family == "gpt2":
        read, key = block.ln_2, block.mlp.c_fc.weight[:, 5]
    else:
        before = "pre_feedforward_layernorm" if family == "gemma2" else "post_attention_layernorm"
        read, key = getattr(block, before), block.mlp.gate_proj.weight[5]
    with torch.no_grad():
        scores = torch.stack([read(row) @ key for row in embedding])
    reads = [word(model.token(i)) for i in scores.topk(3).indices.tolist()]
    assert label == f"reads {', '.join(reads)}; writes {', '.join(writes)}"


def test_other_nodes_are_named_and_labels_stay():
    model = tiny("llama")
    graph = graph_of(model).relabelled({"m0.n5@2": "mine"})
    labels = named(model, graph).nodes.set_index("id")["label"]
    assert labels["m0.n5@2"] == "mine" and "; writes " in labels["m1.n7@2"]
    assert labels["embedding@1"] == f"token {graph.tokens[1].strip()}"
    assert labels["a0.rest@2"] == "rest of attention 0" and labels["logits"] == graph.target
    pattern = interp.activations(model, [TEXT], "pattern", 0)[0][0, 1, 2]
    assert labels["a0.h1@2"] == pattern_type(pattern, model.encode(TEXT), 2, graph.tokens)


@pytest.mark.parametrize(
    ("weights", "ids", "name"),
    [
        ([0.1, 0.7, 0.1, 0.1], [1, 5, 6, 5], "duplicate token (0.70)"),
        ([0.1, 0.1, 0.6, 0.2], [1, 5, 6, 5], "induction (0.60)"),
        ([0.1, 0.1, 0.6, 0.2], [1, 5, 6, 7], "previous token (0.60)"),
        ([0.1, 0.1, 0.1, 0.7], [1, 5, 6, 7], "own token (0.70)"),
        ([0.8, 0.1, 0.1, 0.0], [1, 5, 6, 7], "first token (0.80)"),
        ([0.3, 0.4, 0.1, 0.2], [1, 5, 6, 7], "looks at b (0.40)"),
        ([0.3, 0.3, 0.2, 0.2], [5, 5, 6, 5], "duplicate token (0.60)"),
    ],
)
def test_heads_are_named_after_where_they_look(weights: list, ids: list, name: str):
    tokens = ["a", " b", " c", " d"]
    assert pattern_type(torch.tensor(weights), ids, 3, tokens) == name
    longer = torch.tensor([*weights, 9.0])  # what follows the position does not count
    assert pattern_type(longer, [*ids, 5], 3, [*tokens, "e"]) == name


def test_contexts_are_the_places_of_most_activity():
    model = tiny("llama")
    words = [f"w{i * i % 90}" for i in range(150)]
    texts = [" ".join(words[:70]), " ".join(words[70:])]
    found = contexts(model, [(1, 7, False), (1, 7, True)], texts)
    start, places = model.encode(""), []
    for text in texts:
        ids = model.encode(text)[len(start) :]
        for first in range(0, len(ids), 64):
            piece = ids[first : first + 64]
            plain: list[torch.Tensor] = []
            hook = model.blocks[1].mlp.down_proj.register_forward_pre_hook(
                lambda _, args, keep=plain: keep.append(args[0][0, :, 7])
            )
            with torch.no_grad():
                model.hf(torch.tensor([[*start, *piece]]))
            hook.remove()
            values = plain[0][len(start) :].tolist()
            places += [(value, model.token(i)) for value, i in zip(values, piece, strict=True)]
    for negative, order in ((False, sorted(places)[::-1]), (True, sorted(places))):
        lines = found[1, 7, negative].splitlines()
        assert [line.split()[0] for line in lines] == [f"{value:.2f}" for value, _ in order[:3]]
        assert all(
            line.endswith(f"«{token.strip()}»")
            for line, (_, token) in zip(lines, order[:3], strict=True)
        )
    with pytest.raises(DataError, match="the texts have no tokens"):
        contexts(model, [(1, 7, False)], [""])
    column = named(model, graph_of(model), texts).nodes.set_index("id")["contexts"]
    assert column["m0.n5@2"] and not column["a0.h1@2"]


def test_a_graph_of_another_model_is_refused():
    with pytest.raises(PlanError, match="other weights .of tiny. than"):
        named(tiny("llama"), hand_made())
    model = tiny("llama")
    with pytest.raises(DataError, match="does not hold its prompt's tokens"):
        named(model, replace(graph_of(model), settings={}))


def test_nodes_that_read_and_are_read_alike_form_groups():
    graph = large(30)
    pairs = {"a": ["a1.h0@11", "a1.h1@11"], "b": ["m2.n1@11", "m2.n2@11", "m2.n3@11"]}
    rows = [(i, "head" if i[0] == "a" else "neuron") for ids in pairs.values() for i in ids]
    base = graph.nodes[graph.nodes["kind"].isin(["embedding", "logits"])]
    new = [
        base.iloc[0].to_dict() | {"id": i, "kind": kind, "layer": int(i[1]), "pos": 11}
        for i, kind in rows
    ]
    nodes = np.concatenate([[base.iloc[0].to_dict()], new, [base.iloc[-1].to_dict()]])
    import pandas as pd

    edges = [("embedding@0", i, "v", 1.0 + n) for n, i in enumerate(pairs["a"])]
    edges += [(a, b, "", 1.0 + n) for n, b in enumerate(pairs["b"]) for a in pairs["a"]]
    edges += [(b, "logits", "", 0.5) for b in pairs["b"]]
    made = replace(
        graph,
        nodes=pd.DataFrame(list(nodes)),
        edges=pd.DataFrame(edges, columns=["source", "target", "branch", "weight"]),
    )
    found = clustered(made).nodes
    groups = [set(own["id"]) for name, own in found.groupby("supernode") if name]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, pairs.values()))
    # activations that differ keep nodes apart
    apart = {i: np.eye(5)[n] for n, (i, _) in enumerate(rows)}
    apart |= {"embedding@0": np.ones(5), "logits": np.ones(5)}
    assert not clustered(made, distance=0.2, activity=apart).nodes["supernode"].any()
    kept = clustered(made.grouped({"mine": pairs["a"]})).nodes.set_index("id")["supernode"]
    assert set(kept[pairs["a"]]) == {"mine"}
    with pytest.raises(PlanError, match="clustered into 1 group or more"):
        clustered(made, n=0)


def test_activity_is_what_nodes_do_over_the_prompt():
    model = tiny("llama")
    graph = graph_of(model)
    found = activity(model, graph)
    own = interp.activations(model, [TEXT], "mlp_post", 0)[0][0, :, 5]
    np.testing.assert_allclose(found["m0.n5@2"], own.numpy())
    z = interp.activations(model, [TEXT], "z", 0)[0][0].unflatten(-1, (4, 8))[:, 1]
    np.testing.assert_allclose(found["a0.h1@2"], z.norm(dim=-1).numpy(), rtol=1e-6)
    assert not found["logits"].any()
