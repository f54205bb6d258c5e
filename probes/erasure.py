"""Take one concept out of the hidden states and see whether another can still be read.

LEACE (Belrose and others, NeurIPS 2023, arXiv 2306.03819; the library ``concept-erasure``) is the smallest affine
change after which no linear probe beats the prior *on the data it was fitted on*: the class means agree. On new prompts
that is a hope, so it is measured there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from concept_erasure import LeaceFitter
from jaxtyping import Float, Int
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.stats import same_order
from verdictscope.values import whole_number

if TYPE_CHECKING:
    from verdictscope.activations.readouts import LinearReadout

_SMALLEST = 1e-8
"""Correlation with the concept (times its standard deviation) below which a direction is rounding. The library's own
0.01 would leave a weak trace of the concept readable."""


@dataclass(frozen=True, eq=False)
class Eraser:
    """``x - left @ right @ (x - mean)``: an affine change of rank ``classes - 1``.

    Attributes:
        left: what is taken away, ``[d rank]``.
        right: what it is measured by, ``[rank d]``.
        mean: the point that is unchanged, ``[d]``.
        n: rows it was fitted on.
    """

    left: Float[ndarray, "d rank"]
    right: Float[ndarray, "rank d"]
    mean: Float[ndarray, " d"]
    n: int

    @property
    def rank(self) -> int:
        """Dimensions taken away; 0 where nothing predicted the concept."""
        return self.left.shape[1]

    def __call__(self, X: Any) -> Any:
        """States without the concept, ``[row d]`` as given: array or tensor, of its own type."""
        if isinstance(X, torch.Tensor):
            left, right, mean = (torch.tensor(part, device=X.device) for part in (self.left, self.right, self.mean))
            return X - (((X.double() - mean) @ right.T) @ left.T).to(X.dtype)
        X = np.asarray(X)
        return (X - ((X - self.mean) @ self.right.T) @ self.left.T).astype(X.dtype, copy=False)

    def fold(self, direction: Float[ndarray, "*fit d"], bias: Any) -> tuple[ndarray, Any]:
        """Probes of erased states as probes of states: the same score, with the erasure inside the direction."""
        along = direction @ self.left
        return direction - along @ self.right, bias + along @ (self.right @ self.mean)

    def readout(self, readout: LinearReadout, name: str | None = None) -> LinearReadout:
        """A linear readout of erased states, as one of states: what a forward pass can score with."""
        from dataclasses import replace

        weight = np.asarray(readout.weight, dtype=float).reshape(-1)
        if readout.final_norm or weight.shape != self.mean.shape:
            raise InputError(f"readout {readout.name}: an eraser of width {len(self.mean)} takes plain linear readouts")
        direction, bias = self.fold(weight, readout.bias)
        return replace(readout, name=name or readout.name, weight=direction, bias=float(bias))

    def __repr__(self) -> str:
        return f"Eraser: rank {self.rank} of {len(self.mean)}, fitted on {self.n} rows"


class EraserFitter:
    """Moments of states and a concept, batch by batch; `eraser` solves for the eraser.

    Rows may be weighted: with the weights of a balanced probe (`Rows.weights`) the means that are made equal are the
    ones that probe sees, and a second label that the weights make independent of the concept is left alone.
    """

    def __init__(self, d: int, classes: int = 2, *, shrinkage: bool = True) -> None:
        if classes < 2:
            raise InputError(f"a concept needs two values or more, this one has {classes}")
        whole_number(d, "d", 1)
        self.d, self.classes, self.shrinkage = d, classes, shrinkage
        k = 1 if classes == 2 else classes
        self._n, self._weight = 0, 0.0
        self._mean, self._mean_z = np.zeros(d), np.zeros(k)
        self._xx, self._xz = np.zeros((d, d)), np.zeros((d, k))

    def update(self, X: Any, concept: Int[ndarray, " row"], weight: Any = None) -> EraserFitter:
        """Take in more rows."""
        X = (X.detach().cpu().double().numpy() if isinstance(X, torch.Tensor) else np.asarray(X)).astype(float)
        concept = np.asarray(concept)
        w = np.ones(len(X)) if weight is None else np.asarray(weight, dtype=float)
        if X.ndim != 2 or X.shape[1] != self.d or concept.shape != (len(X),) or w.shape != (len(X),):
            raise InputError(f"states {X.shape}, concept {concept.shape}, weight {w.shape}: give [row {self.d}], [row]")
        if not np.isfinite(X).all() or not np.isfinite(w).all() or (w < 0).any():
            raise InputError("states and weights must be finite and weights not negative; drop such rows")
        if len(X) and not (np.isin(concept, np.arange(self.classes))).all():
            raise InputError(f"the concept's values must be 0 to {self.classes - 1}; map them first")
        used = w > 0
        if used.any():
            Z = (concept[:, None] == np.arange(self.classes)).astype(float)
            self._add(X[used], (Z[:, 1:] if self.classes == 2 else Z)[used], w[used])
        return self

    def _add(self, X: ndarray, Z: ndarray, w: ndarray) -> None:
        """Chan, Golub and LeVeque's merge (The American Statistician, 1983) of weighted moments."""
        new = float(w.sum())
        mean, mean_z = w @ X / new, w @ Z / new
        x, z = X - mean, Z - mean_z
        total = self._weight + new
        step, step_z = mean - self._mean, mean_z - self._mean_z
        share = self._weight * new / total
        self._xx += (x * w[:, None]).T @ x + share * np.outer(step, step)
        self._xz += (x * w[:, None]).T @ z + share * np.outer(step, step_z)
        self._mean += step * new / total
        self._mean_z += step_z * new / total
        self._weight, self._n = total, self._n + len(X)

    def eraser(self) -> Eraser:
        """The eraser of everything taken in so far."""
        seen = self._mean_z if self.classes > 2 else np.array([1 - self._mean_z[0], self._mean_z[0]])
        if self._n < 2 or (seen <= 0).any():
            empty = int(np.argmin(seen)) if self._n else 0
            raise InputError(f"no row has concept {empty}: there is nothing to erase between; add rows")
        # The library counts rows, so weights are scaled to sum to their number. Its trace constraint mixes in an
        # orthogonal projection that leaves the concept readable: off.
        fitter = LeaceFitter(
            self.d,
            self._xz.shape[1],
            dtype=torch.float64,
            shrinkage=self.shrinkage,
            constrain_cov_trace=False,
            svd_tol=_SMALLEST,
        )
        scale = self._n / self._weight
        fitter.n = torch.tensor(self._n)
        fitter.mean_x, fitter.mean_z = torch.from_numpy(self._mean.copy()), torch.from_numpy(self._mean_z.copy())
        fitter.sigma_xx_, fitter.sigma_xz_ = torch.from_numpy(self._xx * scale), torch.from_numpy(self._xz * scale)
        found = fitter.eraser
        left, right = found.proj_left.numpy(), found.proj_right.numpy()
        kept = np.abs(right).sum(axis=1) > 0
        return Eraser(left[:, kept], right[kept], self._mean.copy(), self._n)


def fit_eraser(
    X: Any, concept: Any, weight: Any = None, *, classes: int | None = None, shrinkage: bool = True
) -> Eraser:
    """The eraser of a concept from rows at hand; see `EraserFitter`."""
    same_order(beside="X", concept=concept, weight=weight)
    if not len(X):
        raise InputError("there are no rows to fit an eraser on")
    concept = np.asarray(concept).astype(int)
    classes = classes if classes is not None else int(concept.max()) + 1
    return EraserFitter(X.shape[1], classes, shrinkage=shrinkage).update(X, concept, weight).eraser()


def random_eraser(mean: Float[ndarray, " d"], rank: int, rng: np.random.Generator) -> Eraser:
    """The null of an eraser: as many random directions projected out, orthogonally."""
    basis = np.linalg.qr(rng.normal(size=(len(mean), rank)))[0]
    return Eraser(basis, basis.T.copy(), mean, 0)
