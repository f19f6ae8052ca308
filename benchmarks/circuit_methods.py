"""How each attribution method ranks components, and how faithful its circuits are.

    python benchmarks/circuit_methods.py --model smollm2-135m --task ioi --out runs/methods

Discovery and test prompts share no entity. Per method: cost in forward-equivalents, Spearman
correlation with exact patching on test prompts (all nodes; a uniform sample of edges), and CPR
and CMD of its circuits on test prompts with 95 % intervals over pairs. One table a model and task.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import interp
from circuits.discovery import Evaluator, Faithfulness, edge_matrix, faithfulness
from interp.attribution.attribute import attribute_edges, attribute_nodes, edges_by
from interp.attribution.contrast import contrasts, forward_equivalents
from interp.attribution.exact import exact_edges
from interp.attribution.scores import EdgeScores
from interp.data.pairs import PromptPairs, tokenise
from interp.data.splits import split_by_entity
from interp.model.graph import Graph
from interp.statistics import spearman

ROOT = Path(__file__).parent.parent
ENTITIES: dict[str, Any] = {
    "country_capitals": "subject",
    "landmark_countries": lambda pair: (pair.answer, pair.wrong_answer),
    "ioi": ("io", "s1"),
}
METHODS = ("eap", "clean-corrupted", "eap-ig", "eap-gl", "relp", "eap-dg")


def halves(task: str, n_discovery: int, n_test: int, seed: int) -> tuple[PromptPairs, PromptPairs]:
    """Pairs of disjoint entities; every pair a template and entity draw of its own."""
    pairs = interp.load_pairs(ROOT / "datasets" / f"{task}.jsonl")
    split = split_by_entity(pairs, by=ENTITIES[task], seed=seed)
    rng = np.random.default_rng(seed)

    def some(rows: PromptPairs, n: int) -> PromptPairs:
        chosen = sorted(rng.permutation(len(rows))[:n].tolist())
        return PromptPairs(tuple(rows[i] for i in chosen), rows.source)

    return some(split["discovery"], n_discovery), some(split["test"], n_test)


def sampled_exact(model: Any, test: PromptPairs, n_edges: int, seed: int) -> tuple[list[int], Any]:
    """Exact effects of a uniform sample of edges, averaged over test pairs."""
    graph = Graph.of(model.arch)
    rng = np.random.default_rng(seed)
    rows = sorted(rng.permutation(graph.n_edges)[:n_edges].tolist())
    edges = [(int(s), int(d)) for s, d in graph.exists.nonzero()[rows]]
    kept, _ = tokenise(model, test, "single")
    effects = torch.cat([exact_edges(model, c, edges) for c in contrasts(model, kept)])
    return rows, effects.mean(0).numpy()


def cost_of(model: Any, pairs: PromptPairs, method: str) -> float:
    """Forward-equivalents of one batch."""
    kept, _ = tokenise(model, pairs[:4], "single")
    contrast = next(contrasts(model, kept))
    return forward_equivalents(model, contrast, lambda: list(edges_by(model, contrast, method)[0]))


def row_of(curve: Faithfulness) -> dict[str, Any]:
    """Areas with intervals, and f at some sizes."""
    f = {f"f_{ranking}": row for ranking, row in curve.f().to_pandas().to_dict("index").items()}
    return {**curve.areas(), **f}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="ioi", choices=sorted(ENTITIES))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--discovery", type=int, default=64)
    parser.add_argument("--test", type=int, default=64)
    parser.add_argument("--edges", type=int, default=300, help="edges patched exactly")
    parser.add_argument("--random", type=int, default=3, help="random rankings, as control")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    model = interp.load_model(args.model)
    found, test = halves(args.task, args.discovery, args.test, args.seed)
    print(f"{args.model} {args.task}: {len(found)} discovery pairs, {len(test)} test pairs")
    ground = Evaluator.of(model, test)
    exact = attribute_nodes(model, test[:32], "exact").mean().values
    rows, effects = (
        sampled_exact(model, test[:16], args.edges, args.seed) if args.edges else ([], [])
    )
    table: dict[str, Any] = {}
    curves: dict[str, Faithfulness] = {}
    for method in args.methods.split(","):
        started = time.perf_counter()
        scores = attribute_edges(model, found, method)
        seconds = time.perf_counter() - started
        curves[method] = faithfulness(ground, scores)
        table[method] = {
            "seconds": seconds,
            "forwards": cost_of(model, found, method),
            **ranks(model, found, scores, exact, rows, effects),
            **row_of(curves[method]),
        }
        show(method, table[method])
    for seed in range(args.random):
        drawn = np.random.default_rng(seed).standard_normal((1, *scores.values.shape[1:]))
        random = scores.values[:1].copy(data=drawn.astype(np.float32))
        control = replace(scores, values=random, method=f"random {seed}")
        table[control.method] = row_of(faithfulness(ground, control))
        show(control.method, table[control.method])
    for method in [m for m in curves if "eap-ig" in curves and m != "eap-ig"]:
        name = f"{method} - eap-ig"
        table[name] = dict(curves[method].minus(curves["eap-ig"]))
        show(name, table[name])
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        options = {k: str(v) for k, v in vars(args).items()}
        record = {"options": options, "full": ground.full.mean(), "methods": table}
        path = args.out / f"{args.model}-{args.task}.json"
        path.write_text(json.dumps(record, indent=1, default=float))


def ranks(
    model: Any, found: PromptPairs, scores: EdgeScores, exact: Any, rows: list[int], effects: Any
) -> dict[str, Any]:
    """Spearman correlations with exact patching of nodes and of the sampled edges."""
    nodes = attribute_nodes(model, found, scores.method).mean().values
    per_edge = edge_matrix(scores)[scores.graph.exists].numpy()
    return {"rho_nodes": spearman(nodes, exact), "rho_edges": spearman(per_edge[rows], effects)}


def show(method: str, row: dict[str, Any]) -> None:
    """One line a method."""
    parts = [f"{method:24s}"]
    if "forwards" in row:
        parts.append(f"{row['forwards']:5.1f} F {row['seconds']:6.1f} s")
    for name in ("rho_nodes", "rho_edges", "CPR", "CMD", "log_CPR", "log_CMD"):
        if name in row:
            value, low, high = row[name]
            parts.append(f"{name} {value:.3f} [{low:.3f}, {high:.3f}]")
    print("  ".join(parts), flush=True)


if __name__ == "__main__":
    main()
