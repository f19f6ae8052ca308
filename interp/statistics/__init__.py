"""Every statistic of the toolkit, each defined once: intervals, tests, controls, agreement."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from interp.errors import StatisticsError
    from interp.statistics.agreement import auroc, expected_jaccard, jaccard, spearman
    from interp.statistics.bootstrap import (
        Equivalence,
        Estimate,
        bootstrap_difference,
        bootstrap_mean,
        bootstrap_ratio,
        equivalence,
        resample_weights,
    )
    from interp.statistics.grouping import Grouping, coordinates, found_groups, silhouette_test
    from interp.statistics.inclusion import inclusion, mean_ranks, random_samples, sample_agreement
    from interp.statistics.random_sets import random_sets
    from interp.statistics.significance import (
        benjamini_hochberg,
        discordant,
        empirical_p,
        mcnemar,
        sign_flip_test,
        wilson,
    )

__all__ = [
    "Equivalence",
    "Estimate",
    "Grouping",
    "StatisticsError",
    "auroc",
    "benjamini_hochberg",
    "bootstrap_difference",
    "bootstrap_mean",
    "bootstrap_ratio",
    "coordinates",
    "discordant",
    "empirical_p",
    "equivalence",
    "expected_jaccard",
    "found_groups",
    "inclusion",
    "jaccard",
    "random_sets",
    "mcnemar",
    "mean_ranks",
    "random_samples",
    "resample_weights",
    "sample_agreement",
    "sign_flip_test",
    "silhouette_test",
    "spearman",
    "wilson",
]

lazy(__name__)
