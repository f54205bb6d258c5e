"""Estimates with their uncertainty. A leaf: it imports nothing of verdictscope."""

from verdictscope.stats.auroc import auroc, auroc_many
from verdictscope.stats.auroc_clustered import ClusteredAuroc, auroc_clustered, auroc_effect, auroc_se_many
from verdictscope.stats.bootstrap import RESAMPLES, Column, Draws, draw_clusters, percentile_interval
from verdictscope.stats.columns import group_names, index_of, joined, same_order
from verdictscope.stats.effect import Effect, effects_frame
from verdictscope.stats.intervals import (
    difference_effect,
    drawn_interval,
    independent_difference,
    mean_effect,
    rate_effect,
    ratio_interval,
)
from verdictscope.stats.p_values import TOLERANCE, permutation_p, tie_slack
from verdictscope.stats.permutation import Permutation, Scheme, permutation_of
from verdictscope.stats.sign_flips import FLIPS, SignFlips, sign_flip_test
from verdictscope.stats.wilson import BOUNDS, ends_to_show, unseen_spread, wilson

__all__ = [
    "BOUNDS",
    "FLIPS",
    "RESAMPLES",
    "TOLERANCE",
    "ClusteredAuroc",
    "Column",
    "Draws",
    "Effect",
    "Permutation",
    "Scheme",
    "SignFlips",
    "auroc",
    "auroc_clustered",
    "auroc_effect",
    "auroc_many",
    "auroc_se_many",
    "difference_effect",
    "draw_clusters",
    "drawn_interval",
    "effects_frame",
    "ends_to_show",
    "independent_difference",
    "group_names",
    "index_of",
    "joined",
    "mean_effect",
    "percentile_interval",
    "permutation_of",
    "permutation_p",
    "rate_effect",
    "ratio_interval",
    "same_order",
    "sign_flip_test",
    "tie_slack",
    "unseen_spread",
    "wilson",
]
