"""Edits along directions of the residual stream: project out, add, clamp a coordinate, or erase a concept (LEACE)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from verdictscope.activations import BatchView, Model, Site
from verdictscope.activations.hooks import WriteFn
from verdictscope.activations.positions import FrozenPositions, Positions
from verdictscope.activations.sites import VECTORS
from verdictscope.errors import InputError
from verdictscope.interventions.edits.operations import Replacement
from verdictscope.interventions.edits.protocol import at_positions, checked
from verdictscope.interventions.edits.sublayers import checked_layers, named, sites_of
from verdictscope.probes.erasure import Eraser

DIRECTION_OPERATIONS = ("project", "add", "clamp")
"""What can be done along a direction."""


@dataclass(frozen=True)
class DirectionEdit:
    """Change the coordinate along a direction and nothing orthogonal to it.

    With the unit direction u and the coordinate c = x · u: ``project`` gives x - c u; ``add`` gives x + value · u;
    ``clamp`` gives x + (min(max(c, low), high) - c) u. A probe's direction that was fitted behind the final norm is no
    direction of the stream before it.

    Attributes:
        site: a site of the residual stream's width.
        layers: which.
        direction: ``[d_model]``, of any length; for ``project`` also ``[direction d_model]``, whose span is taken out.
        op: ``project``, ``add`` or ``clamp``.
        value: of ``add``: how far, in the stream's units; by default the length of ``direction``.
        low, high: the range of ``clamp``.
        positions: a positions rule.
        name: what the direction is called in words.

    Example:
        >>> import numpy as np
        >>> DirectionEdit("resid_post", (3,), np.ones(8), "add", 2.0, positions="think_end", name="refusal").layers
        (3,)
    """

    site: str
    layers: tuple[int, ...]
    direction: np.ndarray | Sequence[float] | Sequence[Sequence[float]] = field(compare=False)
    op: str = "project"
    value: float | None = None
    low: float = -math.inf
    high: float = math.inf
    positions: Positions | FrozenPositions = "all"
    name: str = "direction"
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        direction = np.array(self.direction, dtype=np.float64)
        direction.setflags(write=False)
        object.__setattr__(self, "direction", direction)
        object.__setattr__(self, "digest", hashlib.sha256(direction.tobytes()).hexdigest()[:8])
        object.__setattr__(self, "layers", checked_layers(self.layers))
        object.__setattr__(self, "positions", checked(self.positions))
        if self.site not in VECTORS:
            raise InputError(f"a direction is edited at {', '.join(VECTORS)}, not at {self.site!r}")
        if self.op not in DIRECTION_OPERATIONS:
            raise InputError(f"unknown operation {self.op!r} along a direction: use project, add or clamp")
        if direction.ndim != 1 and not (self.op == "project" and direction.ndim == 2 and len(direction)):
            raise InputError(f"a direction of shape {direction.shape}: give [d_model], several of them to project only")
        lengths = np.linalg.norm(np.atleast_2d(direction), axis=1)
        if not np.isfinite(lengths).all() or (lengths == 0).any():
            raise InputError("a direction must be finite and not zero")
        if (self.op == "clamp") != (self.low > -math.inf or self.high < math.inf) or not self.low <= self.high:
            raise InputError("clamp needs low or high, low <= high, and no other operation takes them")
        if self.value is not None and (self.op != "add" or not math.isfinite(self.value)):
            raise InputError("value says how far to add: a finite number, for op='add' alone")

    @property
    def basis(self) -> np.ndarray:
        """``[direction d_model]``, orthonormal."""
        stacked = np.atleast_2d(np.asarray(self.direction))
        if len(stacked) == 1:
            return stacked / np.linalg.norm(stacked)
        _, sizes, rows = np.linalg.svd(stacked, full_matrices=False)
        return rows[sizes > 1e-10 * sizes[0]]

    @property
    def length(self) -> float:
        """How far ``add`` goes."""
        return float(np.linalg.norm(np.asarray(self.direction))) if self.value is None else self.value

    def describe(self) -> str:
        """What is changed, in words."""
        where = f"{named(self.site, self.layers)}: {self.name} ({self.digest})"
        n = len(np.atleast_2d(np.asarray(self.direction)))
        what = {
            "project": "projected out" + (f", the span of {n}" if n > 1 else ""),
            "add": f"added, {self.length:g} long",
            "clamp": f"held between {self.low:g} and {self.high:g}",
        }[self.op]
        return f"{where} {what} {at_positions(self.positions)}"

    def write(self, model: Model) -> Mapping[Site, WriteFn]:
        """One write hook a layer."""
        basis = self.basis
        if basis.shape[1] != model.d_model:
            raise InputError(f"a direction of {basis.shape[1]} numbers: {model.name} has d_model {model.d_model}")
        step = self.length if self.op == "add" else 0.0
        along = Along(self.positions, None, op=self.op, basis=basis, step=step, low=self.low, high=self.high)
        return {site: along for site in sites_of(model, self.site, self.layers)}


@dataclass(frozen=True, eq=False)
class Along(Replacement):
    """Changes the coordinates along an orthonormal basis, computed in float32 at least."""

    op: str = field(kw_only=True)
    basis: np.ndarray = field(kw_only=True)
    step: float = field(kw_only=True)
    low: float = field(kw_only=True)
    high: float = field(kw_only=True)

    def __call__(self, value: Tensor, view: BatchView) -> Tensor:
        """See the class."""
        wide = value if value.dtype == torch.float64 else value.float()
        basis = self.like(wide, "basis", self.basis)
        if self.op == "add":
            change = self.step * basis[0]
        else:
            at = wide @ basis.T
            change = ((at.clamp(self.low, self.high) if self.op == "clamp" else 0) - at) @ basis
        where = self.where(value, view.select(self.positions))
        return torch.where(where, (wide + change).to(value.dtype), value)


@dataclass(frozen=True)
class EraseEdit:
    """``x - left @ right @ (x - mean)`` at one layer: what an :class:`~verdictscope.probes.Eraser` does to states, done
    inside the forward pass.

    Unlike ``DirectionEdit(op="project")`` it is oblique: it measures along ``right`` and takes away along ``left``, so
    what varies together with the concept but is not it stays, and the mean of all states stays where it was.

    Attributes:
        site: a site of the residual stream's width, the one the eraser was fitted at.
        layer: its layer.
        left: ``[d_model rank]``.
        right: ``[rank d_model]``.
        mean: ``[d_model]``.
        positions: a positions rule.
        name: what is erased, in words.

    Example:
        >>> import numpy as np
        >>> edit = EraseEdit("resid_post", 3, np.eye(4, 1), np.eye(1, 4), np.zeros(4), name="topic")
        >>> edit.left.shape
        (4, 1)
    """

    site: str
    layer: int
    left: np.ndarray = field(compare=False)
    right: np.ndarray = field(compare=False)
    mean: np.ndarray = field(compare=False)
    positions: Positions | FrozenPositions = "all"
    name: str = "concept"
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        arrays = {name: np.array(getattr(self, name), dtype=np.float64) for name in ("left", "right", "mean")}
        for name, array in arrays.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        whole = b"".join(arrays[name].tobytes() for name in sorted(arrays))
        object.__setattr__(self, "digest", hashlib.sha256(whole).hexdigest()[:8])
        object.__setattr__(self, "positions", checked(self.positions))
        if self.site not in VECTORS:
            raise InputError(f"a concept is erased at {', '.join(VECTORS)}, not at {self.site!r}")
        left, right, mean = (arrays[name] for name in ("left", "right", "mean"))
        if mean.ndim != 1 or left.ndim != 2 or right.ndim != 2:
            raise InputError("an erasure takes left [d rank], right [rank d] and mean [d]")
        if left.shape != right.shape[::-1] or left.shape[0] != len(mean):
            raise InputError(f"left {left.shape}, right {right.shape}, mean {mean.shape} do not fit together")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise InputError("an erasure's numbers must be finite")

    @classmethod
    def of(
        cls,
        eraser: Eraser,
        site: str,
        layer: int,
        positions: Positions | FrozenPositions = "all",
        name: str = "concept",
    ) -> EraseEdit:
        """The edit that does what an eraser does."""
        return cls(site, layer, eraser.left, eraser.right, eraser.mean, positions, name)

    def describe(self) -> str:
        """What is changed, in words."""
        rank = self.left.shape[1]
        where = named(self.site, (self.layer,))
        return f"{where}: {self.name} ({self.digest}) erased, rank {rank}, {at_positions(self.positions)}"

    def write(self, model: Model) -> Mapping[Site, WriteFn]:
        """One write hook."""
        if len(self.mean) != model.d_model:
            raise InputError(f"an erasure of {len(self.mean)} numbers: {model.name} has d_model {model.d_model}")
        erase = Oblique(self.positions, None, left=self.left, right=self.right, mean=self.mean)
        return {site: erase for site in sites_of(model, self.site, (self.layer,))}


@dataclass(frozen=True, eq=False)
class Oblique(Replacement):
    """Takes away along ``left`` what ``right`` measures, computed in float32 at least."""

    left: np.ndarray = field(kw_only=True)
    right: np.ndarray = field(kw_only=True)
    mean: np.ndarray = field(kw_only=True)

    def __call__(self, value: Tensor, view: BatchView) -> Tensor:
        """See the class."""
        wide = value if value.dtype == torch.float64 else value.float()
        left, right, mean = (self.like(wide, name, getattr(self, name)) for name in ("left", "right", "mean"))
        change = ((wide - mean) @ right.T) @ left.T
        where = self.where(value, view.select(self.positions))
        return torch.where(where, (wide - change).to(value.dtype), value)
