"""All folds, penalties and labellings of one layer, or of many, each fit certified."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import expit
from threadpoolctl import ThreadpoolController

from verdictscope.errors import InputError
from verdictscope.probes.solver.features import Fold, fold_features
from verdictscope.probes.solver.fits import LogisticFits
from verdictscope.probes.solver.newton import newton_path, polish_offset
from verdictscope.probes.solver.span import decompose, newton_span
from verdictscope.values import number, whole_number

_FEW = 4
"""Labellings of one fold up to which a Cholesky factor per fit is cheaper than an eigendecomposition per fold."""
_SINGLE = 1e-4
"""Tolerance from which on the Gram matrix may be one of single precision; its rounding alone costs about 1e-5."""
_AT_ONCE = 4_000_000
"""Numbers in one array over (row or dimension) x fits: bounds memory."""


@dataclass(frozen=True, eq=False)
class _Problem:
    """Checked labels, weights, folds and penalties."""

    y: Float[ndarray, "refit row"]
    weight: Float[ndarray, "refit row"]
    folds: ndarray
    scale_weight: Float[ndarray, " row"]
    Cs: Float[ndarray, " C"]
    tol: float
    max_iter: int
    device: str | None


def solve_logistic(
    X: Any,
    y: Any,
    Cs: Sequence[float | int] | ndarray,
    *,
    weight: Any = None,
    folds: Any = None,
    scale_weight: Any = None,
    tol: float = 1e-4,
    max_iter: int = 100,
    threads: int | None = None,
    device: str | None = None,
) -> LogisticFits:
    """Fit L2-penalised logistic probes on standardised activations, folded back into raw space.

    Features are standardised on the training rows of each fold, so nothing of a held-out row enters. With fewer
    training rows than features and few labellings, the Gram matrix of a fold is formed once (in single precision) and
    every fit takes Newton steps in the span of the rows; with many labellings, or more rows than features, it is
    decomposed once and all fits run side by side. Either way the result is checked in double precision against the
    features themselves; folds with fits that miss ``tol`` are solved again from a double-precision Gram matrix.
    """
    number(tol, "tol", 0, above=True), whole_number(max_iter, "max_iter", 1)
    X = to_numpy(X)
    problem = _check(X, y, Cs, weight, folds, scale_weight, tol, max_iter, device)
    threads = _cores() if threads is None else whole_number(threads, "threads", 1)
    if threads == 1 or len(problem.folds) == 1:
        parts = [_solve_fold(fold, problem) for fold in fold_features(X, problem.folds, problem.scale_weight)]
    else:
        with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
            features = fold_features(X, problem.folds, problem.scale_weight)
            parts = list(pool.map(lambda fold: _solve_fold(fold, problem), features))
    place = np.searchsorted(problem.Cs, np.asarray(Cs, dtype=float))
    found = {key: np.stack([part[key] for part in parts])[:, place] for key in parts[0]}
    return LogisticFits(Cs=tuple(map(float, Cs)), converged=found["error"] <= tol, tol=float(tol), **found)


def solve_layers(
    read: Callable[[int], Any],
    layers: Sequence[int] | range,
    y: Any,
    Cs: Sequence[float | int] | ndarray,
    *,
    then: Callable[[int, Any, LogisticFits], Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
    **given: Any,
) -> dict[int, Any]:
    """`solve_logistic` for many layers, one per core at a time."""
    threads = _cores() if threads is None else threads
    found: dict[int, Any] = {}

    def work(layer: int, X: Any) -> Any:
        try:
            fits = solve_logistic(X, y, Cs, threads=1, **given)
        except InputError as error:
            raise InputError(f"layer {layer}: {error}") from error
        return fits if then is None else then(layer, X, fits)

    with one_blas_thread() if threads > 1 else nullcontext(), ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[int, Any]] = deque()
        for layer in (*layers, None):
            while waiting and (layer is None or len(waiting) > threads):
                done, future = waiting.popleft()
                found[done] = future.result()
                if progress:
                    progress(len(found), len(layers))
            if layer is not None:
                waiting.append((layer, pool.submit(work, layer, read(layer))))
    return found


def _solve_fold(fold: Fold, problem: _Problem) -> dict[str, ndarray]:
    """Every penalty and labelling of one fold, ``[C refit ...]``."""
    y, weight = problem.y[:, fold.rows].T, problem.weight[:, fold.rows].T
    scale = problem.Cs[None, :, None] * weight[:, None, :]
    shape = scale.shape[1:]
    scale, labels = scale.reshape(len(y), -1), np.tile(y, (1, shape[0]))
    few = problem.device is None and len(y) < fold.X.shape[1] and y.shape[1] <= _FEW
    if few:
        single = problem.tol >= _SINGLE
        w, b, steps = _in_rows(fold, y, weight, problem, np.float32 if single else np.float64)
        found = _certified(fold, w, b, labels, scale)
        if single and (found["error"] > problem.tol).any():
            w, b, steps = _in_rows(fold, y, weight, problem, np.float64)
            found = _certified(fold, w, b, labels, scale)
    else:
        w, b, steps = _in_span(fold, labels, scale, problem)
        found = _certified(fold, w, b, labels, scale)
    direction = found.pop("direction").reshape(*shape, -1)
    return {"direction": direction, "iterations": steps.reshape(shape)} | {
        key: value.reshape(shape) for key, value in found.items()
    }


def _in_rows(
    fold: Fold, y: ndarray, weight: ndarray, problem: _Problem, dtype: type
) -> tuple[Float[ndarray, "d fit"], ndarray, ndarray]:
    """Newton steps on the Gram matrix, labelling by labelling."""
    Z = fold.dense(dtype)
    K = Z @ Z.T
    exact = K.astype(np.float64, copy=False)
    paths = [
        newton_path(K, exact, y[:, j], weight[:, j], problem.Cs, tol=problem.tol / 4, max_iter=problem.max_iter)
        for j in range(y.shape[1])
    ]
    dual = np.stack([path[0] for path in paths], axis=2).reshape(len(y), -1)
    offset, steps = (np.stack([path[i] for path in paths], axis=1) for i in (1, 2))
    return fold.adjoint(dual), offset.ravel(), steps


def _in_span(
    fold: Fold, y: ndarray, scale: ndarray, problem: _Problem
) -> tuple[Float[ndarray, "d fit"], ndarray, ndarray]:
    """All fits side by side in the eigenbasis, in blocks that bound memory."""
    xp: Any = np
    to: Callable[[ndarray], Any] = np.ascontiguousarray
    if problem.device is not None:
        import torch

        xp, device = torch, torch.device(problem.device)

        def to(array: ndarray) -> Any:
            return torch.tensor(array, dtype=torch.float64, device=device)

    span = decompose(to(fold.dense()), xp)
    width = max(1, _AT_ONCE // max(span.F.shape))
    weights, offsets, steps = [], [], []
    for start in range(0, y.shape[1], width):
        at = slice(start, start + width)
        u, b, taken = newton_span(span, to(y[:, at]), to(scale[:, at]), tol=problem.tol / 4, max_iter=problem.max_iter)
        inner = to_numpy(span.basis @ (u / xp.sqrt(span.square)[:, None] if span.dual else u))
        weights.append(fold.adjoint(inner) if span.dual else inner)
        offsets.append(to_numpy(b))
        steps.append(taken)
    return np.concatenate(weights, axis=1), np.concatenate(offsets), np.concatenate(steps)


def _certified(fold: Fold, w: ndarray, b: ndarray, y: ndarray, scale: ndarray) -> dict[str, ndarray]:
    """The best offset of every fit, its objective, the bound on its error, and the probe in raw space.

    With the offset at its optimum the objective is strongly convex in the weights with modulus 1, so the gradient's
    norm bounds their distance from the minimum. Weights that are zero up to rounding are set to zero.
    """
    f = fold.forward(w)
    b = polish_offset(f, y, scale, b)
    f += b
    g = scale * (y - expit(f))
    norm, slope = np.linalg.norm(w, axis=0), np.linalg.norm(w - fold.adjoint(g), axis=0)
    rounding = 1e-13 * np.sqrt(len(w)) * np.abs(g).sum(axis=0)
    zero = (norm <= rounding) & (slope <= rounding)
    objective = 0.5 * norm**2 + (scale * (np.logaddexp(0.0, f) - y * f)).sum(axis=0)
    direction, bias = fold.unfold(np.where(zero, 0.0, w), b)
    error = np.where(zero, 0.0, slope / np.where(zero, 1.0, norm))
    return {"direction": direction.T, "bias": bias, "objective": objective, "error": error}


def _check(
    X: ndarray,
    y: Any,
    Cs: Any,
    weight: Any,
    folds: Any,
    scale_weight: Any,
    tol: float,
    max_iter: int,
    device: str | None,
) -> _Problem:
    n = len(X)
    y = np.atleast_2d(to_numpy(y))
    if y.shape[1] != n or not np.isin(y, (0, 1)).all():
        raise InputError(f"labels must be 0 or 1, one per row: {n} rows, labels of shape {y.shape}")
    shared = weight is None or np.ndim(weight) == 1
    weight = np.atleast_2d(np.ones(n) if weight is None else to_numpy(weight)).astype(float)
    scale = (weight[0] if shared else np.ones(n)) if scale_weight is None else to_numpy(scale_weight).astype(float)
    folds = np.ones((1, n), dtype=bool) if folds is None else np.atleast_2d(to_numpy(folds)).astype(bool)
    for name, value, shapes in (
        ("weight", weight, ((1, n), y.shape)),
        ("folds", folds, ((len(folds), n),)),
        ("scale_weight", scale, ((n,),)),
    ):
        if value.shape not in shapes:
            raise InputError(f"{name} has shape {value.shape}, there are {n} rows and {len(y)} labellings")
        if not np.isfinite(value).all() or (value < 0).any():
            raise InputError(f"{name} must be finite and not negative")
    Cs = np.unique(np.asarray(Cs, dtype=float))
    if not len(Cs) or not (np.isfinite(Cs).all() and Cs[0] > 0):
        raise InputError(f"C must be positive and finite, got {Cs.tolist()}")
    weight = np.broadcast_to(weight, y.shape)
    for f, train in enumerate(folds):
        mass = [((weight * (y == label))[:, train].sum(axis=1) > 0).all() for label in (0, 1)]
        if not all(mass) or not scale[train].sum() > 0:
            raise InputError(f"fold {f} trains on one class: a probe needs rows of two classes; stratify, or add rows")
    return _Problem(y.astype(float), weight, folds, scale, Cs, tol, max_iter, device)


def to_numpy(value: Any) -> ndarray:
    """Arrays as they are; tensors of any float type and device as arrays."""
    if hasattr(value, "detach"):
        value = value.detach().to("cpu")
        return (value.double() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def one_blas_thread() -> AbstractContextManager[Any]:
    """BLAS on one thread, for work that is already spread over the cores."""
    return _controller().limit(limits=1, user_api="blas")


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
