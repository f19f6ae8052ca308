"""Every statistic of the toolkit, each defined once: intervals, tests, controls, agreement."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from interp.errors import StatisticsError
    from interp.statistics.agreement import auroc, jaccard, spearman, stability
    from interp.statistics.bootstrap import (
        Equivalence,
        Estimate,
        bootstrap_difference,
        bootstrap_mean,
        bootstrap_ratio,
        equivalence,
        resample_weights,
    )
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
    "StatisticsError",
    "auroc",
    "benjamini_hochberg",
    "bootstrap_difference",
    "bootstrap_mean",
    "bootstrap_ratio",
    "discordant",
    "empirical_p",
    "equivalence",
    "jaccard",
    "random_sets",
    "mcnemar",
    "resample_weights",
    "sign_flip_test",
    "spearman",
    "stability",
    "wilson",
]

lazy(__name__)
