"""The operations behind the edits: which units of a site get which numbers.

A unit is a head of a site that is cut into heads; other sites are taken whole. Masks are made once and kept, since a
decoding step is only milliseconds long, and nothing of the caller's is changed in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from verdictscope.activations import BatchView
from verdictscope.activations.hooks import WriteFn
from verdictscope.activations.positions import FrozenPositions, Positions
from verdictscope.errors import InputError
from verdictscope.interventions.edits.references import Means, Reference, Rows

Units = tuple[int, ...] | None
"""Heads, or ``None`` for a site taken whole."""


@dataclass(frozen=True, eq=False)
class Replacement:
    """Where a write function acts."""

    positions: Positions | FrozenPositions
    units: Units
    kept: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)

    def where(self, value: Tensor, here: Bool[Tensor, "batch pos"]) -> Tensor:
        """A mask over ``value``: the edited units at the chosen tokens."""
        if self.units is None:
            return here[..., None]
        key = value.device, value.shape[2]
        if key not in self.kept:
            edited = torch.zeros(value.shape[2], 1, dtype=torch.bool)
            edited[list(self.units)] = True
            self.kept[key] = edited.to(value.device)
        return here[..., None, None] & self.kept[key]

    def like(self, value: Tensor, name: Any, data: Any) -> Tensor:
        """An array as a tensor of the value's device and dtype."""
        key = name, value.device, value.dtype
        if key not in self.kept:
            self.kept[key] = torch.tensor(data, device=value.device).to(value.dtype)
        return self.kept[key]


@dataclass(frozen=True, eq=False)
class Scale(Replacement):
    """Multiply; by zero also what is infinite or no number."""

    factor: float = 0.0

    def __call__(self, value: Tensor, view: BatchView) -> Tensor:
        """See the class."""
        if self.factor == 1:
            return value
        if view.step and self.units is not None and self.positions == "all":
            return self._step(value)
        where = self.where(value, view.select(self.positions))
        # A choice, not a multiplication: zero times an infinite activation would be NaN.
        return torch.where(where, 0.0 if self.factor == 0 else value * self.factor, value)

    def _step(self, value: Tensor) -> Tensor:
        """The same for one token a row, in one kernel and without a mask: a step is only milliseconds long."""
        key = "step", value.device, value.dtype == torch.float64
        if key not in self.kept:
            units, wide = torch.tensor(self.units), torch.float64 if key[2] else torch.float32
            gains = torch.ones(value.shape[2], 1, dtype=wide).index_fill(0, units, self.factor)
            self.kept[key] = (units if self.factor == 0 else gains).to(value.device)
        if self.factor == 0:
            return value.index_fill(2, self.kept[key], 0)
        return (value * self.kept[key]).to(value.dtype)  # the factor itself is never rounded to bfloat16


@dataclass(frozen=True, eq=False)
class ToMean(Replacement):
    """Set to a reference mean: of the first class of positions that a token belongs to."""

    means: Means = field(kw_only=True)
    site: str = field(kw_only=True)

    def __call__(self, value: Tensor, view: BatchView) -> Tensor:
        """See the class."""
        left = view.select(self.positions)
        for at, rule in enumerate(self.means.classes):
            mean = self.like(value, at, self.means.at(self.site, view.layer, at))
            if mean.shape != value.shape[2:]:
                raise _does_not_fit(self.site, view.layer, self.means.digest, mean.shape, value.shape[2:])
            here = left & view.select(rule)
            value = torch.where(self.where(value, here), mean, value)
            left = left & ~here
        return value


@dataclass(frozen=True, eq=False)
class ToRows(Replacement):
    """Set to what another rollout had at the aligned token."""

    rows: Rows = field(kw_only=True)
    site: str = field(kw_only=True)

    def __call__(self, value: Tensor, view: BatchView) -> Tensor:
        """See the class."""
        here = view.select(self.positions) & view.select(self.rows.targets)
        lines, tokens = here.nonzero(as_tuple=True)
        index = self.rows.lookup(ids_of(view), lines.tolist(), view.positions[lines, tokens].tolist())
        source = self.rows.at(self.site, view.layer)
        if source.shape[1:] != value.shape[2:]:
            raise _does_not_fit(self.site, view.layer, self.rows.digest, source.shape[1:], value.shape[2:])
        new = value.clone()
        found = torch.from_numpy(source[index]).to(value)
        if self.units is None:
            new[lines, tokens] = found
        else:
            units = torch.tensor(self.units, device=value.device)
            new[lines[:, None], tokens[:, None], units] = found[:, list(self.units)]
        return new


def ids_of(view: BatchView) -> list[str]:
    """The rollouts of a batch by name; under an appended label those of the whole rollouts."""
    if view.rollouts is None:
        raise InputError("a patch needs to know its rollouts: run it through forward or effects, not generate")
    whole = [rollout for rollout, _ in view.origins] if view.origins is not None else view.rollouts
    return [rollout.id for rollout in whole]


def _does_not_fit(site: str, layer: int, digest: str, has: Sequence[int], wants: Sequence[int]) -> InputError:
    return InputError(
        f"reference {digest} has {site} of shape {tuple(has)} at layer {layer}, this model {tuple(wants)}: gather it "
        "with this model"
    )


OPERATIONS = ("zero", "scale", "mean", "resample", "patch")
"""What can be put in a value's place. ``mean`` needs :class:`Means`, ``resample`` and ``patch`` need :class:`Rows`:
from matched rollouts (:func:`~verdictscope.interventions.edits.alignment.matched`) or from a counterfactual."""

_GATHERED = {"mean": (Means, "gather_means"), "resample": (Rows, "gather_rows"), "patch": (Rows, "gather_rows")}


def check_operation(what: str, op: str, value: float, reference: Reference | None) -> None:
    """Raises ``InputError`` unless operation, factor and reference fit each other."""
    if op not in OPERATIONS:
        raise InputError(f"unknown operation {op!r} on {what}: use {', '.join(OPERATIONS[:-1])} or {OPERATIONS[-1]}")
    if not math.isfinite(value):
        raise InputError(f"{what} cannot be scaled by {value}: use a finite factor")
    if op == "zero" and value != 0:
        raise InputError(f"zero takes no factor: use op='scale' to scale {what} by {value:g}")
    if op in _GATHERED:
        kind, maker = _GATHERED[op]
        if not isinstance(reference, kind):
            raise InputError(f"operation {op} on {what} needs reference={maker}(…)")
    elif reference is not None:
        raise InputError(f"operation {op} on {what} takes no reference; use mean, resample or patch")


def in_words(op: str, value: float, reference: Reference | None) -> str:
    """What is done to a value."""
    if op == "zero":
        return "zero-ablated"
    if op == "scale":
        return f"scaled by {value:g}"
    assert reference is not None
    named = f"{reference.source} (reference {reference.digest})"
    return f"set to {named}" if op == "mean" else f"{'resampled' if op == 'resample' else 'patched'} from {named}"


def replacement(
    site: str,
    layer: int,
    units: Units,
    op: str,
    value: float,
    reference: Reference | None,
    positions: Positions | FrozenPositions,
) -> WriteFn:
    """The write function of one site and layer."""
    if reference is None:
        return Scale(positions, units, factor=0.0 if op == "zero" else value)
    reference.check(site, layer)
    if isinstance(reference, Means):
        return ToMean(positions, units, means=reference, site=site)
    return ToRows(positions, units, rows=reference, site=site)
