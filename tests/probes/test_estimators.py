"""Every probe against scikit-learn's contract, an independent reference and its own theorems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from verdictscope.errors import InputError
from verdictscope.probes.estimators import DifferenceProbe, LdaProbe, LogisticProbe, RidgeProbe, ScoreProbe

BINARY = [LogisticProbe(), RidgeProbe(), DifferenceProbe(), DifferenceProbe(whiten=True), LdaProbe()]
ALL = [*BINARY, ScoreProbe()]
SHAPES = [(40, 90), (90, 12)]
ids = repr


def expected_failures(estimator: Any) -> dict[str, str]:
    return {"check_do_not_raise_errors_in_init_or_set_params": "the test run checks argument types on construction"}


@parametrize_with_checks(ALL, expected_failed_checks=expected_failures)
def test_scikit_learns_estimator_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def data(n: int, d: int, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([n, d, seed])
    y = rng.permutation(np.arange(n) % classes)
    X = rng.normal(size=(n, d)) * rng.uniform(0.1, 10, d) + 5
    X[:, :6] += 0.8 * y[:, None] * X[:, :6].std(axis=0)
    return X, y, rng.uniform(0.5, 2, n)


def folded(scaler: StandardScaler, coef: np.ndarray) -> np.ndarray:
    return coef / scaler.scale_


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_ridge_is_scikit_learns(n: int, d: int) -> None:
    X, y, weight = data(n, d)
    given = {"standardscaler__sample_weight": weight}
    both = make_pipeline(StandardScaler(), RidgeClassifier(alpha=3)).fit(
        X, y, ridgeclassifier__sample_weight=weight, **given
    )
    probe = RidgeProbe(alpha=3).fit(X, y, weight)
    np.testing.assert_allclose(probe.decision_function(X), both.decision_function(X), rtol=1e-6, atol=1e-9)
    number = make_pipeline(StandardScaler(), Ridge(alpha=3)).fit(X, y * 2.5, ridge__sample_weight=weight, **given)
    np.testing.assert_allclose(ScoreProbe(alpha=3).fit(X, y * 2.5, weight).predict(X), number.predict(X), rtol=1e-6)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("shrinkage", [0.1, 0.9, 1.0])
def test_lda_is_scikit_learns_on_standardised_features(n: int, d: int, shrinkage: float) -> None:
    X, y, _ = data(n, d)
    scaler = StandardScaler().fit(X)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(scaler.transform(X), y)
    probe = LdaProbe(shrinkage=shrinkage).fit(X, y)
    np.testing.assert_allclose(probe.direction_, folded(scaler, reference.coef_[0]), rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(
        probe.decision_function(X), reference.decision_function(scaler.transform(X)), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_ledoit_and_wolfs_share_is_scikit_learns(n: int, d: int) -> None:
    X, y, _ = data(n, d)
    Z = StandardScaler().fit_transform(X)
    within = Z - np.stack([Z[y == k].mean(axis=0) for k in (0, 1)])[y]
    share = ledoit_wolf_shrinkage(within, assume_centered=True)
    automatic, given = LdaProbe().fit(X, y), LdaProbe(shrinkage=share).fit(X, y)
    np.testing.assert_allclose(automatic.direction_, given.direction_, rtol=1e-8)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_differences_in_means(n: int, d: int) -> None:
    X, y, weight = data(n, d)
    means = [np.average(X[y == k], axis=0, weights=weight[y == k]) for k in (0, 1)]
    probe = DifferenceProbe().fit(X, y, weight)
    np.testing.assert_allclose(probe.direction_, means[1] - means[0])
    low, high = probe.decision_function(np.stack(means))
    assert high == pytest.approx(-low)
    whitened, lda = DifferenceProbe(whiten=True).fit(X, y, weight), LdaProbe().fit(X, y, weight)
    np.testing.assert_allclose(whitened.direction_, lda.direction_)
    odds = np.log(weight[y == 1].sum() / weight[y == 0].sum())
    assert lda.bias_ - whitened.bias_ == pytest.approx(odds)


def test_streamed_moments_give_the_probe_of_the_rows() -> None:
    X, y, _ = data(90, 12)
    n = np.bincount(y).astype(float)
    mean = np.stack([X[y == k].mean(axis=0) for k in (0, 1)])
    cov = np.stack([np.cov(X[y == k].T, bias=True) for k in (0, 1)])
    for probe in (DifferenceProbe(), DifferenceProbe(whiten=True, shrinkage=0.2), LdaProbe(shrinkage=0.2)):
        rows, streamed = clone(probe).fit(X, y), clone(probe).fit_moments(n, mean, cov)
        np.testing.assert_allclose(streamed.decision_function(X), rows.decision_function(X), rtol=1e-8, atol=1e-8)
    pooled = LdaProbe(shrinkage=0.2).fit_moments(n, mean, np.tensordot(n / n.sum(), cov, 1))
    np.testing.assert_allclose(pooled.direction_, LdaProbe(shrinkage=0.2).fit(X, y).direction_, rtol=1e-8)
    with pytest.raises(InputError, match="needs rows, not moments"):
        LdaProbe().fit_moments(n, mean, cov)


@pytest.mark.parametrize("probe", ALL, ids=ids)
class TestInput:
    def test_weight_two_is_the_row_twice_and_weight_zero_is_no_row(self, probe: Any) -> None:
        for n, d in SHAPES:
            X, y, _ = data(n, d)
            times = np.random.default_rng(1).integers(0, 3, n)
            a = clone(probe).fit(X, y, times.astype(float))
            b = clone(probe).fit(np.repeat(X, times, axis=0), np.repeat(y, times))
            np.testing.assert_allclose(a.direction_, b.direction_, rtol=1e-3, atol=1e-5 * np.abs(a.direction_).max())

    def test_string_labels_and_frames(self, probe: Any) -> None:
        X, y, _ = data(40, 90)
        if isinstance(probe, ScoreProbe):
            return
        names = np.where(y, "refused", "complied")
        fitted = clone(probe).fit(pd.DataFrame(X).add_prefix("h"), names)
        assert set(fitted.predict(pd.DataFrame(X).add_prefix("h"))) <= {"refused", "complied"}
        assert list(fitted.feature_names_in_[:2]) == ["h0", "h1"]
        np.testing.assert_allclose(fitted.direction_, clone(probe).fit(X, y).direction_)

    def test_missing_labels_and_features_are_one_clear_error(self, probe: Any) -> None:
        X, y, _ = data(40, 90)
        for missing in (np.where(y, 1.0, np.nan), np.where(y, "yes", None), pd.array([1, None] * 20, dtype="Int64")):
            with pytest.raises(InputError, match="missing"):
                clone(probe).fit(X, missing)
        for bad in (np.nan, np.inf):
            broken = X.copy()
            broken[3, 4] = bad
            with pytest.raises(InputError, match="NaN|infinity"):
                clone(probe).fit(broken, y)
        with pytest.raises(InputError, match="non-zero"):
            clone(probe).fit(X, y, np.zeros(40))

    def test_one_class_is_one_clear_error(self, probe: Any) -> None:
        X, y, _ = data(40, 90)
        if isinstance(probe, ScoreProbe):
            return
        with pytest.raises(InputError, match="got one class, 1"):
            clone(probe).fit(X, np.ones(40, dtype=int))
        with pytest.raises(InputError, match="got one class, 1"):
            clone(probe).fit(X, y, y.astype(float))

    def test_constant_features_get_no_weight(self, probe: Any) -> None:
        for n, d in SHAPES:
            X, y, _ = data(n, d)
            X[:, 7] = 3.3
            fitted = clone(probe).fit(X, y)
            assert np.isfinite(fitted.direction_).all()
            assert np.abs(fitted.direction_[7]) <= 1e-9

    def test_the_readout_scores_as_the_probe_and_nothing_is_changed(self, probe: Any) -> None:
        X, y, _ = data(40, 90)
        before = X.copy()
        fitted = clone(probe).fit(X, y)
        np.testing.assert_array_equal(X, before)
        readout = fitted.readout("refusal", "resid_post", 3)
        scores = fitted.predict(X) if isinstance(probe, ScoreProbe) else fitted.decision_function(X)
        np.testing.assert_allclose(X @ np.asarray(readout.weight) + readout.bias, scores, atol=1e-9)


def test_mixed_precision_activations_are_taken() -> None:
    torch = pytest.importorskip("torch")
    X, y, _ = data(40, 90)
    for probe in BINARY:
        half = clone(probe).fit(X.astype(np.float32), y)
        np.testing.assert_allclose(half.direction_, clone(probe).fit(torch.tensor(X).float(), y).direction_, rtol=1e-5)


@pytest.mark.parametrize("C", [0.01, 1.0, 100])
def test_a_reference_for_wide_features(C: float) -> None:
    X, y, _ = data(60, 400)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10)).fit(X, y)
    scores = LogisticProbe(C=C).fit(X, y).decision_function(X)
    np.testing.assert_allclose(scores, reference.decision_function(X), rtol=1e-5, atol=1e-6)
