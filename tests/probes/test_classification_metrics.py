"""Figures of merit and calibration against scikit-learn, and what they refuse to say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import _SigmoidCalibration
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score, roc_curve

from verdictscope.errors import InputError
from verdictscope.probes import calibrate, classification_metrics
from verdictscope.probes.metrics import reliability_curve
from verdictscope.stats import wilson


def scores(n: int = 1600, seed: int = 0, gap: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return y, rng.normal(size=n) + gap * y


def test_figures_are_scikit_learns() -> None:
    y, s = scores()
    other_y, other_s = scores(seed=1)
    g = np.arange(len(y))
    found = classification_metrics(y, s, g, fitted_on=(other_y, other_s))
    assert found.auroc.estimate == pytest.approx(roc_auc_score(y, s))
    assert found.accuracy.estimate == pytest.approx(accuracy_score(y, s > found.cut))
    assert found.brier.estimate == pytest.approx(brier_score_loss(y, found.calibration.probability(s)))
    fpr, tpr, _ = roc_curve(y, s)
    assert found.tpr is not None
    assert found.tpr.estimate == pytest.approx(tpr[fpr <= 0.01].max())
    assert ((s > found.threshold) & (y == 0)).sum() / (y == 0).sum() <= 0.01
    cuts = np.unique(other_s)
    best = max(accuracy_score(other_y, other_s > c) for c in cuts)
    assert accuracy_score(other_y, other_s > found.cut) == pytest.approx(best)
    # one row per prompt: Wilson's own interval
    hits = int(((s > found.cut) == y).sum())
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx(wilson(hits, len(y)))
    assert not found.in_sample
    assert classification_metrics(y, s, g).in_sample


def test_ece_is_the_weighted_gap_of_bins_of_equal_mass() -> None:
    y, s = scores(1000)
    found = classification_metrics(y, s, np.arange(1000), fitted_on=scores(seed=1))
    p = found.calibration.probability(s)
    order = np.argsort(p, kind="stable")
    gaps = [abs(p[at].mean() - y[at].mean()) * len(at) for at in np.array_split(order, 10)]
    assert found.bins == 10
    assert found.reliability["n"].tolist() == [100] * 10
    assert found.ece == pytest.approx(sum(gaps) / 1000)
    assert (found.reliability["low"] <= found.reliability["rate"]).all()
    assert len(reliability_curve(y[:45], p[:45], np.arange(45))) == 4
    assert len(reliability_curve(y, np.full(1000, 0.5), np.arange(1000))) == 1


def test_tpr_at_one_per_cent_needs_three_hundred_negative_prompts() -> None:
    y, s = scores(598)
    few = classification_metrics(y, s, np.arange(598))
    assert few.tpr is None
    assert few.threshold is None
    assert "299 negative prompts, and 300 are needed" in few.not_estimable
    assert "not estimable" in repr(few)
    assert "not estimable" in few._repr_html_()
    assert np.isnan(few.to_frame().loc[1, "estimate"])
    assert classification_metrics(*scores(600), np.arange(600)).tpr is not None
    # a thousand rows of fifty prompts are fifty prompts
    assert classification_metrics(*scores(1000), np.arange(1000) // 20).tpr is None
    assert classification_metrics(*scores(80), np.arange(80), fpr=0.1).tpr is not None


def test_rows_of_a_prompt_widen_rates() -> None:
    y, s = scores(400)
    alone = classification_metrics(y, s, np.arange(400)).accuracy
    copies = classification_metrics(np.repeat(y, 5), np.repeat(s, 5), np.repeat(np.arange(400), 5)).accuracy
    assert copies.estimate == alone.estimate
    assert copies.n == alone.n
    assert copies.high - copies.low == pytest.approx(alone.high - alone.low, rel=0.02)


def test_platt_is_scikit_learns_sigmoid() -> None:
    for gap, scale in ((2.0, 1.0), (0.5, 40.0), (8.0, 0.01)):
        y, s = scores(400, gap=gap)
        s = scale * s + 3
        reference = _SigmoidCalibration().fit(s, y)
        ours = calibrate(y, s)
        np.testing.assert_allclose(ours.probability(s), reference.predict(s), atol=2e-4)


def test_a_temperature_is_the_slope_of_a_logistic_regression_through_zero() -> None:
    y, s = scores(600)
    s = 3 * (s - 1)
    reference = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10).fit(s[:, None], y)
    found = calibrate(y, s, "temperature")
    assert found.slope == pytest.approx(reference.coef_[0, 0], rel=1e-3)
    assert found.offset == 0.0


def test_a_separable_score_keeps_a_finite_slope() -> None:
    y = np.repeat([0, 1], 20)
    found = calibrate(y, 10.0 * y)
    p = found.probability(10.0 * y)
    assert np.isfinite(found.slope)
    assert p[0] == pytest.approx(1 / 22, abs=1e-4)
    assert p[-1] == pytest.approx(21 / 22, abs=1e-4)


@pytest.mark.parametrize(
    ("y", "s", "message"),
    [([1, 1], [0.1, 0.2], "two classes"), ([0, 1], [0.1, np.nan], "NaN"), ([0, 2], [0.1, 0.2], "0 or 1")],
)
def test_wrong_input(y: list, s: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        classification_metrics(y, s, ["a", "b"])
    with pytest.raises(InputError, match="infinite|both classes|NaN|0 or 1"):
        calibrate(y, [0.1, np.inf] if message == "two classes" else s)
