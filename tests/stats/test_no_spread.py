"""Numbers that came out the same in every group: an interval that is no certainty."""

from __future__ import annotations

import numpy as np
import pytest

from verdictscope.errors import InputError
from verdictscope.judgments.metrics.measure import contrast, mean, measured, share
from verdictscope.stats import (
    auroc_effect,
    difference_effect,
    mean_effect,
    percentile_interval,
    rate_effect,
    unseen_spread,
    wilson,
)

GROUPS = [f"g{i}" for i in range(9)]


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_share_that_never_varied(value: float) -> None:
    found = mean_effect("agree", [value] * 9, GROUPS, unit="share of thinking")
    p = wilson(0, 9)[1]
    assert (found.low, found.high) == pytest.approx((value - p * value, value + p * (1 - value)))
    assert found.high - found.low > 0.25
    assert unseen_spread(1.0, 9, (0.0, 1.0)) == pytest.approx(wilson(9, 9))
    assert rate_effect("all", [1] * 9, GROUPS).low == pytest.approx(wilson(9, 9)[0])


def test_measures_of_a_judge_that_is_always_right() -> None:
    ones = np.ones(9)
    right, averaged = share("accuracy", ones, ones, ""), mean("accuracy, orders averaged", ones, "rate", "")
    table = measured([right, averaged, contrast("gap", right, averaged, "")], GROUPS).set_index("name")
    for name in ("accuracy", "accuracy, orders averaged"):
        assert table.loc[name, "low"] == pytest.approx(wilson(9, 9)[0])
        assert table.loc[name, "high"] == 1.0
    assert table.loc["gap", "low"] < -0.2 < 0.2 < table.loc["gap", "high"]


def test_a_difference_of_shares_without_spread() -> None:
    found = difference_effect("d", [1.0] * 9, GROUPS, [1.0] * 9, GROUPS, unit="rate")
    assert (found.estimate, found.n) == (0.0, 9)
    assert found.low < -0.2 < 0.2 < found.high
    exact = difference_effect("d", [1.0] * 9, GROUPS, [0.0] * 9, GROUPS, unit="logit")  # no bounds to reason from
    assert (exact.low, exact.high) == (1.0, 1.0)


def test_aurocs_without_spread() -> None:
    labels, groups = np.tile([0, 1], 6), np.arange(12)
    flat = auroc_effect("a", labels, np.zeros(12), groups)
    assert (flat.estimate, flat.low < 0.3, flat.high > 0.7) == (0.5, True, True)
    perfect = auroc_effect("a", labels, labels.astype(float), groups)
    assert (perfect.estimate, perfect.high) == (1.0, 1.0)
    assert perfect.low < 0.6


def test_one_group_has_no_interval_and_a_confidence_is_a_share() -> None:
    assert np.isnan(mean_effect("a", [1.0, 1.0], ["g", "g"], unit="rate").low)
    for call in (lambda: wilson(3, 9, 95.0), lambda: percentile_interval(np.arange(9.0), 9, 0.0)):
        with pytest.raises(InputError, match="confidence"):
            call()


def test_an_interval_without_width_is_not_printed() -> None:
    found = mean_effect("a", [0.5] * 9, GROUPS, unit="nats")
    assert "[" not in str(found)
    assert "[" in str(mean_effect("a", [0.5] * 8 + [0.4], GROUPS, unit="nats"))
