"""The Wilson interval of a rate."""

from __future__ import annotations

from typing import SupportsFloat

import numpy as np
from scipy import stats

from verdictscope.errors import InputError
from verdictscope.stats.bootstrap import check_confidence


def wilson(successes: SupportsFloat, n: SupportsFloat, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), also for an effective, fractional n.

    For rows that are independent (one per prompt). With several rows per prompt use `rate_effect`.

    Args:
        successes: number of successes, 0 to n.
        n: number of trials.
        confidence: coverage aimed at.

    Returns:
        low and high, NaN for no trials.

    Raises:
        InputError: more successes than trials, or fewer than none.
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
