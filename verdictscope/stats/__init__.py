"""Estimates with their uncertainty. A leaf: it imports nothing of verdictscope."""

from verdictscope.stats.auroc import AurocBootstrap, auroc, auroc_bootstrap, auroc_many
from verdictscope.stats.auroc_clustered import ClusteredAuroc, auroc_clustered, auroc_effect, auroc_se_many
from verdictscope.stats.bootstrap import (
    RESAMPLES,
    Column,
    Draws,
    cluster_bootstrap,
    draw_clusters,
    percentile_interval,
    permutation_p,
)
from verdictscope.stats.degenerate import ends_to_show
from verdictscope.stats.effect import Effect, effects_frame
from verdictscope.stats.intervals import (
    difference_effect,
    independent_difference,
    mean_effect,
    rate_effect,
    ratio_effect,
    ratio_interval,
    wilson,
)
from verdictscope.stats.sign_flips import FLIPS, SignFlips, sign_flip_test

__all__ = [
    "FLIPS",
    "RESAMPLES",
    "AurocBootstrap",
    "ClusteredAuroc",
    "Column",
    "Draws",
    "Effect",
    "SignFlips",
    "auroc",
    "auroc_bootstrap",
    "auroc_clustered",
    "auroc_effect",
    "auroc_many",
    "auroc_se_many",
    "cluster_bootstrap",
    "difference_effect",
    "draw_clusters",
    "effects_frame",
    "ends_to_show",
    "independent_difference",
    "mean_effect",
    "percentile_interval",
    "permutation_p",
    "rate_effect",
    "ratio_effect",
    "ratio_interval",
    "sign_flip_test",
    "wilson",
]
