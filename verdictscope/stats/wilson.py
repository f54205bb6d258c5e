"""Intervals of rates, and of bounded numbers that came out the same in every group."""

from __future__ import annotations

from typing import SupportsFloat

import numpy as np
from scipy import stats

from verdictscope.errors import InputError
from verdictscope.stats.bootstrap import check_confidence

BOUNDS = {
    "rate": (0.0, 1.0),
    "share": (0.0, 1.0),
    "share of thinking": (0.0, 1.0),
    "probability": (0.0, 1.0),
    "probability^2": (0.0, 1.0),
    "AUROC": (0.0, 1.0),
    "coefficient": (-1.0, 1.0),
}
"""Least and largest value by unit; other units have none."""


def wilson(successes: SupportsFloat, n: SupportsFloat, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), also for an effective, fractional n.

    For rows that are independent (one per prompt). With several rows per prompt use `rate_effect`.
    """
    successes, n = float(successes), float(n)
    if not 0 <= successes <= n:
        raise InputError(f"{successes:g} successes of {n:g} trials")
    check_confidence(confidence)
    if n == 0:
        return float("nan"), float("nan")
    z = stats.norm.ppf((1 + confidence) / 2)
    rate = successes / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    # at the ends rounding would leave 1e-17 where the formula gives 0 or 1
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return float(low), float(high)


def unseen_spread(
    estimate: float, clusters: float | int, bounds: tuple[float, float], confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of a bounded number that came out the same in every group; NaN with fewer than two groups.

    No resample differs, which is no certainty: a share ``p`` of further groups may differ, p the upper end of Wilson's
    interval for none of so many groups, and differ as far as the bounds allow. At a bound this is Wilson's interval.
    """
    if clusters < 2:
        return float("nan"), float("nan")
    p = wilson(0, clusters, confidence)[1]
    low, high = bounds
    return float(estimate - p * (estimate - low)), float(estimate + p * (high - estimate))


def ends_to_show(
    value: SupportsFloat, low: SupportsFloat, high: SupportsFloat, n: SupportsFloat | None = None, unit: str = ""
) -> tuple[float, float] | None:
    """The ends of an interval to print; where they are both the estimate, `unseen_spread` if the unit is bounded."""
    value, low, high = float(value), float(low), float(high)
    if high - low > 1e-9 * max(1.0, abs(value)):
        return low, high
    bounds = BOUNDS.get(unit)
    known = bounds is not None and bounds[0] <= value <= bounds[1] and n is not None and float(n) >= 2
    return unseen_spread(value, float(n), bounds) if known else None  # type: ignore[arg-type]
