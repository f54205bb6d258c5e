"""What to print where a resampled interval has no width."""

from __future__ import annotations

from typing import SupportsFloat

from verdictscope.stats.wilson import wilson

SHARES = ("rate", "share", "share of thinking", "probability")
"""Units of means of numbers between 0 and 1."""


def ends_to_show(
    value: SupportsFloat, low: SupportsFloat, high: SupportsFloat, n: SupportsFloat | None = None, unit: str = ""
) -> tuple[float, float] | None:
    """The ends of an interval, unless they are both the estimate: units that are all alike resample to themselves.

    That says nothing of units not drawn. For a mean of numbers between 0 and 1 (and for an AUROC of 0 or 1) Wilson's
    interval at n units stands in; it is that of outcomes 0 and 1, which vary most, so it is no narrower than it should
    be. For everything else there is no interval to show.

    Args:
        value: the estimate.
        low: lower end as computed.
        high: upper end as computed.
        n: independent units.
        unit: of the estimate.

    Returns:
        the ends, or ``None`` where none can be given.
    """
    value, low, high = float(value), float(low), float(high)
    if high - low > 1e-9 * max(1.0, abs(value)):
        return low, high
    bounded = (unit in SHARES and 0 <= value <= 1) or (unit == "AUROC" and value in (0, 1))
    return wilson(value * float(n), n) if bounded and n is not None and float(n) >= 1 else None
