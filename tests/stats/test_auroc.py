"""AUROC against scikit-learn, and its interval in the cases that fool a bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from verdictscope.errors import InputError
from verdictscope.stats import auroc, auroc_clustered, auroc_effect, auroc_se_many, draw_clusters


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
    assert auroc_clustered(y, s, g, strata=harm).estimate == pytest.approx(expected)


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


def test_the_closed_variance_is_delongs_for_independent_rows_and_the_bootstraps_for_grouped_ones() -> None:
    rng = np.random.default_rng(5)
    y = np.repeat([0, 1], [30, 50])
    s = rng.normal(size=80) + y
    found = auroc_clustered(y, s, np.arange(80))
    above = np.array([(v > s[y == 0]).mean() for v in s[y == 1]])
    below = np.array([(v < s[y == 1]).mean() for v in s[y == 0]])
    assert found.variance == pytest.approx(above.var(ddof=1) / 50 + below.var(ddof=1) / 30)
    assert found.df <= 29
    g = np.repeat(np.arange(100), 6)
    y = rng.integers(0, 2, 600)
    s = np.sqrt(0.5) * rng.normal(size=100)[g] + np.sqrt(0.5) * rng.normal(size=600) + y
    drawn = draw_clusters(g, 4000, 0)
    spread = np.std(auroc(y, s, drawn.counts[:, drawn.codes].astype(float)))
    assert np.sqrt(auroc_clustered(y, s, g).variance) == pytest.approx(spread, rel=0.08)
    by_row = np.sqrt(auroc_clustered(y, s, np.arange(600)).variance)
    assert by_row < 0.9 * np.sqrt(auroc_clustered(y, s, y * 100 + g // 2).variance)


def test_copies_of_a_row_add_nothing() -> None:
    rng = np.random.default_rng(6)
    y = np.repeat([0, 1], 20)
    s = rng.normal(size=40) + y
    once = auroc_clustered(y, s, np.arange(40))
    thrice = auroc_clustered(np.tile(y, 3), np.tile(s, 3), np.tile(np.arange(40), 3))
    assert thrice.interval() == pytest.approx(once.interval())


def test_strata_keep_the_clusters_of_a_group_together() -> None:
    rng = np.random.default_rng(7)
    g = np.repeat(np.arange(60), 4)
    y, level = rng.integers(0, 2, 240), np.tile([0, 0, 1, 1], 60)
    s = 2 * rng.normal(size=60)[g] + y
    drawn = draw_clusters(g, 4000, 0)
    weights = drawn.counts[:, drawn.codes].astype(float)
    spread = np.std(np.mean([auroc(y[level == k], s[level == k], weights[:, level == k]) for k in (0, 1)], axis=0))
    assert np.sqrt(auroc_clustered(y, s, g, strata=level).variance) == pytest.approx(spread, rel=0.1)


def test_a_few_groups_that_carry_the_variance_widen_the_interval() -> None:
    y = np.repeat([0, 1], 50)
    s = np.r_[np.linspace(0, 1, 50), np.linspace(2, 3, 50)]
    s[50] = 0.5
    found = auroc_clustered(y, s, np.arange(100))
    assert found.df < 10
    low, high = found.interval()
    assert low < 0.95 < found.estimate < high < 1


def test_a_score_that_never_varies_is_exactly_a_half() -> None:
    effect = auroc_effect("x", np.repeat([0, 1], 10), np.ones(20), np.arange(20))
    assert effect.estimate == 0.5
    assert effect.low < 0.45 < 0.55 < effect.high  # no spread was seen, which is no certainty


def test_every_row_needs_a_group() -> None:
    with pytest.raises(InputError, match="no group"):
        auroc_clustered([0, 1], [0.0, 1.0], ["a", None])
    with pytest.raises(InputError, match="groups but"):
        auroc_clustered([0, 1], [0.0, 1.0], ["a"])


def test_many_standard_errors_are_those_of_one_at_a_time() -> None:
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 2, (30, 24))
    labels[0], labels[1, :-1] = 1, 0  # one class, and one positive row
    scores = rng.normal(size=(30, 24)).round(1)
    scores[2] = labels[2]  # perfect separation
    groups = [f"g{i // 3}" for i in range(24)]
    one = [auroc_clustered(y, s, groups).se for y, s in zip(labels, scores, strict=True)]
    np.testing.assert_allclose(auroc_se_many(labels, scores, groups), one, rtol=1e-12)
