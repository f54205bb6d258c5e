"""Count, mean and covariance of hidden states by class and layer, in one pass and without storing a row.

A closed-form probe (difference of means, linear discriminant, least squares, LEACE) needs nothing else. A batch is
reduced to its own count, mean and sum of squared deviations in float64 and merged by Chan, Golub and LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances" (1979), which loses nothing to a large
common mean, as massive activations have.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from verdictscope.activations.hooks import BatchView, Tap
from verdictscope.activations.sites import Read
from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout

if TYPE_CHECKING:
    from verdictscope.activations.batch import Batch, Where
    from verdictscope.activations.model import Model
    from verdictscope.activations.store import Store

Covariance = Literal["full", "diagonal"]


@dataclass(frozen=True, eq=False)
class Moments:
    """What a fitter found."""

    classes: tuple[Hashable, ...]
    layers: tuple[int, ...]
    count: Int[np.ndarray, " label"]
    mean: Float[np.ndarray, "layer label value"]
    scatter: Float[np.ndarray, "layer label value ..."]

    def covariance(self, label: Hashable, layer: int, ddof: int = 1) -> Float[np.ndarray, "value ..."]:
        """Covariance (or variances) of one class at one layer."""
        at, c = self._at(label, layer)
        if self.count[c] <= ddof:
            raise InputError(f"class {label!r} has {self.count[c]} rows; a covariance needs more than {ddof}")
        return self.scatter[at, c] / (self.count[c] - ddof)

    def pooled(self, layer: int) -> Float[np.ndarray, "value ..."]:
        """Covariance within classes, n minus the number of filled classes below the line."""
        at, _ = self._at(self.classes[0], layer)
        freedom = int(self.count.sum() - (self.count > 0).sum())
        if freedom < 1:
            raise InputError(f"{self.count.sum()} rows in {len(self.classes)} classes leave nothing to pool")
        return self.scatter[at].sum(0) / freedom

    def total(self, layer: int) -> tuple[int, Float[np.ndarray, " value"], Float[np.ndarray, "value ..."]]:
        """Count, mean and scatter of all classes together."""
        at, _ = self._at(self.classes[0], layer)
        n = int(self.count.sum())
        mean = (self.count[:, None] * self.mean[at]).sum(0) / max(n, 1)
        away = (self.mean[at] - mean) * np.sqrt(self.count)[:, None]
        between = (away**2).sum(0) if self.scatter.ndim == 3 else away.T @ away
        return n, mean, self.scatter[at].sum(0) + between

    def to_frame(self) -> pd.DataFrame:
        """One line per layer and class: rows, length of the mean, and mean variance over the hidden axis."""
        lines = []
        for at, layer in enumerate(self.layers):
            for c, label in enumerate(self.classes):
                variances = self.scatter[at, c] if self.scatter.ndim == 3 else np.diagonal(self.scatter[at, c])
                n = int(self.count[c])
                spread = float(variances.mean() / (n - 1)) if n > 1 else np.nan
                lines.append((layer, label, n, float(np.linalg.norm(self.mean[at, c])), spread))
        return pd.DataFrame(lines, columns=["layer", "class", "n", "mean_norm", "mean_variance"])

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(index=False, border=0, escape=True, float_format="{:.4g}".format))

    def _at(self, label: Hashable, layer: int) -> tuple[int, int]:
        if label not in self.classes or layer not in self.layers:
            raise InputError(f"no moments of class {label!r} at layer {layer}; there are {self.classes}, {self.layers}")
        return self.layers.index(layer), self.classes.index(label)


@dataclass(eq=False)
class _Sums:
    """Running moments of one layer: ``[label ...]``, on the device where the rows are."""

    count: Tensor
    mean: Tensor
    scatter: Tensor
    seen: set[str] = field(default_factory=set)

    @classmethod
    def empty(cls, n: int, width: int, full: bool, device: torch.device) -> _Sums:
        options: dict[str, Any] = {"dtype": torch.float64, "device": device}
        scatter = torch.zeros(n, width, *((width,) if full else ()), **options)
        return cls(torch.zeros(n, **options), torch.zeros(n, width, **options), scatter)

    def add(self, label: int, rows: Float[Tensor, "row value"]) -> None:
        """Merges rows of one class. The large sum is updated in place, after everything that can run out of memory."""
        if not len(rows):
            return
        rows = rows.double()
        mean, n, m = rows.mean(0), float(self.count[label]), float(len(rows))
        rows -= mean
        away = (mean - self.mean[label]) * (n * m / (n + m)) ** 0.5
        if self.scatter.ndim == 3:
            self.scatter[label].addmm_(rows.T, rows).addr_(away, away)
        else:
            self.scatter[label] += (rows**2).sum(0) + away**2
        self.mean[label] += (mean - self.mean[label]) * (m / (n + m))
        self.count[label] += m


class MomentFitter:
    """Accumulates moments while a model runs; handed to ``forward``, ``passes`` or ``collect``.

    Sums stay on the device (``covariance="full"`` keeps ``d_model**2`` float64 numbers per class and layer). A batch
    that runs out of memory and is split is counted once. A fitter serves one run.
    """

    def __init__(self, read: Read, classes: Mapping[str, Hashable], covariance: Covariance = "full") -> None:
        if not classes:
            raise InputError("moments need classes: a mapping of rollout id to class")
        self.read, self._class_of = read, dict(classes)
        self.classes = tuple(sorted(set(self._class_of.values()), key=lambda c: (str(type(c)), c)))
        self._full = covariance == "full"
        self._label = {name: self.classes.index(label) for name, label in self._class_of.items()}
        self._sums: dict[int, _Sums] = {}
        self._where: Any = read.positions
        self._begun = False

    def begin(self, model: Model, rollouts: Sequence[Rollout]) -> None:
        """Called once by the run that feeds the fitter."""
        from verdictscope.activations.positions import explicit

        if self._begun:
            raise InputError("this moment fitter has served another run; make a new one")
        for layer in self.read.site.at(model.n_layers):
            model.sites.hook_point(self.read.site.name, layer)
        self._where = explicit(self.read.positions, rollouts, model.optional_tokenizer)
        self._begun = True

    def taps(self, model: Model, batch: Batch) -> list[Tap]:
        """The hooks that see one batch."""
        where = batch.where(self._where)
        names = [r.id for r in batch.rollouts]
        layers = self.read.site.at(model.n_layers)
        return [Tap(self.read.site.name, layer, partial(self._fire, layer, names, where)) for layer in layers]

    def _fire(self, layer: int, names: list[str], where: Where, value: Any, _: BatchView) -> None:
        rows = where.gather(value).flatten(1)
        bounds = np.searchsorted(where.rows, np.arange(len(names) + 1))
        self.update(layer, rows, [(name, a, b) for name, a, b in zip(names, bounds, bounds[1:], strict=False)])

    def update(self, layer: int, rows: Float[Tensor, "row value"], parts: Sequence[tuple[str, int, int]]) -> None:
        """Adds rows of one layer."""
        if layer not in self._sums:
            self._sums[layer] = _Sums.empty(len(self.classes), rows.shape[1], self._full, rows.device)
        sums = self._sums[layer]
        new = [p for p in parts if p[0] in self._label and p[0] not in sums.seen]
        for label in range(len(self.classes)):
            mine = [p for p in new if self._label[p[0]] == label]
            if mine:
                at = torch.from_numpy(np.concatenate([np.arange(a, b) for _, a, b in mine])).to(rows.device)
                sums.add(label, rows[at])
                sums.seen.update(name for name, _, _ in mine)

    def result(self) -> Moments:
        """What was seen so far."""
        if not self._sums:
            raise InputError("this moment fitter has seen no rows; hand it to forward or collect first")
        layers = tuple(sorted(self._sums))
        sums = [self._sums[layer] for layer in layers]
        mean, scatter = (np.stack([getattr(s, k).cpu().numpy() for s in sums]) for k in ("mean", "scatter"))
        count = sums[0].count.cpu().numpy().astype(np.int64)
        if wrong := [layer for layer, rows in zip(layers, mean, strict=True) if not np.isfinite(rows).all()]:
            raise InputError(
                f"hidden states of layer {wrong[0]} hold NaN or infinite numbers: load the model again, or in a wider "
                "dtype"
            )
        return Moments(self.classes, layers, count, mean, scatter)


def moments_of(store: Store, site: str, classes: Mapping[str, Hashable], covariance: Covariance = "full") -> Moments:
    """The same from rows that are stored."""
    from verdictscope.activations.sites import Site

    fitter = MomentFitter(Site(site) @ "all", classes, covariance)
    names = store.rows(site)["rollout"].to_numpy()
    bounds = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist(), len(names)] if len(names) else [0]
    parts = [(str(names[a]), a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
    for layer in store.layers(site):
        fitter.update(layer, store.read(site, layer).flatten(1), parts)
    return fitter.result()
