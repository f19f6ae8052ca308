"""Every statistic of the toolkit, each defined once: intervals, tests, controls, agreement."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from interp.errors import StatisticsError as StatisticsError
    from interp.statistics.agreement import auroc as auroc
    from interp.statistics.agreement import expected_jaccard as expected_jaccard
    from interp.statistics.agreement import jaccard as jaccard
    from interp.statistics.agreement import spearman as spearman
    from interp.statistics.bootstrap import Equivalence as Equivalence
    from interp.statistics.bootstrap import Estimate as Estimate
    from interp.statistics.bootstrap import bootstrap_difference as bootstrap_difference
    from interp.statistics.bootstrap import bootstrap_mean as bootstrap_mean
    from interp.statistics.bootstrap import bootstrap_ratio as bootstrap_ratio
    from interp.statistics.bootstrap import equivalence as equivalence
    from interp.statistics.bootstrap import resample_weights as resample_weights
    from interp.statistics.grouping import Grouping as Grouping
    from interp.statistics.grouping import coordinates as coordinates
    from interp.statistics.grouping import found_groups as found_groups
    from interp.statistics.grouping import silhouette_test as silhouette_test
    from interp.statistics.inclusion import inclusion as inclusion
    from interp.statistics.inclusion import mean_ranks as mean_ranks
    from interp.statistics.inclusion import random_samples as random_samples
    from interp.statistics.inclusion import sample_agreement as sample_agreement
    from interp.statistics.random_sets import random_sets as random_sets
    from interp.statistics.significance import benjamini_hochberg as benjamini_hochberg
    from interp.statistics.significance import discordant as discordant
    from interp.statistics.significance import empirical_p as empirical_p
    from interp.statistics.significance import mcnemar as mcnemar
    from interp.statistics.significance import sign_flip_test as sign_flip_test
    from interp.statistics.significance import wilson as wilson
    from interp.statistics.ties import near_ties as near_ties

lazy(__name__)
