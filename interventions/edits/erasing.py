"""An erasure of a concept (LEACE, or a mean projection) as an edit of the residual stream."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
from verdictscope.interventions.edits.sublayers import named, sites_of
from verdictscope.probes.erasure import Eraser


@dataclass(frozen=True, eq=False)
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
    left: np.ndarray
    right: np.ndarray
    mean: np.ndarray
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EraseEdit) and _key(self) == _key(other)

    def __hash__(self) -> int:
        return hash(_key(self))

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


def _key(edit: EraseEdit) -> tuple:
    return edit.site, edit.layer, edit.digest, edit.positions, edit.name


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
