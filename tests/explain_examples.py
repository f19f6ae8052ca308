"""Linearised prompts of tiny models and compiled programs, and checks of their graphs."""

from functools import cache

import numpy as np
import torch
from conftest import tiny, word_pairs
from graph_samples import recorded
from moe_models import tiny_mixture

from circuits.discovery.ground_truth import program_contrast
from circuits.explanation.attribution import LinearRun
from circuits.explanation.graph import AttributionGraph
from circuits.explanation.prompt_record import PromptRecord
from circuits.explanation.target_metric import ExplainedPrompt, explained_prompt
from interp.loading.tracr import Program
from interp.model.model import Model

FAMILIES = ("llama", "qwen2", "gemma2", "gemma3", "gpt_neox", "gpt2", "qwen3_moe")
"""Grouped heads, biases, post-norms, parallel blocks, and a mixture of experts."""
CASES = [(family, paired) for family in FAMILIES for paired in (True, False)]


def model_of(family: str) -> Model:
    return tiny_mixture(family) if family.endswith("_moe") else tiny(family)


@cache
def linear_run(family: str, paired: bool) -> LinearRun:
    """The second word pair, which differs at its third token; or its clean prompt alone."""
    model, pair = model_of(family), word_pairs()[1]
    given = pair if paired else pair.clean
    target = None if paired else (pair.answer, pair.wrong_answer)
    return LinearRun.of(model, explained_prompt(model, given, target))


def program_prompt(model: Model, program: Program, number: int) -> ExplainedPrompt:
    """One example of a compiled program, read at every token."""
    contrast = program_contrast(
        model, program.model_copy(update={"pairs": program.pairs[number : number + 1]})
    )
    tokens = ("BOS", *program.pairs[number].clean)
    return ExplainedPrompt(
        contrast=contrast,
        paired=True,
        columns=torch.arange(len(tokens)),
        n_prompt=len(tokens),
        tokens=tokens,
        corrupt_tokens=("BOS", *program.pairs[number].corrupt),
        target="output",
        metric="output",
        unit="output",
        parts=lambda resid, row: contrast.read(resid, row)[:, None],
        labels=("output",),
        record=PromptRecord.model_validate(recorded(list(range(len(tokens))))),
    )


def conserved(graph: AttributionGraph, everything: bool) -> None:
    """In-flow with `unshown` is the attribution; with all nodes shown, so is out-flow."""
    nodes = graph.nodes.set_index("id")
    sizes = graph.edges["weight"].abs().groupby(graph.edges["target"]).sum()
    flow = graph.edges.groupby("target")["weight"].sum()
    inner = nodes[nodes["kind"].isin(["head", "neuron", "mlp", "logits"])]
    scale = sizes.reindex(inner.index).fillna(0) + inner["attribution"].abs()
    got = flow.reindex(inner.index).fillna(0) + inner["unshown"]
    assert ((got - inner["attribution"]).abs() <= 1e-6 * scale).all()
    if not everything:
        return
    assert (inner["unshown"].abs() <= 1e-4 * scale).all()
    left = graph.edges.groupby("source")["weight"].sum()
    sent = graph.edges["weight"].abs().groupby(graph.edges["source"]).sum()
    inner = nodes[nodes["kind"] != "logits"]
    out, total = (x.reindex(inner.index).fillna(0) for x in (left, sent))
    error = (out - inner["attribution"]).abs()
    top = float(inner["attribution"].abs().max())
    assert (error <= 1e-4 * (total + inner["attribution"].abs()) + 1e-6 * top).all()


def close(a, b, scale: float) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-4 * scale, rtol=1e-4)


def by_hand(family: str, kept: set, keep: bool, denoise: bool = False) -> float:
    """The logit difference of the plain model with forward pre-hooks, unit by unit.

    With `denoise` the prompts change places.
    """
    model, pair = tiny(family), word_pairs()[1]
    clean, corrupt = (torch.tensor([model.encode(t)]) for t in (pair.clean, pair.corrupt))
    if denoise:
        clean, corrupt = corrupt, clean
    layers = model.hf.model.layers
    modules = [
        (m, kind, i)
        for i, block in enumerate(layers)
        for m, kind in ((block.self_attn.o_proj, "head"), (block.mlp.down_proj, "neuron"))
    ]
    low, handles = {}, []
    for module, kind, i in modules:
        handles.append(
            module.register_forward_pre_hook(
                lambda _, args, key=(kind, i): low.__setitem__(key, args[0].clone())
            )
        )
    with torch.no_grad():
        model.hf(corrupt)
    for handle in handles:
        handle.remove()

    def put(kind: str, layer: int):
        def hook(_, args):
            x, other = args[0].clone(), low[kind, layer]
            width = 8 if kind == "head" else 1
            for unit in range(x.shape[-1] // width):
                for pos in range(x.shape[1]):
                    if ((kind, layer, unit, pos) in kept) != keep:
                        own = slice(unit * width, (unit + 1) * width)
                        x[0, pos, own] = other[0, pos, own]
            return (x,)

        return hook

    handles = [m.register_forward_pre_hook(put(kind, i)) for m, kind, i in modules]
    with torch.no_grad():
        logits = model.hf(clean).logits[0, -1]
    for handle in handles:
        handle.remove()
    right, wrong = (model.encode(t)[-1] for t in (pair.answer, pair.wrong_answer))
    return float(logits[right] - logits[wrong])
