"""Scores of every prompt, resampled: inclusion of edges and nodes, agreement of samples."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.metrics import adjusted_rand_score

from circuits.discovery.stability_result import Stability
from circuits.discovery.stability_settings import StabilitySettings
from interp.attribution.scores import EdgeScores
from interp.errors import PlanError
from interp.model.graph import Graph
from interp.statistics import (
    Estimate,
    coordinates,
    empirical_p,
    found_groups,
    inclusion,
    mean_ranks,
    random_samples,
    resample_weights,
    sample_agreement,
    silhouette_test,
)
from interp.statistics.inclusion import rank_correlations, set_jaccard, top_members

PARTS = (8, 4, 2)
"""Disjoint samples have an eighth, a quarter and a half of the pairs or entities."""
LEAST = 4
"""Pairs or entities that can be resampled; an eighth needs 8."""
N_NESTED, N_INNER = 50, 200
"""Bootstraps of the bootstrap for the count of stable edges, and resamples in each."""
N_REPLICATED = 20
"""Halves of which the stable edges are looked for in the other half."""
N_SHUFFLED = 100
"""Random deals of the groups' labels."""

PerPair = Float[np.ndarray, "pair component"]


def resampled(
    scores: Sequence[EdgeScores],
    settings: StabilitySettings,
    groups: Sequence[str] | None = None,
    entities: Sequence[str] | None = None,
) -> Stability:
    """What `stability` finds without running a model, from scores by the settings' methods.

    Args:
        scores: of the same pairs, a method each.
        settings: see there.
        groups: group of each pair.
        entities: entity of each pair; pairs that share one are resampled together.

    Raises:
        PlanError: scores of other pairs, models or methods, or too few pairs or components.
    """
    settings.check()
    first = scores[0]
    _refuse_unlike(scores, settings)
    refuse_sizes(settings, first.graph)
    edges = [one.values.values for one in scores]
    nodes = [node_sums(one, first.graph) for one in edges]
    member = pd.factorize(np.array(entities or first.values["pair"].values, dtype=object))[0]
    n_units = int(member.max()) + 1
    if n_units < LEAST:
        raise PlanError(
            f"{n_units} pairs or entities are too few to resample; give {LEAST} or more."
        )
    drawn = resample_weights(n_units, settings.seed, settings.resamples)[:, member]
    of_groups = None if groups is None else _indicator(groups)
    tables: dict[str, Any] = {
        name: _table(values, drawn, of_groups, n, not settings.signed)
        for name, values, n in (("edge", edges, settings.edges), ("node", nodes, settings.nodes))
    }
    tables["edge"].insert(0, "edge", list(first.graph.edge_names))
    tables["node"].insert(0, "node", list(first.graph.sources))
    points = coordinates(edges[0])
    found = found_groups(points, seed=settings.seed)
    pairs = pd.DataFrame({"pair": first.values["pair"].values})
    pairs = pairs if groups is None else pairs.assign(group=list(groups))
    pairs = pairs if entities is None else pairs.assign(entity=list(entities))
    rows = [("found groups: silhouette", found.silhouette, *found.by_chance, found.p)]
    if groups is not None and 1 < len(set(groups)) < len(groups):
        given = silhouette_test(points, groups, settings.seed)
        rows.append(("given groups: silhouette", given.silhouette, *given.by_chance, given.p))
        rows.append(_shared(found.labels, groups, settings.seed))
        rows.append(_group_agreement(edges[0], groups, settings))
    columns = ["test", "value", "by_chance", "low", "high", "p"]
    return Stability(
        edges=tables["edge"],
        nodes=tables["node"],
        samples=_samples(edges[0], nodes[0], member, settings),
        between=_between(scores, of_groups, groups, settings),
        tests=pd.DataFrame(rows, columns=columns),
        pairs=pairs.assign(found=list(found.labels)),
        stable=_count(edges[0], member, tables["edge"]["prompts"], settings),
        held_out=None,
        graph=first.graph,
        settings=settings,
        model=first.model,
        weights_hash=first.weights_hash,
        metric=first.metric,
        source=first.source,
        answers=first.answers,
        excluded=first.excluded,
        prompts=first.prompts,
        warnings=first.warnings,
    )


