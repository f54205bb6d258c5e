"""Newton's method in the span of the rows: one Cholesky factor of ``[row, row]`` per step.

With fewer rows than features the weights are ``w = Z.T @ a``, and the penalised loss

    P(a, b) = 1/2 a.K a + C sum_i s_i log(1 + exp(-y_i f_i)),    f = K a + b,    K = Z Z.T

needs the Gram matrix alone. At the minimum ``a = g(f)`` with ``g_i = C s_i (y_i - p_i)``, so a step solves
``(1 + W K) da = g - a - W db`` under ``sum(a + da) = 0``, with ``W = C s p (1 - p)`` (Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, algorithm 3.1, with the offset left out of the penalty). The factor is taken of
``1 + W^1/2 K W^1/2`` in the precision of K; residuals are formed in double precision, so every step is also a step of
iterative refinement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg.lapack import get_lapack_funcs
from scipy.special import expit

_HALVINGS = 40
_GROWTH = 1e-4  # Armijo's share of the promised decrease
_LONGEST = 3.0  # largest extrapolation in log C


@dataclass
class _Point:
    """Where the iteration stands: dual weights, offset, scores, ``K a``."""

    a: ndarray
    b: float
    Ka: ndarray

    @property
    def f(self) -> ndarray:
        return self.Ka + self.b


def newton_path(
    K: Float[ndarray, "train train"],
    exact: Float[ndarray, "train train"],
    y: Float[ndarray, " train"],
    weight: Float[ndarray, " train"],
    Cs: Float[ndarray, " C"],
    *,
    tol: float,
    max_iter: int,
) -> tuple[Float[ndarray, "train C"], Float[ndarray, " C"], ndarray]:
    """Fit one labelling at every penalty, each from the one before it.

    Between penalties the dual weights are extrapolated along the path: ``da / dlog C`` solves the system of a Newton
    step with right-hand side a, and the step is taken in log |a|, which keeps every sign.
    """
    share = float(weight @ y / weight.sum())
    at = _Point(np.zeros(len(y)), float(np.log(share / (1 - share))), np.zeros(len(y)))
    dual, offset, steps = np.zeros((len(y), len(Cs))), np.zeros(len(Cs)), np.zeros(len(Cs), dtype=int)
    system: _System | None = None
    floor = 1e-13 * np.sqrt(np.trace(exact) / len(y))
    for i, C in enumerate(Cs):
        if system is not None:
            # Start from the last minimum, moved along the path of minima by ``length`` in log C
            length = float(np.log(C / Cs[i - 1]))
            da, db = system.solve(at.a, at.Ka, 0.0)
            moving = at.a != 0
            slope = np.divide(da, at.a, out=np.zeros_like(da), where=moving)
            a = at.a * np.exp(np.clip(slope, 0.0, 1.0) * min(length, _LONGEST))
            at = _Point(a, at.b + db * min(length, _LONGEST), exact @ a)
        for step in range(max_iter + 1):
            p = expit(at.f)
            g = C * weight * (y - p)
            r = g - at.a
            Kr = exact @ r
            size, total = np.sqrt(max(float(r @ Kr), 0.0)), float(np.abs(g).sum())
            small = size <= tol * np.sqrt(max(float(at.a @ at.Ka), 0.0)) + floor * total
            if (small and abs(g.sum()) <= tol * total) or step == max_iter:
                break
            system = _System(K, C * weight * p * (1 - p))
            moved = _descend(at, *system.solve(r, Kr, float(at.a.sum())), r, Kr, exact, y, C * weight)
            if moved is None:
                break
            at = moved
        dual[:, i], offset[i], steps[i] = at.a, at.b, step
    return dual, offset, steps


class _System:
    """``(1 + W K) x = v - W c`` with ``sum(x) = -total``, factored."""

    def __init__(self, K: ndarray, W: ndarray) -> None:
        self.W = W
        self.root = np.sqrt(W)
        self.K = K
        root = self.root.astype(K.dtype)
        B = np.empty(K.shape, dtype=K.dtype, order="F")
        np.multiply(K.T, root[:, None], out=B)  # K is symmetric; its transpose lies in memory as B does
        B *= root
        B.flat[:: len(B) + 1] += 1
        potrf, self._potrs = get_lapack_funcs(("potrf", "potrs"), (B,))
        self.factor, info = potrf(B, lower=1, overwrite_a=1, clean=0)
        if info:
            raise np.linalg.LinAlgError(f"the Gram matrix is not positive: leading minor {info}")
        self._one: ndarray | None = None

    def solve(self, v: ndarray, Kv: ndarray, total: float) -> tuple[ndarray, float]:
        """x and the change of the offset c."""
        if self._one is None:
            KW = self.K @ self.W.astype(self.K.dtype)
            free, self._one = self._apply(np.stack([v, self.W]), np.stack([Kv, KW]))
        else:
            (free,) = self._apply(v[None], Kv[None])
        c = (free.sum() + total) / self._one.sum()
        return free - c * self._one, float(c)

    def _apply(self, v: ndarray, Kv: ndarray) -> ndarray:
        """``(1 + W K)^-1 v`` for every row of v."""
        right = (self.root * Kv).astype(self.K.dtype).T
        return v - self.root * self._potrs(self.factor, right, lower=1)[0].T


def _descend(
    at: _Point, da: ndarray, db: float, r: ndarray, Kr: ndarray, exact: ndarray, y: ndarray, scale: ndarray
) -> _Point | None:
    """The Newton point, or one on the way to it that lowers the objective; ``None`` if rounding forbids any."""
    Kda = exact @ da
    here = _objective(at.a, at.Ka, at.b, y, scale)
    promised = -float(Kr @ da) - db * float((r + at.a).sum())
    t = 1.0
    for _ in range(_HALVINGS):
        moved = _Point(at.a + t * da, at.b + t * db, at.Ka + t * Kda)
        there = _objective(moved.a, moved.Ka, moved.b, y, scale)
        if there <= here + _GROWTH * t * promised + 1e-13 * abs(here):
            return moved
        t /= 2
    return None


def _objective(a: ndarray, Ka: ndarray, b: float, y: ndarray, scale: ndarray) -> float:
    f = Ka + b
    return 0.5 * float(a @ Ka) + float(scale @ (np.logaddexp(0.0, f) - y * f))


def polish_offset(f: Any, y: Any, scale: Any, start: Any, steps: int = 50) -> Any:
    """The offset that minimises the loss of scores ``f + b``, by safeguarded Newton steps, per column."""
    positive = (scale * y).sum(axis=0)
    total = scale.sum(axis=0)
    # the root lies between the offsets that would put the highest and the lowest score at the base rate
    base = np.log(positive / (total - positive))
    low, high = base - f.max(axis=0), base - f.min(axis=0)
    b = np.clip(start, low, high)
    for _ in range(steps):
        p = expit(f + b)
        slope = (scale * p).sum(axis=0) - positive
        low, high = np.where(slope < 0, b, low), np.where(slope < 0, high, b)
        curve = (scale * p * (1 - p)).sum(axis=0)
        step = np.divide(slope, curve, out=np.full_like(b, np.inf), where=curve > 0)
        new = np.where((b - step > low) & (b - step < high), b - step, (low + high) / 2)
        if np.all(np.abs(new - b) <= 1e-14 * (1 + np.abs(b))):
            return new
        b = new
    return b
