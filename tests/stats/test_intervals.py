"""Rates, means, differences and ratios of grouped rows against references and planted truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from verdictscope.errors import InputError
from verdictscope.stats import (
    difference_effect,
    draw_clusters,
    independent_difference,
    mean_effect,
    percentile_interval,
    permutation_p,
    rate_effect,
    ratio_interval,
    wilson,
)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (10, 10), (37, 200), (0, 1), (1, 1)])
def test_wilson_is_scipys(k: int, n: int) -> None:
    reference = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_wilson_of_nothing_is_nothing() -> None:
    assert np.isnan(wilson(0, 0)).all()
    with pytest.raises(InputError):
        wilson(3, 2)


def test_a_rate_with_one_row_per_prompt_is_nearly_wilson() -> None:
    hits = np.repeat([1, 0], [30, 70])
    effect = rate_effect("x", hits, np.arange(100))
    assert (effect.low, effect.high) == pytest.approx(wilson(30, 100), abs=0.006)
    assert effect.n == 100


def test_a_rate_counts_prompts_not_samples() -> None:
    prompts = np.repeat([1, 0], [15, 35])
    single = rate_effect("x", prompts, np.arange(50))
    copied = rate_effect("x", np.repeat(prompts, 8), np.repeat(np.arange(50), 8))
    assert copied.low == pytest.approx(single.low)
    assert copied.high == pytest.approx(single.high)


def test_no_hits_at_all_is_not_certainty() -> None:
    effect = rate_effect("x", np.zeros(80), np.repeat(np.arange(20), 4))
    assert effect.estimate == effect.low == 0
    assert effect.high == pytest.approx(wilson(0, 20)[1])
    assert np.isnan(rate_effect("x", np.ones(8), np.zeros(8)).low)
    assert np.isnan(rate_effect("x", [], []).estimate)


def test_the_bootstrap_standard_error_is_the_cluster_robust_one() -> None:
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(60), 5)
    x = rng.normal(size=60)[g] + rng.normal(size=300)
    drawn = draw_clusters(g, 4000, 1)
    draws = drawn.counts @ drawn.sums(x) / (5 * 60)
    robust = np.sqrt((np.bincount(g, weights=x - x.mean()) ** 2).sum()) / 300
    assert draws.std() == pytest.approx(robust, rel=0.05)
    effect = mean_effect("x", x, g, unit="logit", resamples=4000, seed=1)
    t = stats.t.ppf(0.975, 59) * np.sqrt(60 / 59)
    assert effect.high - effect.low == pytest.approx(2 * t * robust, rel=0.06)
    # rows of one prompt taken for independent ones would claim less than half of that
    naive = 2 * 1.96 * x.std() / np.sqrt(300)
    assert naive < 0.65 * (effect.high - effect.low)


def test_same_prompts_get_the_same_draws_in_any_order() -> None:
    names = ["b", "a", "c", "a"]
    first, second = draw_clusters(names, 20, 5), draw_clusters(["c", "a", "b"], 20, 5)
    assert first.names == second.names == ("a", "b", "c")
    np.testing.assert_array_equal(first.counts, second.counts)


def test_a_difference_pairs_shared_prompts() -> None:
    rng = np.random.default_rng(1)
    base = 5 * rng.normal(size=40)
    g = np.arange(40)
    paired = difference_effect("x", base + 1, g, base, g, unit="logit")
    assert (paired.estimate, paired.low, paired.high) == pytest.approx((1, 1, 1))
    apart = difference_effect("x", base + 1, g, base, g + 100, unit="logit")
    assert apart.high - apart.low > 2
    assert apart.n == 40


def test_a_ratio_whose_denominator_may_be_zero_has_no_bounds() -> None:
    rng = np.random.default_rng(2)
    g = np.arange(50)
    bottom = rng.normal(10, 1, 50)
    drawn = draw_clusters(g, 500, 0)
    top, below = drawn.counts @ bottom, drawn.counts @ rng.normal(0.01, 1, 50)
    assert ratio_interval(0.5 * top, top, 50) == pytest.approx((0.5, 0.5))
    assert np.isnan(ratio_interval(top, below, 50)).all()


def test_nan_rows_are_left_out_and_one_group_has_no_interval() -> None:
    effect = mean_effect("x", [1.0, np.nan, 3.0], ["a", "b", "c"], unit="logit")
    assert effect.estimate == 2
    assert effect.n == 2
    alone = mean_effect("x", [1.0, 2.0], ["a", "a"], unit="logit")
    assert alone.estimate == 1.5
    assert np.isnan([alone.low, alone.high]).all()
    assert np.isnan(mean_effect("x", [], [], unit="logit").estimate)
    assert difference_effect("x", [], [], [1.0], ["a"], unit="logit").n == 0


def test_a_row_without_a_group_is_an_error() -> None:
    with pytest.raises(InputError, match="group"):
        mean_effect("x", [1.0, 2.0], ["a", None], unit="logit")
    with pytest.raises(InputError, match="groups"):
        mean_effect("x", [1.0, 2.0], ["a"], unit="logit")


def test_percentile_interval_widens_for_few_clusters_and_is_nan_for_one() -> None:
    draws = np.random.default_rng(3).normal(size=(20000, 3))
    low, high = percentile_interval(draws, np.array([1, 5, 1000]))
    assert np.isnan(low[0])
    assert high[1] == pytest.approx(stats.t.ppf(0.975, 4) * np.sqrt(5 / 4), rel=0.1)
    assert high[2] == pytest.approx(1.96, rel=0.05)


def test_small_samples_of_means_cover() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for i in range(300):
        effect = mean_effect("x", rng.normal(size=8), np.arange(8), unit="logit", resamples=400, seed=i)
        hits += effect.low <= 0 <= effect.high
    assert hits / 300 > 0.90  # the plain percentile interval covers about .88


@pytest.mark.parametrize(("alternative", "expected"), [("greater", 3 / 5), ("less", 4 / 5), ("two-sided", 1.0)])
def test_permutation_p_counts_itself_and_ties(alternative: str, expected: float) -> None:
    assert permutation_p(0.3, [0.1, 0.2, 0.3, 0.4], alternative) == pytest.approx(expected)


def test_permutation_p_is_never_zero_and_nan_draws_count_against() -> None:
    assert permutation_p(10, np.zeros(99)) == 0.01
    assert permutation_p(10, [0, np.nan]) == pytest.approx(2 / 3)
    assert np.isnan(permutation_p(np.nan, [0.0]))
    with pytest.raises(InputError):
        permutation_p(1.0, [])
    with pytest.raises(InputError, match="unknown alternative"):
        permutation_p(1.0, [0.0], "more")


def test_permutation_p_agrees_with_scipy() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(0.4, 1, 30), rng.normal(size=30)

    def difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return a.mean(axis) - b.mean(axis)

    result = stats.permutation_test((x, y), difference, n_resamples=499, alternative="greater", rng=rng)
    assert permutation_p(result.statistic, result.null_distribution) == pytest.approx(result.pvalue)


def test_effects_print_and_tabulate() -> None:
    effect = mean_effect("drop", [1.0, 2.0], ["a", "b"], unit="logit")
    assert "drop: 1.5" in str(effect)
    from verdictscope.stats import effects_frame

    assert list(effects_frame([effect]).columns)[:4] == ["name", "estimate", "low", "high"]
    assert isinstance(effects_frame([]), pd.DataFrame)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.02, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("prompts", [20, 100])
def test_rate_intervals_cover(rate: float, prompts: int) -> None:
    rng = np.random.default_rng([int(rate * 100), prompts])
    g = np.repeat(np.arange(prompts), 4)
    hits = 0
    for _ in range(2000):
        p = rng.beta(2 * rate, 2 * (1 - rate), prompts)
        effect = rate_effect("x", rng.random(g.size) < p[g], g)
        hits += effect.low <= rate <= effect.high
    print(f"rate {rate}, {prompts} prompts x 4: coverage {hits / 2000:.3f}")
    assert hits / 2000 > 0.92


def test_a_difference_of_independent_rates_is_newcombes() -> None:
    """Worked example (a) of Newcombe, Statistics in Medicine 17 (1998), method 10: 56/70 against 48/80."""
    first, second = ((k / n, *wilson(k, n)) for k, n in ((56, 70), (48, 80)))
    assert independent_difference(first, second) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert np.isnan(independent_difference((np.nan, 0.0, 1.0), second)[0])
