"""AUROC against scikit-learn, and its interval in the cases that fool a bootstrap."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from verdictscope.errors import InputError
from verdictscope.stats import auroc, auroc_bootstrap, auroc_effect


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=40
    )
)
def test_auroc_is_scikit_learns_with_ties_and_weights(rows: list[tuple[int, int, int, int]]) -> None:
    y, s, g, w = (np.array(c) for c in zip(*rows, strict=True))
    if len(set(y)) < 2:
        assert np.isnan(auroc(y, s))
        return
    assert auroc(y, s) == pytest.approx(roc_auc_score(y, s))
    both = np.stack([np.ones(len(y)), w.astype(float)])
    plain, weighted = auroc(y, s, both)
    assert plain == pytest.approx(roc_auc_score(y, s))
    if (w[y == 1]).sum() and (w[y == 0]).sum():
        assert weighted == pytest.approx(roc_auc_score(y, s, sample_weight=w))
    else:
        assert np.isnan(weighted)


def test_the_draws_are_the_aurocs_of_the_resampled_rows() -> None:
    rng = np.random.default_rng(0)
    g = rng.integers(0, 12, 200)
    y, s = rng.integers(0, 2, 200), rng.integers(0, 30, 200)
    boot = auroc_bootstrap(y, s, g, resamples=50, seed=3)
    from verdictscope.stats import draw_clusters

    drawn = draw_clusters(g, 50, 3)
    np.testing.assert_allclose(boot.draws, auroc(y, s, drawn.counts[:, drawn.codes].astype(float)))
    assert boot.estimate == pytest.approx(roc_auc_score(y, s))


def test_strata_average_within_and_ignore_what_separates_them() -> None:
    rng = np.random.default_rng(1)
    harm = np.repeat([0, 1], 200)
    y = (rng.random(400) < np.where(harm, 0.8, 0.2)).astype(int)
    g = np.arange(400)
    only_harm = auroc_effect("x", y, harm, g, strata=harm)
    assert auroc(y, harm) > 0.7
    assert only_harm.estimate == 0.5
    s = rng.normal(size=400) + y
    expected = np.mean([roc_auc_score(y[harm == h], s[harm == h]) for h in (0, 1)])
    assert auroc_bootstrap(y, s, g, strata=harm).estimate == pytest.approx(expected)


def test_perfect_separation_is_not_certainty() -> None:
    y = np.repeat([0, 1], 20)
    effect = auroc_effect("x", y, y * 2.0, np.arange(40))
    assert effect.estimate == 1.0
    assert effect.high == 1.0
    # Clopper-Pearson for 20 pairs of 20
    assert effect.low == pytest.approx(stats.binomtest(20, 20).proportion_ci(method="exact").low)
    assert auroc_effect("x", y, -y, np.arange(40)).high == pytest.approx(1 - effect.low)
    # twenty rows of one prompt are one prompt
    few = auroc_effect("x", y, y * 2.0, np.repeat([0, 1, 2, 3], 10))
    assert few.low < 0.2


def test_no_interval_without_two_groups_or_two_classes() -> None:
    rng = np.random.default_rng(2)
    s = rng.normal(size=20)
    for y, g in ((np.zeros(20), np.arange(20)), (np.repeat([0, 1], 10), np.zeros(20))):
        effect = auroc_effect("x", y, s, g)
        assert np.isnan([effect.low, effect.high]).all()
    one_positive_group = auroc_effect("x", np.r_[1, 1, np.zeros(18)], s, np.r_[0, 0, np.arange(18) + 1])
    assert np.isnan(one_positive_group.low)
    empty = auroc_effect("x", [], [], [])
    assert empty.n == 0
    assert np.isnan(empty.estimate)


@pytest.mark.parametrize(
    ("y", "s"), [([0, 1, 2], [1, 2, 3]), ([0, 1], [np.nan, 1]), ([0, 1], [1, 2, 3]), ([[0, 1]], [[1, 2]])]
)
def test_wrong_input_is_one_clear_error(y: list, s: list) -> None:
    with pytest.raises(InputError):
        auroc(y, s)


def test_two_thousand_resamples_of_six_thousand_rows_are_quick() -> None:
    rng = np.random.default_rng(3)
    y, s, g = rng.integers(0, 2, 6000), rng.normal(size=6000), np.repeat(np.arange(150), 40)
    begin = time.process_time()
    auroc_bootstrap(y, s, g)
    assert time.process_time() - begin < 2


def clustered(rng: np.random.Generator, a: float, groups: int, rows: int, icc: float) -> tuple[np.ndarray, ...]:
    """Labels by group, normal scores with intra-class correlation ``icc`` and a true AUROC ``a``."""
    g = np.repeat(np.arange(groups), rows)
    y = g % 2
    noise = np.sqrt(icc) * rng.normal(size=groups)[g] + np.sqrt(1 - icc) * rng.normal(size=g.size)
    return y, np.sqrt(2) * stats.norm.ppf(a) * y + noise, g


def coverage(a: float, groups: int, icc: float, sims: int, resamples: int) -> float:
    rng = np.random.default_rng([int(a * 1000), groups, int(icc * 10)])
    hits = 0
    for i in range(sims):
        y, s, g = clustered(rng, a, groups, 4, icc)
        low, high = auroc_bootstrap(y, s, g, resamples=resamples, seed=i).interval()
        hits += low <= a <= high
    return hits / sims


def test_the_interval_covers_a_true_99_with_forty_prompts() -> None:
    # the percentile interval covers about .8 here
    assert coverage(0.99, 40, 0.5, 200, 200) > 0.89


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("a", [0.75, 0.9, 0.99])
@pytest.mark.parametrize("groups", [40, 120, 400])
@pytest.mark.parametrize("icc", [0.2, 0.8])
def test_intervals_cover(a: float, groups: int, icc: float) -> None:
    got = coverage(a, groups, icc, 600, 400)
    print(f"AUROC {a}, {groups} prompts, icc {icc}: coverage {got:.3f}")
    # three binomial standard errors around 93 to 97.5 %
    assert 0.93 - 0.031 <= got <= 0.975 + 0.019
