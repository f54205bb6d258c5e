"""A number's interval and its null as one small drawing, readable without colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from verdictscope.report.words import decimals, estimate, number
from verdictscope.study.criteria import Evidence

WIDTH, HEIGHT, PAD = 168, 34, 6


def mark(evidence: Evidence, beside: Iterable[Evidence] = ()) -> Markup:
    """An SVG of the estimate (dot), its interval (line) and the range of the null (band); empty without a number.

    Only numbers of ours reach the markup, so it is safe as it stands.

    Args:
        evidence: what is drawn.
        beside: what is drawn near it; numbers of one unit share their axis, so that they can be compared.
    """
    row = evidence.result
    if row is None or row.estimate is None:
        return Markup("")
    low, high = _axis([evidence, *(e for e in beside if e.result and e.result.unit == row.unit)])

    def x(value: float) -> float:
        share = (value - low) / (high - low)
        return round(PAD + min(max(share, 0.0), 1.0) * (WIDTH - 2 * PAD), 1)

    parts = [f'<line class="axis" x1="{PAD}" x2="{WIDTH - PAD}" y1="20" y2="20"/>']
    if evidence.null_low is not None and evidence.null_high is not None:
        left, right = sorted((x(evidence.null_low), x(evidence.null_high)))
        parts.append(f'<rect class="null" x="{left - 1}" y="5" width="{round(right - left + 2, 1)}" height="15"/>')
    if low < 0 < high:
        parts.append(f'<line class="zero" x1="{x(0.0)}" x2="{x(0.0)}" y1="17" y2="23"/>')
    if row.low is not None and row.high is not None:
        parts.append(f'<line class="span" x1="{x(row.low)}" x2="{x(row.high)}" y1="12.5" y2="12.5"/>')
    parts.append(f'<circle class="dot" cx="{x(row.estimate)}" cy="12.5" r="3.5"/>')
    ends = f"{low:g}".replace("-", "−"), f"{high:g}".replace("-", "−")
    parts.append(f'<text x="{PAD}" y="32">{ends[0]}</text>')
    parts.append(f'<text class="end" x="{WIDTH - PAD}" y="32">{ends[1]}</text>')
    label = f"{estimate(row)} on an axis from {ends[0]} to {ends[1]}"
    if evidence.null_low is not None and evidence.null_high is not None:
        digits = decimals("", evidence.null_low, evidence.null_high)
        label += f", compared with {number(evidence.null_low, digits)} to {number(evidence.null_high, digits)}"
    return Markup(
        f'<svg class="mark" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )


def _axis(shown: Sequence[Evidence]) -> tuple[float, float]:
    """The scale's own ends for AUROC and rates; elsewhere from 0 to what is shown, a little wider."""
    rows = [(e.result, e) for e in shown if e.result is not None]
    numbers = [v for row, e in rows for v in (row.estimate, row.low, row.high, e.null_low, e.null_high)]
    values = [float(v) for v in numbers if v is not None]
    unit = rows[0][0].unit
    if unit == "AUROC":
        return (0.4 if min(values) >= 0.4 else 0.0), 1.0
    if unit == "rate":
        return (-1.0 if min(values) < 0 else 0.0), 1.0
    low, high = min(0.0, *values), max(0.0, *values)
    if low == high:  # nothing but zeros
        return -1.0, 1.0
    width = high - low
    power = 10.0 ** math.floor(math.log10(max(width, 1e-9) / 10))
    step = next(power * k for k in (1, 2, 5, 10) if power * k * 10 >= width)
    return step * math.floor(low / step), step * math.ceil(high / step)