def node_sums(edges: PerPair, graph: Graph) -> PerPair:
    """Sums of the scores of the edges that leave each node.

    By `eap`, `eap-dg` and `relp` this is the score of the node itself; methods that integrate take
    other points for nodes.
    """
    n_out = graph.exists.sum(1).numpy()
    return np.add.reduceat(edges, np.concatenate([[0], n_out.cumsum()[:-1]]), axis=1)


def refuse_sizes(settings: StabilitySettings, graph: Graph) -> None:
    """Refuse (`PlanError`) circuits of all there is."""
    for name, of in (("edges", graph.n_edges), ("nodes", graph.n_sources)):
        if getattr(settings, name) >= of:
            raise PlanError(
                f"--{name} {getattr(settings, name)}: there are {of} {name}; take fewer, as all of "
                "them are always the same."
            )


def _refuse_unlike(scores: Sequence[EdgeScores], settings: StabilitySettings) -> None:
    methods = tuple(one.method for one in scores)
    if methods != settings.methods:
        raise PlanError(
            f"scores by {', '.join(methods)}, and settings for {', '.join(settings.methods)}; give "
            "the scores of each method in turn."
        )
    measured = {
        (one.weights_hash, one.metric, one.answers, *one.values["pair"].values.tolist())
        for one in scores
    }
    if len(measured) > 1:
        raise PlanError(
            "the methods' scores are of other pairs, weights, metrics or answers; score the same "
            "prompts with each."
        )


# --- inclusion ---------------------------------------------------------------------------------


def _table(
    scores: Sequence[PerPair],
    drawn: Float[np.ndarray, "sample pair"],
    groups: Float[np.ndarray, "group pair"] | None,
    n: int,
    absolute: bool,
) -> pd.DataFrame:
    own = scores[0]
    table = pd.DataFrame({"score": own.mean(0), "rank": mean_ranks(own, drawn)})
    table["prompts"] = inclusion(own, drawn, n, absolute)
    if groups is not None:
        table["groups"] = inclusion(own, groups, n, absolute)
    if len(scores) > 1:
        others = [inclusion(one, drawn, n, absolute) for one in scores[1:]]
        table["methods"] = np.mean([table["prompts"], *others], axis=0)
    return table


def _count(
    scores: PerPair, member: Int[np.ndarray, " pair"], held: pd.Series, settings: StabilitySettings
) -> Estimate:
    """How many edges are at the threshold, with an interval: the count in resamples of the pairs.

    Each is resampled in its turn: a resample's weights are drawn by the outer resample's.
    """
    n_units = int(member.max()) + 1
    rng = np.random.default_rng([settings.seed, 2])
    counts = []
    for outer in resample_weights(n_units, settings.seed + 1, N_NESTED):
        inner = rng.multinomial(n_units, outer / n_units, size=N_INNER)[:, member]
        again = inclusion(scores, inner.astype(float), settings.edges, not settings.signed)
        counts.append((again >= settings.threshold).sum())
    low, high = np.quantile(counts, [0.025, 0.975])
    return Estimate(float((held >= settings.threshold).sum()), float(low), float(high))


# --- agreement ---------------------------------------------------------------------------------


