"""Scores of cases as figures: means with intervals, by what the edits are like, and paired."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import hmean

from interp.errors import PlanError
from interp.statistics import bootstrap_mean, discordant, mcnemar, resample_weights
from interp.statistics.bootstrap import cluster_sums

LABELS = ("condition", "seed", "case", "cluster", "position", "n_hops", "n_edits")
"""Columns of scores that are not metrics."""


def summary(
    scores: pd.DataFrame, by: Sequence[str] = (), harmonic: tuple[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """Mean of every metric over cases, with a 95 % bootstrap interval over clusters.

    `scores` has one line per case, condition and seed (seeds are averaged); every column beside
    `LABELS` is a metric. Cases are split `by` columns such as ``position``; `harmonic` names a
    harmonic mean to add, and the metrics of whose means it is taken.

    Returns:
        Per group and metric: ``value``, ``low``, ``high``, and the numbers of cases that have it
        and of their clusters. Metrics that no case has are left out.
    """
    means, metrics = _over_seeds(scores, by)

    def line(part: Any) -> pd.DataFrame:
        own = _means(part, part[metrics].to_numpy(float), metrics)
        more = [_harmonic(part, harmonic[0], list(harmonic[1]))] if harmonic else []
        return pd.concat([own, *more], ignore_index=True)

    return _by_group(means, [*(["condition"] if "condition" in means else []), *by], line)


def compare(
    scores: pd.DataFrame, condition: str, other: str, by: Sequence[str] = ()
) -> pd.DataFrame:
    """Paired difference of two conditions (the first minus the other), case by case.

    Returns:
        As `summary`, of differences over the cases where both have the metric; and for yes-or-no
        metrics (0 or 1 of each case and seed) McNemar's test: how many cases only the first, and
        only the other got right (with several seeds: in more than half of them), and its p-value,
        which knows no clusters.
    """
    means, metrics = _over_seeds(scores, by)
    yes_or_no = {name for name in metrics if {*scores[name].dropna()} <= {0, 1}}
    first, second = (_of_condition(means, name) for name in (condition, other))
    if list(first.index) != list(second.index):
        odd = sorted(set(first.index) ^ set(second.index))
        raise PlanError(
            f"{condition!r} and {other!r} were scored on different cases ({len(odd)} only in one, "
            f"such as {odd[0]!r}); compare them on the same."
        )

    def line(part: Any) -> pd.DataFrame:
        a, b = (frame[metrics].loc[part.index] for frame in (first, second))
        own = _means(part, (a - b).to_numpy(float), metrics)
        own[["only_first", "only_other", "p"]] = [
            _mcnemar(a[name], b[name]) if name in yes_or_no else (np.nan,) * 3
            for name in own["metric"]
        ]
        return own

    return _by_group(first, list(by), line)


def _over_seeds(scores: pd.DataFrame, by: Sequence[str]) -> tuple[Any, list[str]]:
    """One line per case, and the metrics."""
    for name in by:
        if name not in scores:
            raise PlanError(f"the scores have no column {name!r} to split by.")
    metrics = [name for name in scores.columns if name not in LABELS]
    keys = [name for name in ("condition", "case") if name in scores]
    about = [name for name in dict.fromkeys(("cluster", *by)) if name in scores]
    how = dict.fromkeys(about, "first") | dict.fromkeys(metrics, "mean")
    return scores.groupby(keys, sort=False).agg(how).reset_index(), metrics


def _by_group(
    means: Any, columns: Sequence[str], line: Callable[[Any], pd.DataFrame]
) -> pd.DataFrame:
    parts: Any = means.groupby(columns, sort=False) if columns else [((), means)]
    lines: list[pd.DataFrame] = []
    for names, part in parts:
        own = line(part)
        for column, name in reversed(list(zip(columns, names, strict=True))):
            own.insert(0, column, name)
        lines.append(own)
    return pd.concat(lines, ignore_index=True)


def _of_condition(means: Any, condition: str) -> Any:
    found = means[means["condition"] == condition] if "condition" in means else means[:0]
    if not len(found):
        names = map(repr, means["condition"].unique()) if "condition" in means else ["none"]
        raise PlanError(f"no scores of {condition!r}; the table has {', '.join(names)}.")
    return found.set_index("case").sort_index()


def _means(
    cases: Any, values: Float[np.ndarray, "case metric"], metrics: Sequence[str]
) -> pd.DataFrame:
    clusters = _clusters(cases)
    mean = bootstrap_mean(values, clusters=clusters)
    present = ~np.isnan(values)
    named = np.array(clusters, dtype=object)
    line: Any = pd.DataFrame(
        {
            "metric": list(metrics),
            **mean._asdict(),
            "cases": present.sum(0),
            "clusters": [len(set(named[column])) for column in present.T],
        }
    )
    return line[line["cases"] > 0].reset_index(drop=True)


def _clusters(cases: Any) -> list[Any]:
    return list(cases["cluster"]) if "cluster" in cases else list(range(len(cases)))


def _harmonic(cases: Any, name: str, metrics: list[str]) -> pd.DataFrame:
    """The harmonic mean of metrics' means, resampled as they are."""
    values, clusters = cases[metrics].to_numpy(float), _clusters(cases)
    present = ~np.isnan(values)
    sums = cluster_sums(np.where(present, values, 0.0), clusters)
    counts = cluster_sums(present.astype(float), clusters)
    n = len(sums)
    weights = np.vstack([np.ones(n), resample_weights(n, 0, 2000)])
    with np.errstate(invalid="ignore"):
        draws = hmean((weights @ sums) / (weights @ counts), axis=1)
    low, high = np.nanquantile(draws[1:], [0.025, 0.975]) if n > 1 else (-np.inf, np.inf)
    line = {"metric": name, "value": draws[0], "low": low, "high": high}
    return pd.DataFrame([line | {"cases": len(cases), "clusters": n}])


def _mcnemar(a: Any, b: Any) -> tuple[float, float, float]:
    both = a.notna() & b.notna()
    right = ((values[both] > 0.5).to_numpy() for values in (a, b))
    only_first, only_other = discordant(*right)
    return only_first, only_other, mcnemar(only_first, only_other)
