"""Newton's method with conjugate gradients for many labellings of one decomposition.

In the eigenbasis of the features every product is a matrix product over all labellings at once, on CPU or GPU: with
``Z = U S V.T`` and ``F = U S`` (rank r <= min(rows, d)) the weights are ``w = V u`` and the scores ``F u + b``. There
``F.T F`` is diagonal, so ``1 + mean(W) S^2`` is the Hessian itself where all rows weigh alike, and a close
preconditioner elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

_HALVINGS = 40
_GROWTH = 1e-4
_MOST_PRODUCTS = 300  # conjugate gradient steps within one Newton step
_FORCING = 0.05


@dataclass(frozen=True)
class Span:
    """Rows in the eigenbasis of their standardised features; arrays of NumPy or tensors of torch."""

    F: Any
    square: Any
    basis: Any
    dual: bool
    xp: ModuleType


def decompose(Z: Any, xp: ModuleType) -> Span:
    """The span of standardised features ``[train d]``, from the smaller Gram matrix.

    Directions whose eigenvalue is rounding (below n eps of the largest) are left out: no row has anything there.
    """
    n, d = Z.shape
    dual = n < d
    square, basis = xp.linalg.eigh(Z @ Z.T if dual else Z.T @ Z)
    limit = max(n, d) * xp.finfo(Z.dtype).eps * max(float(square[-1]), 0.0)
    kept = square > limit
    square, basis = square[kept], basis[:, kept]
    F = basis * xp.sqrt(square) if dual else Z @ basis
    return Span(F, square, basis, dual, xp)


def newton_span(span: Span, y: Any, scale: Any, *, tol: float, max_iter: int) -> tuple[Any, Any, np.ndarray]:
    """Fit every column."""
    xp = span.xp
    share = (scale * y).sum(0) / scale.sum(0)
    U, b = 0 * (span.F.T @ y), xp.log(share / (1 - share))
    steps = np.zeros(y.shape[1], dtype=int)
    left = np.arange(y.shape[1])
    for step in range(max_iter + 1):
        y_, scale_, U_, b_ = y[:, left], scale[:, left], U[:, left], b[left]
        f = span.F @ U_ + b_
        p = 1 / (1 + xp.exp(-xp.clip(f, -700, 700)))
        g = scale_ * (y_ - p)
        gradient, gradient_b = U_ - span.F.T @ g, -g.sum(0)
        small = (gradient**2).sum(0) <= tol**2 * (U_**2).sum(0)
        small = small & (xp.abs(gradient_b) <= tol * xp.abs(g).sum(0))
        steps[left] = step
        going = ~np.asarray(small.tolist(), dtype=bool)
        if step == max_iter or not going.any():
            break
        left = left[going]
        W = (scale_ * p * (1 - p))[:, going]
        D, c = _conjugate(span, W, gradient[:, going], gradient_b[going])
        slope = (gradient[:, going] * D).sum(0) + gradient_b[going] * c
        t = _line(span, U_[:, going], f[:, going], D, c, y_[:, going], scale_[:, going], slope)
        U[:, left] = U_[:, going] + t * D
        b[left] = b_[going] + t * c
    return U, b, steps


def _conjugate(span: Span, W: Any, gradient: Any, gradient_b: Any) -> tuple[Any, Any]:
    """Solve the Newton system for every column, each to a share of its right-hand side."""
    xp, F = span.xp, span.F
    weight = W.sum(0)
    P, P_b = 1 / (1 + span.square[:, None] * (weight / len(W))), 1 / weight
    R, R_b = -gradient, -gradient_b
    D, D_b = 0 * R, 0 * R_b
    Y, Y_b = P * R, P_b * R_b
    S, S_b = Y, Y_b
    rho = (R * Y).sum(0) + R_b * Y_b
    size = xp.sqrt((gradient**2).sum(0))
    enough = rho * xp.minimum(0 * rho + _FORCING**2, size) ** 2
    enough = xp.minimum(enough, rho * _FORCING**2)
    for _ in range(_MOST_PRODUCTS):
        running = rho > enough
        if not bool(running.any()):
            break
        V = W * (F @ S + S_b)
        HS, HS_b = S + F.T @ V, V.sum(0)
        curve = (S * HS).sum(0) + S_b * HS_b
        a = xp.where(running, rho / xp.where(running, curve, 1 + 0 * curve), 0 * rho)
        D, D_b = D + a * S, D_b + a * S_b
        R, R_b = R - a * HS, R_b - a * HS_b
        Y, Y_b = P * R, P_b * R_b
        new = (R * Y).sum(0) + R_b * Y_b
        beta = xp.where(running, new / xp.where(running, rho, 1 + 0 * rho), 0 * rho)
        S, S_b = Y + beta * S, Y_b + beta * S_b
        rho = xp.where(running, new, rho)
    return D, D_b


def _line(span: Span, U: Any, f: Any, D: Any, c: Any, y: Any, scale: Any, slope: Any) -> Any:
    """Step lengths that lower every column's objective."""
    xp = span.xp
    along = span.F @ D + c
    uu, ud, dd = (U**2).sum(0), (U * D).sum(0), (D**2).sum(0)

    def value(t: Any) -> Any:
        moved = f + t * along
        loss = xp.logaddexp(0 * moved, moved) - y * moved
        return 0.5 * (uu + 2 * t * ud + t**2 * dd) + (scale * loss).sum(0)

    t = 1 + 0 * slope
    here = value(0 * t)
    for _ in range(_HALVINGS):
        high = value(t) > here + _GROWTH * t * slope + 1e-13 * xp.abs(here)
        if not bool(high.any()):
            break
        t = xp.where(high, t / 2, t)
    return t
