"""The probe against scikit-learn, and its scores in raw space."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from verdictscope.errors import InputError
from verdictscope.probes import LogisticProbe


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    x = rng.normal(size=(300, 12)) * np.logspace(-2, 2, 12) + 50
    x[:, 3] += y * x[:, 3].std()
    x[:, 5] = 7.0
    return x, y


def expected_failures(estimator: LogisticProbe) -> dict[str, str]:
    return {"check_do_not_raise_errors_in_init_or_set_params": "the test run checks argument types on construction"}


@parametrize_with_checks([LogisticProbe()], expected_failed_checks=expected_failures)
def test_scikit_learns_estimator_checks(estimator: LogisticProbe, check: object) -> None:
    check(estimator)  # type: ignore[operator]


@pytest.mark.parametrize("C", [0.01, 1.0, 100])
def test_scores_are_those_of_the_standardised_pipeline(rows: tuple[np.ndarray, np.ndarray], C: float) -> None:
    x, y = rows
    probe = LogisticProbe(C=C).fit(x, y)
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10)
    reference = make_pipeline(StandardScaler(), model).fit(x, y)
    np.testing.assert_allclose(probe.decision_function(x), reference.decision_function(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x @ probe.direction_ + probe.bias_, probe.decision_function(x))
    assert probe.direction_.shape == (12,)
    assert probe.direction_[5] == 0  # a constant feature


def test_wide_features_agree_with_the_exact_solver() -> None:
    rng = np.random.default_rng(1)
    y = np.arange(80) % 2
    x = rng.normal(size=(80, 1100)) + 0.3 * y[:, None]
    probe = LogisticProbe(C=0.1).fit(x, y)
    exact = LogisticRegression(C=0.1, tol=1e-9, max_iter=5000)
    reference = make_pipeline(StandardScaler(), exact).fit(x, y)
    np.testing.assert_allclose(probe.decision_function(x), reference.decision_function(x), atol=1e-3)


def test_weight_two_is_the_row_twice_and_weight_zero_is_no_row(rows: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = rows
    weight = np.tile([0.0, 1.0, 2.0], 100)
    weighted = LogisticProbe().fit(x, y, sample_weight=weight)
    repeated = LogisticProbe().fit(np.repeat(x, weight.astype(int), axis=0), np.repeat(y, weight.astype(int)))
    np.testing.assert_allclose(weighted.direction_, repeated.direction_, rtol=1e-5, atol=1e-9)


def test_scikit_learn_manners(rows: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = rows
    probe = clone(LogisticProbe(C=0.5)).fit(x, np.where(y, "refused", "complied"))
    assert probe.get_params() == {"C": 0.5, "max_iter": 1000, "tol": 1e-6}
    assert list(probe.classes_) == ["complied", "refused"]
    assert set(probe.predict(x)) == {"complied", "refused"}
    assert probe.score(x, np.where(y, "refused", "complied")) > 0.6


def test_a_score_is_no_probability() -> None:
    # earlier code drew sigmoid(w h + b) at positions the probe never saw as a probability
    assert not hasattr(LogisticProbe(), "predict_proba")


def test_a_rescaled_feature_changes_no_score(rows: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = rows
    scale = np.logspace(-3, 3, 12)
    first, second = LogisticProbe().fit(x, y), LogisticProbe().fit(x * scale, y)
    np.testing.assert_allclose(first.decision_function(x), second.decision_function(x * scale), rtol=1e-6, atol=1e-8)


def test_the_readout_holds_the_probe(rows: tuple[np.ndarray, np.ndarray]) -> None:
    probe = LogisticProbe().fit(*rows)
    readout = probe.readout("refusal", "resid_post", 4)
    np.testing.assert_array_equal(np.asarray(readout.weight), probe.direction_)
    assert (readout.name, readout.site, readout.layer, readout.bias) == ("refusal", "resid_post", 4, probe.bias_)
    assert readout.final_norm is False


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_is_an_input_error(rows: tuple[np.ndarray, np.ndarray], bad: float) -> None:
    x, y = rows
    broken = x.copy()
    broken[7, 2] = bad
    with pytest.raises(InputError):
        LogisticProbe().fit(broken, y)
    with pytest.raises(InputError):
        LogisticProbe().fit(x, y).decision_function(broken)


def test_one_class_is_an_input_error(rows: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = rows
    with pytest.raises(InputError, match="two classes"):
        LogisticProbe().fit(x, np.ones_like(y))
    with pytest.raises(InputError, match="two classes"):
        LogisticProbe().fit(x, y, sample_weight=y.astype(float))
    with pytest.raises(InputError, match="binary"):
        LogisticProbe().fit(x, np.arange(300) % 3)


def test_the_callers_arrays_stay_as_they_were(rows: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = rows
    before = x.copy()
    LogisticProbe().fit(x, y).decision_function(x)
    np.testing.assert_array_equal(x, before)
