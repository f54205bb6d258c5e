"""What replaces a value: the operations that heads and sublayers share, checked and said in words."""

from __future__ import annotations

import math

from verdictscope.activations.hooks import WriteFn
from verdictscope.activations.positions import FrozenPositions, Positions
from verdictscope.errors import InputError
from verdictscope.interventions.edits.references import Means, Reference, Rows
from verdictscope.interventions.edits.writers import Scale, ToMean, ToRows, Units

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
        return "set to zero"
    if op == "scale":
        return f"scaled by {value:g}"
    assert reference is not None
    named = f"{reference.source} (reference {reference.digest})"
    return f"set to {named}" if op == "mean" else f"{'resampled' if op == 'resample' else 'patched'} from {named}"


def writer(
    site: str,
    layer: int,
    units: Units,
    op: str,
    value: float,
    reference: Reference | None,
    positions: Positions | FrozenPositions,
) -> WriteFn:
    """The write function of one site and layer.

    Raises:
        InputError: the reference does not hold that site and layer.
    """
    if reference is None:
        return Scale(positions, units, factor=0.0 if op == "zero" else value)
    reference.check(site, layer)
    if isinstance(reference, Means):
        return ToMean(positions, units, means=reference, site=site)
    return ToRows(positions, units, rows=reference, site=site)
