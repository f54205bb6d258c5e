"""A metric of many units as one row: estimate, interval by resampling whole groups, how many units, how many missing.

A measure says what every unit (an item, or an item and its repeat) adds to some sums, and how the sums become the
number. Written like that, all resamples of all measures of a log rest on the same draws of groups, so metrics of two
judges, or of a judge with and without a cue, are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from verdictscope.stats import BOUNDS, RESAMPLES, draw_clusters, drawn_interval, wilson
from verdictscope.stats.bootstrap import Column, Draws

COLUMNS = ("name", "estimate", "low", "high", "n", "groups", "missing", "unit", "definition")
"""Columns of a table of metrics; :func:`measured` may put others before them."""

_CHUNK = 2_000_000  # numbers a [resample unit] block may hold

Formula = Callable[[Float[ndarray, "*resample part"]], Float[ndarray, "*resample"]]
Statistic = Callable[[Float[ndarray, "resample unit"]], Float[ndarray, " resample"]]


@dataclass(frozen=True, eq=False)
class Measure:
    """One metric before it is computed."""

    name: str
    unit: str
    definition: str
    used: Bool[ndarray, " unit"]
    parts: Float[ndarray, "unit part"] | None = None
    formula: Formula | None = None
    statistic: Statistic | None = None
    rate: bool = False
    pair: tuple[Measure, Measure] | None = None

    def named(self, name: str, definition: str | None = None) -> Measure:
        """The same measure under another name."""
        return replace(self, name=name, definition=definition or self.definition)


def share(name: str, hits: Column, among: Column, definition: str) -> Measure:
    """Share of the units ``among`` that hit."""
    among = np.asarray(among, dtype=bool)
    hits = np.asarray(hits, dtype=bool) & among
    return Measure(name, "rate", definition, among, np.stack([hits, among], axis=1).astype(float), quotient, rate=True)


def mean(name: str, values: Column, unit: str, definition: str) -> Measure:
    """Mean of one number per unit; units with NaN are missing."""
    values = np.asarray(values, dtype=float)
    used = np.isfinite(values)
    parts = np.stack([np.where(used, values, 0.0), used.astype(float)], axis=1)
    return Measure(name, unit, definition, used, parts, quotient)


def contrast(name: str, first: Measure, second: Measure, definition: str, unit: str = "rate") -> Measure:
    """First minus second, over the same resamples; a unit is missing where neither uses it."""
    one, two = (m for m in (first, second))
    if one.parts is None or two.parts is None or one.formula is None or two.formula is None:
        raise TypeError("a contrast needs two measures made of sums")
    width, before, after = one.parts.shape[1], one.formula, two.formula

    def formula(sums: Float[ndarray, "*resample part"]) -> Float[ndarray, "*resample"]:
        return before(sums[..., :width]) - after(sums[..., width:])

    parts = np.concatenate([one.parts, two.parts], axis=1)
    return Measure(name, unit, definition, one.used | two.used, parts, formula, pair=(first, second))


def absent(name: str, unit: str, units: int, definition: str) -> Measure:
    """A metric that this log does not allow: every unit is missing, the number NaN."""
    return Measure(name, unit, definition, np.zeros(units, dtype=bool), np.zeros((units, 2)), quotient)


def ratio(above: Any, below: Any) -> ndarray:
    """``above / below``; NaN where ``below`` is 0."""
    below = np.asarray(below, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.asarray(above) / np.where(below == 0, np.nan, below))


def quotient(sums: Float[ndarray, "*resample part"]) -> Float[ndarray, "*resample"]:
    """The first sum divided by the second."""
    return ratio(sums[..., 0], sums[..., 1])


def measured(
    measures: Iterable[Measure], groups: Column, *, resamples: int = RESAMPLES, seed: int = 0, confidence: float = 0.95
) -> pd.DataFrame:
    """Compute measures that share their units."""
    groups = np.asarray(groups, dtype=object)
    rows = []
    drawn = draw_clusters(groups, resamples, seed) if len(groups) else None
    for measure in measures:
        n = int(measure.used.sum())
        clusters = len({str(g) for g in groups[measure.used]})
        estimate = low = high = float("nan")
        if drawn is not None and n:
            estimate, draws = _drawn(measure, drawn)
            halves = measure.pair
            pair = (_drawn(halves[0], drawn)[0], _drawn(halves[1], drawn)[0]) if halves else None
            low, high = _interval(measure, estimate, draws, clusters, confidence, pair)
        rows.append((measure.name, estimate, low, high, n, clusters, len(groups) - n, measure.unit, measure.definition))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _interval(
    measure: Measure,
    estimate: float,
    draws: ndarray,
    clusters: int,
    confidence: float,
    pair: tuple[float, float] | None,
) -> tuple[float, float]:
    if not np.isfinite(estimate) or clusters < 2:
        return float("nan"), float("nan")
    if measure.rate and estimate in (0.0, 1.0):
        return wilson(estimate * clusters, clusters, confidence)
    if not len(draws):
        return float("nan"), float("nan")
    bounds = BOUNDS.get(measure.unit)
    if bounds is not None and not all(bounds[0] <= value <= bounds[1] for value in pair or (estimate,)):
        bounds = None
    return drawn_interval(draws, estimate, clusters, bounds, confidence, pair=pair)


def _drawn(measure: Measure, drawn: Draws) -> tuple[float, Float[ndarray, " resample"]]:
    if measure.statistic is None:
        assert measure.parts is not None
        assert measure.formula is not None
        sums = drawn.sums(measure.parts)
        return float(measure.formula(sums.sum(axis=0)[None])[0]), measure.formula(drawn.counts @ sums)
    units = len(drawn.codes)
    step = max(1, _CHUNK // units)
    blocks = [
        measure.statistic(drawn.counts[i : i + step][:, drawn.codes].astype(float))
        for i in range(0, len(drawn.counts), step)
    ]
    return float(measure.statistic(np.ones((1, units)))[0]), np.concatenate([np.zeros(0), *blocks])
