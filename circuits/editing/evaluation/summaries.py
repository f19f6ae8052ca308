"""Scores of cases as figures: means with intervals, by what the edits are like, and paired."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from circuits.editing.evaluation.metrics import DAMAGE, METRICS
from interp.errors import PlanError
from interp.statistics import bootstrap_mean, discordant, mcnemar

SHOWN = (*METRICS, *DAMAGE)
YES_OR_NO = ("multi_hop", "instance_wise")
"""Metrics that are 0 or 1 of each case and seed."""


def summary(
    scores: pd.DataFrame,
    by: Sequence[str] = (),
    n_resamples: int = 2000,
    level: float = 0.95,
) -> pd.DataFrame:
    """Mean of every metric over cases, with an interval over clusters.

    Args:
        scores: of `circuits.editing.evaluation.metrics.score`, with columns of `DAMAGE` where
            they were measured; seeds of one case are averaged.
        by: columns to split the cases by, such as ``position``, ``n_hops`` and ``n_edits``.
        n_resamples: bootstrap resamples of clusters.
        level: coverage.

    Returns:
        One row a group and metric: ``value``, ``low``, ``high``, the number of cases that have
        the metric, and of their clusters. Metrics that no case has are left out.
    """
    means = _over_seeds(scores, by)
    groups = [*(["arm"] if "arm" in means else []), *by]
    parts: Any = means.groupby(groups, sort=False) if groups else [((), means)]
    lines: list[pd.DataFrame] = []
    for names, part in parts:
        line = _means(part, part[list(SHOWN)].to_numpy(float), n_resamples, level)
        for column, name in reversed(list(zip(groups, names, strict=True))):
            line.insert(0, column, name)
        lines.append(line)
    return pd.concat(lines, ignore_index=True)


def compare(
    scores: pd.DataFrame,
    arm: str,
    other: str,
    by: Sequence[str] = (),
    n_resamples: int = 2000,
    level: float = 0.95,
) -> pd.DataFrame:
    """Paired difference of two arms, case by case.

    Args:
        scores: of both arms, of the same cases.
        arm: the first.
        other: what is subtracted.
        by: as in `summary`.
        n_resamples: bootstrap resamples of clusters.
        level: coverage.

    Returns:
        As `summary`, of differences over the cases where both have the metric; and for yes-or-no
        metrics McNemar's test: how many cases only the first, and only the other got right (with
        several seeds: in more than half of them), and its p-value, which knows no clusters.

    Raises:
        PlanError: an arm is missing, or the arms were scored on different cases.
    """
    means = _over_seeds(scores, by)
    first, second = (_of_arm(means, name) for name in (arm, other))
    if list(first.index) != list(second.index):
        odd = sorted(set(first.index) ^ set(second.index))
        raise PlanError(
            f"{arm!r} and {other!r} were scored on different cases ({len(odd)} only in one, such "
            f"as {odd[0]!r}); compare them on the same."
        )
    parts: Any = first.groupby(list(by), sort=False) if by else [((), first)]
    lines: list[pd.DataFrame] = []
    for names, part in parts:
        a, b = (arm_[list(SHOWN)].loc[part.index] for arm_ in (first, second))
        line = _means(part, (a - b).to_numpy(float), n_resamples, level)
        line[["only_first", "only_other", "p"]] = [_mcnemar(a, b, m) for m in line["metric"]]
        for column, name in reversed(list(zip(by, names, strict=True))):
            line.insert(0, column, name)
        lines.append(line)
    return pd.concat(lines, ignore_index=True)


def _over_seeds(scores: pd.DataFrame, by: Sequence[str]) -> Any:
    for name in by:
        if name not in scores:
            raise PlanError(f"the scores have no column {name!r} to split by.")
    keys = [name for name in ("arm", "case") if name in scores]
    about = [name for name in dict.fromkeys(("cluster", *by)) if name in scores]
    how = dict.fromkeys(about, "first") | dict.fromkeys(SHOWN, "mean")
    measured = scores.reindex(columns=[*dict.fromkeys([*scores.columns, *SHOWN])])
    return measured.groupby(keys, sort=False).agg(how).reset_index()


def _of_arm(means: Any, arm: str) -> Any:
    found = means[means["arm"] == arm] if "arm" in means else means[:0]
    if not len(found):
        arms = ", ".join(map(repr, means["arm"].unique())) if "arm" in means else "no arms"
        raise PlanError(f"no scores of arm {arm!r}; the table has {arms}.")
    return found.set_index("case").sort_index()


def _means(
    cases: Any, values: Float[np.ndarray, "case metric"], n_resamples: int, level: float
) -> pd.DataFrame:
    clusters = list(cases["cluster"]) if "cluster" in cases else list(range(len(cases)))
    mean = bootstrap_mean(values, 0, n_resamples, level, clusters)
    present = ~np.isnan(values)
    named = np.array(clusters, dtype=object)
    line: Any = pd.DataFrame(
        {
            "metric": list(SHOWN),
            "value": mean.value,
            "low": mean.low,
            "high": mean.high,
            "cases": present.sum(0),
            "clusters": [len(set(named[column])) for column in present.T],
        }
    )
    return line[line["cases"] > 0].reset_index(drop=True)


def _mcnemar(a: Any, b: Any, metric: str) -> tuple[float, float, float]:
    both = a[metric].notna() & b[metric].notna()
    if metric not in YES_OR_NO or not both.any():
        return np.nan, np.nan, np.nan
    right = ((frame.loc[both, metric] > 0.5).to_numpy() for frame in (a, b))
    only_first, only_other = discordant(*right)
    return only_first, only_other, mcnemar(only_first, only_other)
