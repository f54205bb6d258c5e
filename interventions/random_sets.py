"""The null of an ablation: as many heads of the same layers that write as much, drawn from those not selected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, prod

import numpy as np
from jaxtyping import Float

from verdictscope.errors import InputError
from verdictscope.interventions.edits import Head
from verdictscope.values import number, whole_number

WITHIN = 1.5
"""Factor by which the norm that a matched set writes may differ from the selected one's."""

_DRAWN = 40  # layer-matched sets that are looked at for each one wanted


@dataclass(frozen=True)
class RandomSets:
    """Sets of heads like the selected one, none of them selected.

    Attributes:
        sets: sorted (layer, head) pairs.
        ratio: norm of what each set writes over the selected set's.
        asked: how many were asked for.
        note: how well they match, in words.
    """

    sets: tuple[tuple[Head, ...], ...]
    ratio: tuple[float, ...]
    asked: int
    note: str


def matched_sets(
    selected: Sequence[Head], norms: Float[np.ndarray, "layer head"], n_sets: int, seed: int, within: float = WITHIN
) -> RandomSets:
    """Random head sets of the same layers whose writing is about as large as the selected heads'.

    A head that writes little cannot do much, and most heads write less than those that were selected for doing much: a
    null of layers alone is too easy. A set's norm is the root of its heads' summed squares.

    Args:
        selected: the heads under test.
        norms: mean norm of what each head writes (:func:`~verdictscope.interventions.direct.write_norms`).
        n_sets: how many sets to draw; fewer are given where fewer exist.
        seed: of the draw.
        within: factor by which a set's norm may differ.

    Returns:
        sets whose norm lies within the factor, drawn at random; where there are not enough of them, those nearest in
        norm. The note says which.

    Raises:
        InputError: no layer-matched set exists beside the selected heads, a head is none of the model's, a norm is not
            finite, or a setting is out of range.
    """
    number(within, "within (a factor)", 1), whole_number(n_sets, "n_sets", 1)
    if not np.isfinite(norms).all():
        raise InputError("a head's norm is NaN or infinite: measure them again (write_norms)")
    n_heads = norms.shape[1]
    _check_heads(selected, n_heads, len(norms))
    possible = _possible(selected, n_heads)
    if not possible:
        raise InputError("no random set exists: in some layer fewer heads are left than were selected")
    drawn = layer_matched_sets(selected, n_heads, min(possible, _DRAWN * n_sets), seed)
    size = np.array([np.sqrt(sum(norms[head] ** 2 for head in heads)) for heads in (selected, *drawn)])
    ratio = size[1:] / size[0] if size[0] > 0 else np.ones(len(drawn))
    off = np.abs(np.log(np.maximum(ratio, 1e-12)))
    near = np.flatnonzero(off <= np.log(within))
    if len(near) >= n_sets:
        chosen, how = near[:n_sets], f"that write within a factor {within:g} of the found heads' norm"
    else:
        chosen = np.sort(np.argsort(off, kind="stable")[:n_sets])
        how = f"nearest to the found heads' norm (only {len(near)} of {len(drawn)} lie within a factor {within:g})"
    fewer = f"; no more than these {len(chosen)} exist" if len(chosen) < n_sets else ""
    span = f"{ratio[chosen].min():.2f} to {ratio[chosen].max():.2f} of it"
    return RandomSets(
        tuple(drawn[i] for i in chosen),
        tuple(float(ratio[i]) for i in chosen),
        n_sets,
        f"{len(chosen)} sets of the same layers, {how}: {span}{fewer}",
    )


def _check_heads(selected: Sequence[Head], n_heads: int, n_layers: int | None = None) -> None:
    if not selected:
        raise InputError("no heads are selected: there is nothing to match")
    for layer, head in selected:
        if not 0 <= head < n_heads or layer < 0 or (n_layers is not None and layer >= n_layers):
            raise InputError(
                f"head ({layer}, {head}) does not exist: a layer has heads 0 to {n_heads - 1}"
                + ("" if n_layers is None else f", and layers are 0 to {n_layers - 1}")
            )


def _possible(selected: Sequence[Head], n_heads: int) -> int:
    """How many layer-matched sets there are beside the selected heads."""
    per_layer = Counter(layer for layer, _ in set(selected))
    return prod(comb(n_heads - count, count) for count in per_layer.values())


def layer_matched_sets(
    selected: Sequence[Head], n_heads: int, n_sets: int, seed: int, beside: Sequence[Head] = (), fewer: bool = False
) -> list[tuple[Head, ...]]:
    """Distinct random head sets with as many heads in each layer as ``selected``, none of them selected.

    Drawing from all heads instead would put a selected head into about half of the sets of a small model and make the
    null look like the effect.

    Args:
        selected: the heads under test.
        n_heads: query heads per layer.
        n_sets: how many sets to draw.
        seed: of the draw.
        beside: further heads that are not drawn either.
        fewer: give all there are where fewer exist, instead of raising.

    Returns:
        ``n_sets`` sets of sorted (layer, head) pairs, in the order drawn.

    Raises:
        InputError: fewer distinct sets exist than were asked for, a head is none of the model's, or no sets are asked
            for.
    """
    whole_number(n_sets, "n_sets", 0 if fewer else 1), whole_number(seed, "seed")
    _check_heads(selected, n_heads)
    per_layer = Counter(layer for layer, _ in selected)
    taken = {*selected, *beside}
    free = {layer: [h for h in range(n_heads) if (layer, h) not in taken] for layer in sorted(per_layer)}
    possible = prod(comb(len(free[layer]), count) for layer, count in per_layer.items())
    n_sets = min(n_sets, possible) if fewer else n_sets
    if possible < n_sets:
        raise InputError(
            f"only {possible} layer-matched sets exist beside the {len(set(selected))} selected heads: "
            f"ask for at most {possible} random sets"
        )
    rng = np.random.default_rng(seed)
    seen: dict[tuple[Head, ...], None] = {}
    while len(seen) < n_sets:
        drawn = (
            (layer, int(head))
            for layer in free
            for head in rng.choice(free[layer], size=per_layer[layer], replace=False)
        )
        seen.setdefault(tuple(sorted(drawn)), None)
    return list(seen)
