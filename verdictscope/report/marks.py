"""A number's interval and what it is held against as one small drawing, readable without colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from verdictscope.report.evidence import Evidence
from verdictscope.report.words import number, present

WIDTH, HEIGHT, PAD = 168, 34, 6


def mark(evidence: Evidence, beside: Iterable[Evidence] = ()) -> Markup:
    """An SVG of the estimate (dot), its interval (line) and the range of the null (band); empty without a number.

    Only numbers of ours reach the markup, so it is safe as it stands.

    Args:
        evidence: what is drawn.
        beside: what is drawn near it; numbers of one unit share their axis, so that they can be compared.
    """
    if not present(evidence.value):
        return Markup("")
    low, high = _axis([evidence, *(e for e in beside if e.unit == evidence.unit)])

    def x(value: float | None) -> float:
        share = (float(value or 0.0) - low) / (high - low)
        return round(PAD + min(max(share, 0.0), 1.0) * (WIDTH - 2 * PAD), 1)

    parts = [f'<line class="axis" x1="{PAD}" x2="{WIDTH - PAD}" y1="20" y2="20"/>']
    if present(evidence.null_low) and present(evidence.null_high):
        left, right = sorted((x(evidence.null_low), x(evidence.null_high)))
        parts.append(f'<rect class="null" x="{left - 1}" y="5" width="{round(right - left + 2, 1)}" height="15"/>')
    if low < 0 < high:
        parts.append(f'<line class="zero" x1="{x(0.0)}" x2="{x(0.0)}" y1="17" y2="23"/>')
    if present(evidence.low) and present(evidence.high):
        parts.append(f'<line class="span" x1="{x(evidence.low)}" x2="{x(evidence.high)}" y1="12.5" y2="12.5"/>')
    parts.append(f'<circle class="dot" cx="{x(evidence.value)}" cy="12.5" r="3.5"/>')
    ends = f"{low:g}".replace("-", "−"), f"{high:g}".replace("-", "−")
    parts.append(f'<text x="{PAD}" y="32">{ends[0]}</text>')
    parts.append(f'<text class="end" x="{WIDTH - PAD}" y="32">{ends[1]}</text>')
    label = f"{evidence.text} on an axis from {ends[0]} to {ends[1]}" + (
        f", held against {number(evidence.null_low, evidence.unit)} to {number(evidence.null_high, evidence.unit)}"
        if present(evidence.null_high)
        else ""
    )
    return Markup(
        f'<svg class="mark" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )


def _axis(shown: Sequence[Evidence]) -> tuple[float, float]:
    """The scale's own ends for AUROC and rates; elsewhere from 0 to what is shown, a little wider."""
    numbers = (v for e in shown for v in (e.value, e.low, e.high, e.null_low, e.null_high))
    values = [float(v) for v in numbers if v is not None and present(v)]
    unit = shown[0].unit
    if unit == "AUROC":
        return (0.4 if min(values) >= 0.4 else 0.0), 1.0
    if unit == "rate":
        return (-1.0 if min(values) < 0 else 0.0), 1.0
    low, high = min(0.0, *values), max(0.0, *values)
    if low == high:  # nothing but zeros
        return -1.0, 1.0
    step = _step(high - low)
    return step * math.floor(low / step), step * math.ceil(high / step)


def _step(width: float) -> float:
    """A round step, a tenth to a fifth of the width."""
    power = 10.0 ** math.floor(math.log10(max(width, 1e-9) / 10))
    return next(power * k for k in (1, 2, 5, 10) if power * k * 10 >= width)
