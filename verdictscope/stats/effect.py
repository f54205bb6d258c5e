"""One number with what it needs to be believed: interval, n, unit, seed, and the test that goes with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pandas as pd

from verdictscope.stats.wilson import ends_to_show


@dataclass(frozen=True, slots=True)
class Effect:
    """An estimate and its uncertainty.

    Attributes:
        name: what was estimated.
        estimate: the number.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        n: how many independent units (prompts, unless the name says otherwise) it rests on.
        unit: unit of the estimate, for example ``nats``, ``AUROC``, ``rate``, ``normalised``.
        seed: seed of the resampling, ``None`` for closed forms.
        delta: smallest effect the test counts as one, in ``unit``.
        p: p-value against its null.
        p_adjusted: the same, adjusted for every test of the family.
    """

    name: str
    estimate: float
    low: float
    high: float
    n: int
    unit: str
    seed: int | None = None
    delta: float | None = None
    p: float | None = None
    p_adjusted: float | None = None

    @classmethod
    def missing(cls, name: str, unit: str, *, n: int = 0, seed: int | None = None) -> Effect:
        """An effect that could not be estimated: NaN, never 0."""
        return cls(name, float("nan"), float("nan"), float("nan"), n, unit, seed)

    def __str__(self) -> str:
        ends = ends_to_show(self.estimate, self.low, self.high, self.n, self.unit)
        low, high = ends or (self.low, self.high)
        shown = "(no interval: all alike)" if ends is None and low == high else f"[{low:.3g}, {high:.3g}]"
        text = f"{self.name}: {self.estimate:.3g} {shown} {self.unit}, n = {self.n}"
        return text if self.p is None else f"{text}, p = {self.p:.2g}"


def effects_frame(effects: Iterable[Effect]) -> pd.DataFrame:
    """Effects as a table, one row each, columns in the order of the dataclass."""
    return pd.DataFrame([asdict(e) for e in effects], columns=list(Effect.__dataclass_fields__))
