"""How fast probes of every layer, position, fold and penalty are fitted, against a loop over scikit-learn.

Both variants standardise within each fold and minimise the same objective. The whole sweep is run by ours; scikit-learn
runs a few of its (layer, position) cells in the same rounds and is scaled up, since the whole of it takes hours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy import ndarray
from scipy.fft import dct
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.common import Result, Timings, interleave, say, timed
from verdictscope.probes.solver import LogisticFits, solve_layers
from verdictscope.stats import auroc_many

SPECTRA = {"1/i": 1.0, "isotropic": 0.0, "1/i^2": 2.0}
"""Exponent of the fall of the features' eigenvalues; the first is the headline's."""
TARGETS = {"objective_gap": 1e-6, "coefficients": 1e-3}


@dataclass(frozen=True)
class Sizes:
    """What is run.

    Attributes:
        layers: layers of the model.
        positions: position rules.
        folds: folds of each cell.
        Cs: penalties, from 1e-4 to 1e2.
        rows: activations of a cell.
        d: features.
        cells: (layer, position) cells that scikit-learn runs, of all of them.
        exact_fits: fits per spectrum that are compared with newton-cholesky, at most all penalties of one fold.
        refits: permutations of the permutation test.
    """

    layers: int = 36
    positions: int = 4
    folds: int = 5
    Cs: int = 8
    rows: int = 512
    d: int = 2560
    cells: int = 1
    exact_fits: int = 8
    refits: int = 200


SMALL = Sizes(layers=3, positions=2, folds=3, Cs=4, rows=96, d=240, cells=1, exact_fits=4, refits=30)
"""Sizes that only show that it runs."""


def run(repeats: int, small: bool = False) -> Result:
    """Times the sweep on three spectra and the permutation test, and checks the fits against an exact solver."""
    sizes = SMALL if small else Sizes()
    rows: list[dict[str, Any]] = []
    speedups, gaps = {}, {}
    for name, exponent in SPECTRA.items():
        work = Work(sizes, exponent)
        timings = interleave(work.variants(), repeats if name == "1/i" else 1, warmup=1 if name == "1/i" else 0)
        speedups[name] = {loop: work.speedup(timings, loop) for loop in (LOOP, PARALLEL)}
        for row in timings.rows():
            whole = row["seconds"] * (1 if row["name"] == OURS else work.scale)
            rows.append({**row, "name": f"{name}: {row['name']}", "whole_sweep_seconds": whole})
        gaps[name] = work.exactness()
        rows.append({"name": f"{name}: against newton-cholesky", "fits": sizes.exact_fits, **gaps[name]})
        say(f"{name}: {shown_speedup(speedups[name])}; gap {gaps[name]['objective_gap']:.1e}")
        if name == "1/i":
            seconds = sorted(timed(work.permute) for _ in range(repeats))[repeats // 2]
            rows.append(
                {
                    "name": f"{name}: permutation test, {sizes.layers} layers",
                    "seconds": seconds,
                    "refits": sizes.refits,
                    "null_mean": work.null_mean,
                }
            )
            headline = {
                "sweep_speedup_vs_sklearn": speedups[name][LOOP],
                "objective_gap": gaps[name]["objective_gap"],
                "permutation_seconds": seconds,
            }
    cores = _cores()
    notes = [
        f"scikit-learn ran {sizes.cells} of {sizes.layers * sizes.positions} cells; its seconds for the whole sweep "
        "(whole_sweep_seconds) are scaled up by the number of cells, and every speedup rests on that extrapolation.",
        f"sweep_speedup_vs_sklearn is against {LOOP} with BLAS on its own {cores} cores, which wait for each other; "
        "one fit a core, BLAS on one thread, is the harder rival and is reported with it.",
        "isotropic and 1/i^2 were timed in one round each, 1/i in interleaved rounds after a warm-up.",
        "objective_gap is (ours - theirs) / theirs, the largest over the fits compared; coefficients the largest "
        "distance of directions as a share of their length. "
        f"Asked: {TARGETS['objective_gap']:g} and {TARGETS['coefficients']:g}.",
        "speedups: " + "; ".join(f"{name} {shown_speedup(of)}" for name, of in speedups.items()) + ".",
    ]
    return Result(asdict(sizes) | {"cores": cores, "small": small}, rows, headline, notes)


OURS = "ours, whole sweep"
LOOP = "scikit-learn lbfgs, a plain loop"
PARALLEL = "scikit-learn lbfgs, one fit a core"


class Work:
    """The activations of one spectrum, and one function a variant."""

    def __init__(self, sizes: Sizes, exponent: float) -> None:
        self.sizes, self.exponent = sizes, exponent
        rng = np.random.default_rng(0)
        self.y = rng.permutation(np.arange(sizes.rows) % 2)
        fold = rng.permutation(np.arange(sizes.rows) % sizes.folds)
        self.folds = np.stack([fold != f for f in range(sizes.folds)])
        self.Cs = np.logspace(-4, 2, sizes.Cs)
        self.null_mean = float("nan")
        self.held: dict[int, ndarray] = {}
        for cell in range(sizes.layers * sizes.positions):
            self.held[cell] = self.make(cell)

    def make(self, cell: int) -> ndarray:
        """Activations of a cell in float32, ``[row d]``: eigenvalues 1/i**exponent in a basis no feature is part of.

        Without the rotation, standardising the features would make every spectrum isotropic. The labels shift 32
        directions by half their standard deviation.
        """
        s, rng = self.sizes, np.random.default_rng(1 + cell)
        latent = rng.standard_normal((s.rows, s.d))
        latent[:, rng.choice(s.d, 32, replace=False)] += 0.5 * (2 * self.y[:, None] - 1)
        latent *= np.arange(1, s.d + 1) ** (-self.exponent / 2) * rng.choice([-1.0, 1.0], s.d)
        rotated = dct(latent, norm="ortho", axis=1) * rng.choice([-1.0, 1.0], s.d)
        return dct(rotated, norm="ortho", axis=1).astype(np.float32)

    @property
    def scale(self) -> float:
        """Cells of the sweep per cell that scikit-learn runs."""
        return len(self.held) / self.sizes.cells

    def variants(self) -> dict[str, Any]:
        """Variant to function."""
        return {OURS: self.ours, LOOP: self.loop, PARALLEL: self.parallel}

    def speedup(self, timings: Timings, loop: str) -> float:
        """The whole sweep by a scikit-learn loop over ours."""
        return timings.median(loop) * self.scale / timings.median(OURS)

    def ours(self) -> dict[int, ndarray]:
        """Every fit of the sweep, and the scores of all rows under each."""
        return solve_layers(self.held.__getitem__, list(self.held), self.y, self.Cs, folds=self.folds, then=_scores)

    def loop(self) -> list[ndarray]:
        """The fits of some cells, one after the other; BLAS takes the cores it wants."""
        return [_sklearn(Z, y, C) for Z, y, C in self.fits()]

    def parallel(self) -> list[ndarray]:
        """The same fits, one a core."""
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(_cores()) as pool:
            return list(pool.map(lambda job: _sklearn(*job), self.fits()))

    def fits(self) -> Iterator[tuple[ndarray, ndarray, float]]:
        """Standardised rows, labels and penalty of every fit of the cells scikit-learn runs."""
        for cell in range(self.sizes.cells):
            for train in self.folds:
                Z = StandardScaler().fit_transform(self.held[cell][train].astype(np.float64))
                for C in self.Cs:
                    yield Z, self.y[train], float(C)

    def exactness(self) -> dict[str, float]:
        """Largest gap of objectives and largest distance of directions, over fits of the first fold of one cell."""
        train, X = self.folds[0], self.held[0]
        scaler = StandardScaler().fit(X[train].astype(np.float64))
        Z, y = scaler.transform(X[train].astype(np.float64)), self.y[train]
        fits = solve_layers(lambda _: X, [0], self.y, self.Cs, folds=self.folds[:1])[0]
        gap = apart = 0.0
        for i in np.linspace(0, len(self.Cs) - 1, self.sizes.exact_fits).astype(int):
            C = float(self.Cs[i])
            exact = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(Z, y)
            w = fits.direction[0, i, 0] * scaler.scale_
            b = fits.bias[0, i, 0] + fits.direction[0, i, 0] @ scaler.mean_
            theirs = objective(Z, y, exact.coef_[0], float(exact.intercept_[0]), C)
            gap = max(gap, (objective(Z, y, w, float(b), C) - theirs) / theirs)
            apart = max(apart, float(np.linalg.norm(w - exact.coef_[0]) / np.linalg.norm(exact.coef_[0])))
        return {"objective_gap": gap, "coefficients": apart}

    def permute(self) -> None:
        """One position of every layer: real labels and all permutations, fitted on one fold and scored on its rest."""
        rng, train = np.random.default_rng(2), self.folds[0]
        labels = np.stack([self.y, *(_within(rng, self.y, train) for _ in range(self.sizes.refits))])
        layers = range(0, len(self.held), self.sizes.positions)
        then = partial(_held_out, labels=labels[:, ~train], test=~train)
        found = solve_layers(self.held.__getitem__, layers, labels, [0.01], folds=train[None], then=then)
        self.null_mean = float(np.mean([area[1:].mean() for area in found.values()]))


def shown_speedup(of: dict[str, float]) -> str:
    """``24.1 over a plain loop, 7.0 over one fit a core``."""
    return f"{of[LOOP]:.1f} over a plain loop, {of[PARALLEL]:.1f} over one fit a core"


def objective(Z: ndarray, y: ndarray, w: ndarray, b: float, C: float) -> float:
    """Half the squared weights plus C times the log loss: what both variants minimise."""
    f = Z @ w + b
    return 0.5 * float(w @ w) + C * float((np.logaddexp(0, f) - y * f).sum())


def _scores(_: int, X: ndarray, fits: LogisticFits) -> ndarray:
    return fits.scores(X)[:, :, 0]


def _held_out(_: int, X: ndarray, fits: LogisticFits, *, labels: ndarray, test: ndarray) -> ndarray:
    return auroc_many(labels, fits.scores(X[test])[0, 0])


def _within(rng: np.random.Generator, y: ndarray, train: ndarray) -> ndarray:
    """Labels exchanged within the fold's training rows and within its rest."""
    out = y.copy()
    for part in (train, ~train):
        out[part] = rng.permutation(y[part])
    return out


def _sklearn(Z: ndarray, y: ndarray, C: float) -> ndarray:
    return LogisticRegression(C=C, solver="lbfgs", tol=1e-6, max_iter=100_000).fit(Z, y).coef_


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
