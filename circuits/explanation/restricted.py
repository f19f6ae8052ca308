"""The linear model with some nodes alone: what reaches the target through them, and which carry it.

All heads, neurons and MLPs outside a set pass nothing on. What is left of the target is exactly
what the set explains; taking away, in rounds, the nodes that carry least leaves the set that
explains most. Choosing by attribution alone would pick nodes that get their input from, or hand
it on to, nodes that are not chosen.
"""

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.explanation.assembly import Node, strongest
from circuits.explanation.attribution import LinearRun
from interp.attribution.contrast import gradients

COARSE, FINE = 0.25, 0.5
"""Part of the nodes that a round leaves, at the least: the second where fewer than `NEAR` times the
nodes wanted are left."""
NEAR = 8

Masks = dict[tuple[str, int], Float[Tensor, "pos unit"]]
"""By kind (``"head"``, or what an MLP is made of) and layer: 1 where a node passes on."""
Hook = Callable[[Tensor], Tensor]


def through(run: LinearRun, nodes: Sequence[Node]) -> Float[Tensor, " pos"]:
    """What each embedding adds to the target over paths through given nodes alone."""
    masks, start = node_masks(run, nodes), run.at.run.kept["resid_pre"][0]
    with _hooked(run, lambda key, _: lambda g: _masked(g, run, masks[key])):
        (back,) = gradients(run.at.total, [start], retain_graph=True)
    own = back.detach()[0, run.prompt.columns.to(back.device)]
    change = run.change("resid_pre", 0)
    return (change * own.to(change)).sum(-1)


def flows(run: LinearRun, masks: Masks) -> Masks:
    """What passes over each node, from the tokens to the target, through unmasked nodes alone.

    The change that reaches a node is the derivative, by a multiplier added there, of what the
    tokens then explain: multipliers are linear in those that enter. It takes one more backward
    pass, through the first.
    """
    reached: dict[tuple[str, int], Tensor] = {}
    added: dict[tuple[str, int], Tensor] = {}

    def hook(key: tuple[str, int], x: Tensor) -> Hook:
        added[key] = torch.zeros_like(x).requires_grad_(True)

        def back(g: Tensor) -> Tensor:
            reached[key] = g.detach()
            return _masked(g, run, masks[key]) + added[key]

        return back

    start, columns = run.at.run.kept["resid_pre"][0], run.prompt.columns
    change = torch.zeros_like(start)
    change[0, columns] = run.change("resid_pre", 0).to(start)
    with _hooked(run, hook), torch.enable_grad():
        (back,) = torch.autograd.grad(run.at.total, [start], create_graph=True)
        carried = gradients((back * change).sum(), list(added.values()), retain_graph=True)
    out: Masks = {}
    for key, arrived in zip(added, carried, strict=True):
        score = (reached[key] * arrived)[0, columns.to(arrived.device)].float().cpu()
        out[key] = score.unflatten(-1, (masks[key].shape[1], -1)).sum(-1) * masks[key]
    return out


def carrying(run: LinearRun, n: int, start: Sequence[Node] | None = None) -> list[Node]:
    """The `n` nodes that are left when those that carry least are taken away, round by round.

    From `start`, by default from all nodes, in the first round by attribution.
    """
    left = strongest(run) if start is None else list(start)
    if start is None and len(left) > n:
        left = left[: max(n, int(COARSE * len(left)))]
    while len(left) > n:
        size = max(n, int(COARSE * len(left)))
        if len(left) < NEAR * n:  # rounds of equal parts that end at n
            rounds = math.ceil(math.log(len(left) / n) / math.log(1 / FINE))
            size = round(len(left) * (n / len(left)) ** (1 / rounds))
        found = flows(run, node_masks(run, left))
        sizes = torch.zeros(len(left))
        for key, (numbers, pos, units) in _places(left).items():
            sizes[numbers] = found[key][pos, units].abs()
        order = sizes.argsort(descending=True, stable=True)[: max(n, min(size, len(left) - 1))]
        left = [left[i] for i in order.tolist()]
    return left


def node_masks(run: LinearRun, nodes: Sequence[Node]) -> Masks:
    """1 at each of some nodes, 0 at all others."""
    masks: Masks = {}
    for key, x in _sites(run):
        kind, layer = key
        own = run.model.arch.layers[layer]
        units = {"head": own.n_heads, "neuron": x.shape[-1], "mlp": 1}[kind]
        masks[key] = torch.zeros(run.n_pos, units)
    for key, (_, pos, units) in _places(nodes).items():
        masks[key][pos, units] = 1
    return masks


def _places(nodes: Sequence[Node]) -> dict[tuple[str, int], Tensor]:
    """By kind and layer: the numbers, positions and units of some nodes."""
    found: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
    for i, (kind, layer, unit, pos) in enumerate(nodes):
        found.setdefault((kind, layer), []).append((i, pos, max(unit, 0)))
    return {key: torch.tensor(rows).T for key, rows in found.items()}


def _sites(run: LinearRun) -> Iterator[tuple[tuple[str, int], Tensor]]:
    """The activations of every kind of node, layer by layer."""
    kept = run.at.run.kept
    for layer in range(run.model.arch.n_layers):
        yield ("head", layer), kept["z"][layer]
        if layer in run.neurons:
            yield ("neuron", layer), kept["mlp_post"][run.neurons[layer]]
        else:
            yield ("mlp", layer), kept["mlp_out"][layer]


@contextlib.contextmanager
def _hooked(run: LinearRun, hook: Callable[[tuple[str, int], Tensor], Hook]) -> Generator[None]:
    """Change the gradient that flows back from each kind of node."""
    with contextlib.ExitStack() as stack:
        for key, x in _sites(run):
            stack.callback(x.register_hook(hook(key, x)).remove)
        yield


def _masked(g: Tensor, run: LinearRun, mask: Float[Tensor, "pos unit"]) -> Tensor:
    by_column = torch.zeros(g.shape[1], mask.shape[1])
    by_column[run.prompt.columns] = mask
    by_unit = g.unflatten(-1, (mask.shape[1], -1)) * by_column[..., None].to(g)
    return by_unit.reshape(g.shape)
