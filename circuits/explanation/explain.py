"""`explain`: the attribution graph of one prompt."""

import time
from typing import Any

import numpy as np

from circuits.explanation.assembly import Node, Sources, edge_table, node_table, strongest
from circuits.explanation.attribution import LinearRun
from circuits.explanation.graph import AttributionGraph
from circuits.explanation.influence import graph_scores
from circuits.explanation.restricted import carrying, through
from circuits.explanation.target_metric import Target, explained_prompt
from interp.data.pairs import AnswerMode
from interp.errors import DegenerateGap, PlanError
from interp.metrics import DEGENERATE, AnyMetric
from interp.model.model import Model

NODES = 200


def explain(
    model: Model,
    prompt: Any,
    target: Target = None,
    corrupt: Any = None,
    *,
    nodes: int | None = None,
    share: float | None = None,
    edges: float = 0.8,
    metric: AnyMetric | None = None,
    answers: AnswerMode = "whole",
) -> AttributionGraph:
    """Explain what a model predicts after one prompt as a graph of tokens, heads and neurons.

    Against a corrupt prompt multipliers are those of chords between the two (``eap-dg``), and all
    attributions add up to the difference of the metric; of a prompt alone they are RelP's, with
    attention patterns constant, and add up to the metric itself, together with biases.

    Args:
        model: the model.
        prompt: a text, a chat (messages), a token prompt, or a pair, which has a corrupt prompt
            and two answers.
        target: a text that follows the prompt, of one or more tokens; two, of which the second
            is subtracted; how many of the likeliest tokens, weighted by probability; or ``None``:
            a pair's two answers, else the likeliest token.
        corrupt: the prompt to compare with, of any length.
        nodes: how many heads and neurons (of mixtures of experts: MLPs) are shown, each at one
            position: those that together carry most of the target (`carrying`); by default 200.
        share: instead, the largest attributions, as few as add up to this share of all sizes.
        edges: share of each node's absolute in-flow that its edges shown add up to.
        metric: of a pair's answers, as in `interp.patch`; by default ``"logit_diff"``.
        answers: ``"whole"``, or ``"first"``: first tokens alone.

    Raises:
        DataError: no such prompt or target can be made in the model's tokens.
        PlanError: settings that exclude each other, or a model whose blocks cannot be taken apart.
        DegenerateGap: clean and corrupt prompt score the same.

    Source: Ameisen et al. 2025 (transformer-circuits.pub) for graphs of one prompt;
    `interp.attribution` for the linear rules.
    """
    started = time.perf_counter()
    n = node_budget(nodes, share, edges)
    given = explained_prompt(model, prompt, target, corrupt, metric, answers)
    run = LinearRun.of(model, given)
    _refuse_nothing(run)
    chosen = strongest(run, share=share) if n is None else carrying(run, n)
    graph = assembled(run, chosen, edges)
    graph.settings.update(nodes=n, share=share, edges=edges, answers=answers)
    graph.settings["prompt"] = given.record.model_dump(mode="json")
    graph.settings["seconds"] = round(time.perf_counter() - started, 3)
    return graph


def node_budget(nodes: int | None, share: float | None, edges: float) -> int | None:
    """How many nodes are shown, ``None`` by a share; `PlanError` for settings of no graph."""
    if not 0 < edges <= 1:
        raise PlanError(f"edges={edges} is not a share of in-flow; give more than 0, up to 1.")
    if nodes is not None and share is not None:
        raise PlanError("give a number of nodes or a share, not both.")
    if share is not None and not 0 < share <= 1:
        raise PlanError(f"share={share} is not a share of attributions; give more than 0, up to 1.")
    if nodes is not None and nodes < 1:
        raise PlanError(f"nodes={nodes}: a graph shows at least one.")
    return NODES if nodes is None and share is None else nodes


def _refuse_nothing(run: LinearRun) -> None:
    if run.prompt.paired and not abs(run.total) >= DEGENERATE:
        raise DegenerateGap(
            f"degenerate clean/corrupt gap: {run.prompt.metric} is {run.value:.6g} on the prompt "
            f"and {run.low_value:.6g} on the corrupt one; choose prompts or a target that tell "
            "them apart."
        )


def assembled(run: LinearRun, chosen: list[Node], edges: float) -> AttributionGraph:
    """The graph of some nodes of a linearised prompt."""
    sources = Sources.of(run, chosen)
    links, unshown, error = edge_table(run, sources, chosen, edges)
    table = node_table(run, sources, links, unshown)
    flow, whole = through(run, chosen), run.embeddings()
    scores = {"explained": float(flow.sum() / whole.sum()), **graph_scores(table, links)}
    if run.prompt.paired:
        scores["conservation error"] = float(error)
    else:  # what is missing in a sum is the biases' part, so nothing is left to be wrong
        scores["bias"] = 1 - float(whole.sum()) / run.total
    return AttributionGraph(
        model=run.model.name,
        weights_hash=run.model.weights_hash,
        tokens=run.prompt.tokens,
        corrupt_tokens=run.prompt.corrupt_tokens,
        n_prompt=run.prompt.n_prompt,
        target=run.prompt.target,
        metric=run.prompt.metric,
        unit=run.prompt.unit,
        method="eap-dg" if run.prompt.paired else "relp",
        value=run.value,
        corrupt_value=run.low_value if run.prompt.paired else np.nan,
        nodes=table,
        edges=links,
        scores=scores,
    )