def _samples(
    edges: PerPair, nodes: PerPair, member: Int[np.ndarray, " pair"], settings: StabilitySettings
) -> pd.DataFrame:
    n_units, absolute = int(member.max()) + 1, not settings.signed
    tables: list[pd.DataFrame] = []
    halves = random_samples(n_units, n_units // 2, settings.splits, settings.seed)
    for part in (part for part in PARTS if part <= n_units):
        drawn = random_samples(n_units, n_units // part, settings.splits, settings.seed)
        first, second = (units[:, member] for units in drawn)
        jaccard, correlation = sample_agreement(edges, first, second, settings.edges, absolute)
        of_nodes, _ = sample_agreement(nodes, first, second, settings.nodes, absolute)
        columns: dict[str, Any] = {"part": f"1/{part}", "n_pairs": (first + second).sum(1) / 2}
        columns |= {"edges": jaccard, "nodes": of_nodes, "rank_correlation": correlation}
        tables.append(pd.DataFrame(columns))
    again = pd.DataFrame(
        [
            _replicated(edges, member, (halves[0][at], halves[1][at]), at, settings)
            for at in range(min(N_REPLICATED, settings.splits))
        ],
        columns=["stable", "replicated", "rest"],
    )
    tables[-1] = tables[-1].join(again)
    return pd.concat(tables, ignore_index=True)


def _replicated(
    edges: PerPair,
    member: Int[np.ndarray, " pair"],
    halves: tuple[Float[np.ndarray, " unit"], Float[np.ndarray, " unit"]],
    at: int,
    settings: StabilitySettings,
) -> tuple[float, float, float]:
    """Edges at the threshold in one half, and the part of them among the other half's top edges.

    Last the same part of the first half's other top edges.
    """
    n, absolute = settings.edges, not settings.signed
    rng, size = np.random.default_rng([settings.seed, 3, at]), int(halves[0].sum())
    inner = rng.multinomial(size, halves[0] / size, size=N_INNER)[:, member].astype(float)
    stable = inclusion(edges, inner, n, absolute) >= settings.threshold
    sums = np.stack(halves)[:, member].astype(edges.dtype) @ edges
    top, other = top_members(np.abs(sums) if absolute else sums, n)
    rest = top & ~stable
    with np.errstate(invalid="ignore"):
        parts = [np.divide((which & other).sum(), which.sum()) for which in (stable, rest)]
    return float(stable.sum()), float(parts[0]), float(parts[1])


def _between(
    scores: Sequence[EdgeScores],
    of_groups: Float[np.ndarray, "group pair"] | None,
    groups: Sequence[str] | None,
    settings: StabilitySettings,
) -> pd.DataFrame:
    """Agreement of every two groups, and of every two methods."""
    rows: list[tuple[Any, ...]] = []
    methods = np.stack([one.values.values.mean(0) for one in scores])
    kinds: list[tuple[str, Sequence[str], np.ndarray]] = [("methods", settings.methods, methods)]
    if of_groups is not None and groups is not None:
        values = scores[0].values.values
        sums = of_groups.astype(values.dtype) @ values
        kinds.insert(0, ("groups", list(dict.fromkeys(groups)), sums))
    for kind, names, sums in kinds:
        top = top_members(sums if settings.signed else np.abs(sums), settings.edges)
        for a, b in combinations(range(len(names)), 2):
            shared = set_jaccard(top[a : a + 1], top[b : b + 1])
            alike = rank_correlations(sums[a : a + 1], sums[b : b + 1])
            rows.append((kind, names[a], names[b], float(shared[0]), float(alike[0])))
    return pd.DataFrame(rows, columns=["kind", "first", "second", "edges", "rank_correlation"])


def _group_agreement(
    edges: PerPair, groups: Sequence[str], settings: StabilitySettings
) -> tuple[Any, ...]:
    """Mean Jaccard index of two groups' top edges, beside labels dealt at random.

    p is of groups that agree as little.
    """
    rng = np.random.default_rng([settings.seed, 4])

    def mean(weights: Float[np.ndarray, "group pair"]) -> float:
        sums = weights.astype(edges.dtype) @ edges
        top = top_members(sums if settings.signed else np.abs(sums), settings.edges)
        member = top.astype(np.float32)
        shared = (member @ member.T)[np.triu_indices(len(top), 1)]
        return float((shared / (2 * settings.edges - shared)).mean())

    own = _indicator(groups)
    null = np.array([mean(own[:, rng.permutation(len(groups))]) for _ in range(N_SHUFFLED)])
    value, (low, high) = mean(own), np.quantile(null, [0.025, 0.975])
    p = float(empirical_p(value, null, "less"))
    return ("given groups: Jaccard of top edges", value, float(null.mean()), low, high, p)


def _shared(found: Sequence[int], groups: Sequence[str], seed: int) -> tuple[Any, ...]:
    """How far found groups are the given ones, beside labels dealt at random."""
    rng, value = np.random.default_rng([seed, 5]), adjusted_rand_score(found, groups)
    null = np.array([adjusted_rand_score(rng.permutation(found), groups) for _ in range(1000)])
    low, high = np.quantile(null, [0.025, 0.975])
    p = float(empirical_p(value, null))
    return ("found and given groups: adjusted Rand index", value, null.mean(), low, high, p)


def _indicator(groups: Sequence[str]) -> Float[np.ndarray, "group pair"]:
    codes, names = pd.factorize(np.array(groups, dtype=object))
    return (np.arange(len(names))[:, None] == codes).astype(float)
