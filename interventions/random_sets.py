"""The null of an ablation: the same number of heads in the same layers, drawn from those not selected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb, prod

import numpy as np

from verdictscope.errors import InputError
from verdictscope.interventions.edits import Head


def layer_matched_sets(selected: Sequence[Head], n_heads: int, n_sets: int, seed: int) -> list[tuple[Head, ...]]:
    """Distinct random head sets with as many heads in each layer as ``selected``, none of them selected.

    Drawing from all heads instead would put a selected head into about half of the sets of a small model and make the
    null look like the effect.

    Args:
        selected: the heads under test.
        n_heads: query heads per layer.
        n_sets: how many sets to draw.
        seed: of the draw.

    Returns:
        ``n_sets`` sets of sorted (layer, head) pairs, in the order drawn.

    Raises:
        InputError: fewer distinct sets exist than were asked for.
    """
    per_layer = Counter(layer for layer, _ in selected)
    free = {layer: [h for h in range(n_heads) if (layer, h) not in set(selected)] for layer in sorted(per_layer)}
    possible = prod(comb(len(free[layer]), count) for layer, count in per_layer.items())
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
