"""Many mean effects at once, each tested against a smallest effect, by flipping the signs of whole clusters.

With thousands of heads a mean that differs from zero is no news: almost every head of a trained network does
*something*. The question is which effects exceed δ, and it is asked of all candidates together: flips are drawn once
and act on every candidate, so the maximum over candidates in a flip keeps how they hang together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy import stats

from verdictscope.errors import InputError
from verdictscope.stats.bootstrap import Column
from verdictscope.stats.columns import group_names
from verdictscope.stats.p_values import tie_slack

FLIPS = 9999
"""Random sign vectors behind a p-value unless the caller says otherwise."""

_ALL_UP_TO = 13  # clusters whose 2^n sign vectors are all taken: fewer than FLIPS, and then nothing is random
_CHUNK = 4_000_000  # numbers a [flip candidate] block may hold, about 32 MB


@dataclass(frozen=True)
class SignFlips:
    """Tests of ``mean ≤ delta`` against ``mean > delta``, one per candidate.

    What this does not show: cluster sums that are skewed make flipped signs no exact null. The correction for skewness
    takes most of it away; with few clusters and a long *left* tail too many tests are still rejected
    (``docs/evidence/stats_sign_flips.json`` has the rates).

    Attributes:
        estimate: mean over rows.
        t: Student's t of the cluster sums of ``x - delta``, of which ``p`` is the flip p-value.
        p: of each candidate alone.
        p_adjusted: for the family: the step-down maximum. Rejecting where it is at most α errs anywhere in the family
            with probability at most α.
        q: Benjamini and Hochberg's: rejecting where it is at most α, a share of at most α of the rejections errs
            (independent or positively dependent tests).
        delta: smallest mean that counts.
        n: clusters.
        flips: sign vectors, the true one among them.
        exact: every sign vector was taken.
        seed: of the sign vectors.
    """

    estimate: Float[ndarray, " candidate"]
    t: Float[ndarray, " candidate"]
    p: Float[ndarray, " candidate"]
    p_adjusted: Float[ndarray, " candidate"]
    q: Float[ndarray, " candidate"]
    delta: float
    n: int
    flips: int
    exact: bool
    seed: int

    @property
    def smallest_p(self) -> float:
        """The least p-value that so many clusters and flips allow."""
        return 1 / self.flips

    def selected(self, alpha: float = 0.05) -> Bool[ndarray, " candidate"]:
        """Candidates whose mean exceeds delta, at family-wise error alpha."""
        return self.p_adjusted <= alpha


def sign_flip_test(
    values: Float[ndarray, "candidate row"],
    groups: Column,
    delta: float = 0.0,
    *,
    flips: int = FLIPS,
    seed: int = 0,
    skewness: bool = True,
) -> SignFlips:
    """One-sided tests of many means of clustered rows, adjusted for all of them.

    The rows of a cluster are summed, ``S_c = Σ (x - delta)``, and signs are drawn for whole clusters. Every flip gets
    Student's t of the flipped sums, so candidates of unequal spread meet on one scale in the maximum; where the sums
    are symmetric about their mean a test is exact, whatever their tails. Skewed sums bias t to second order, which
    Hall's transformation takes away from the real statistic as from the flipped ones (Hall 1992, "On the removal of
    skewness by transformation", JRSS B 54). The step-down is that of Romano and Wolf (2005, JASA 100): it controls
    the family-wise error since a subset's flips depend on that subset alone.
    """
    if flips < 19:
        raise InputError(f"{flips} flips cannot show p <= .05; ask for at least 19")
    if not np.isfinite(delta):
        raise InputError(f"delta is {delta}: give a number in the unit of the values")
    values = np.asarray(values, dtype=float)
    sums = _cluster_sums(values - delta, groups)
    n = sums.shape[1]
    exact = n <= _ALL_UP_TO
    size = np.sqrt((sums**2).sum(axis=1, keepdims=True))
    scaled = np.divide(sums, size, out=np.zeros_like(sums), where=size > 0)
    drawn = 2**n if exact else flips + 1
    alone, together = _count(scaled, _signs(n, flips, seed, exact), skewness)
    more = 0 if exact else 1  # the true signs are one of all sign vectors; of random ones they are one more
    p, p_adjusted = (alone + more) / drawn, np.minimum((together + more) / drawn, 1.0)
    return SignFlips(
        estimate=values.mean(axis=1),
        t=_statistic(scaled, np.ones((1, n)), False)[0],
        p=p,
        p_adjusted=p_adjusted,
        q=stats.false_discovery_control(p, method="bh"),
        delta=float(delta),
        n=n,
        flips=drawn,
        exact=exact,
        seed=seed,
    )


def _cluster_sums(values: Float[ndarray, "candidate row"], groups: Column) -> Float[ndarray, "candidate cluster"]:
    codes, names = np.unique(group_names(groups).astype(str), return_inverse=True)[::-1]
    if values.shape[1] != len(codes) or not len(codes):
        raise InputError(f"{values.shape[1]} numbers for {len(codes)} rows with a group: give one per row, and some")
    if not len(values):
        raise InputError("no candidates to test: give a row of numbers for each")
    if not np.isfinite(values).all():
        raise InputError("a value to be tested is no number: leave its row out for every candidate")
    if len(names) < 2:
        raise InputError("one prompt group cannot be tested: the signs of at least two are flipped")
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(names)))
    return np.add.reduceat(values[:, order], starts, axis=1)


def _signs(n: int, flips: int, seed: int, exact: bool) -> Iterator[Float[ndarray, "flip cluster"]]:
    """Sign vectors, a few hundred at a time."""
    rng = np.random.default_rng(seed)
    step = 512
    for start in range(0, 2**n if exact else flips, step):
        if exact:
            numbers: Int[ndarray, " flip"] = np.arange(start, min(start + step, 2**n))
            yield 1.0 - 2.0 * (numbers[:, None] >> np.arange(n) & 1)
        else:
            yield 1.0 - 2.0 * rng.integers(0, 2, size=(min(step, flips - start), n), dtype=np.int8)


def _count(
    scaled: Float[ndarray, "candidate cluster"], signs: Iterator[Float[ndarray, "flip cluster"]], skewness: bool
) -> tuple[Int[ndarray, " candidate"], Int[ndarray, " candidate"]]:
    """How many flips reach each candidate's statistic, by itself and by the maximum over it and all weaker ones."""
    observed = _statistic(scaled, np.ones((1, scaled.shape[1])), skewness)[0]
    order = np.argsort(observed, kind="stable")  # weakest first: a running maximum is that of the step-down
    scaled, bar = scaled[order], observed[order]
    bar = bar - tie_slack(bar)
    alone, together = (np.zeros(len(order), dtype=int) for _ in range(2))
    rows = max(1, _CHUNK // len(order))
    for block in signs:
        for start in range(0, len(block), rows):
            flipped = _statistic(scaled, block[start : start + rows], skewness)
            alone += (flipped >= bar).sum(axis=0)
            together += (np.maximum.accumulate(flipped, axis=1) >= bar).sum(axis=0)
    # A weaker candidate is never rejected where a stronger one is not.
    together = np.maximum.accumulate(together[::-1])[::-1]
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return alone[back], together[back]


def _statistic(
    scaled: Float[ndarray, "candidate cluster"], signs: Float[ndarray, "flip cluster"], skewness: bool
) -> Float[ndarray, "flip candidate"]:
    """Student's t of the flipped sums (their squares add to 1, so a flip changes the mean alone), or Hall's of it."""
    n = scaled.shape[1]
    mean = signs @ scaled.T / n
    variance = 1 / n - mean**2
    same = variance <= 1e-12 / n  # every sum the same: an infinite t
    spread = np.sqrt(np.where(same, 1.0, variance))
    t = np.where(same, np.copysign(np.inf, mean), mean / spread * np.sqrt(n - 1))
    if not skewness:
        return t
    third = signs @ (scaled * scaled * scaled).T / n - mean * (3 / n - 2 * mean * mean)
    a = np.where(same, 0.0, third / (spread * spread * spread * np.sqrt(n)))
    with np.errstate(invalid="ignore"):  # 0 · ∞ where every sum is the same
        u = a * t / 3
        return np.where(same, t, t * (1 + u + u * u / 3) + a / 6)
