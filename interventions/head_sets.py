"""Sets of heads: the matched random sets that an ablation is compared with, and the effect of ever more heads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb, prod
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from verdictscope.activations import BatchPlan, Model, Readout
from verdictscope.errors import InputError
from verdictscope.interventions.direct import output_norms
from verdictscope.interventions.edits.heads import HeadEdit
from verdictscope.interventions.edits.protocol import Head, as_heads, head_names
from verdictscope.interventions.effects import effects
from verdictscope.rollouts import Rollout
from verdictscope.stats import effects_frame
from verdictscope.values import number, whole_number

WITHIN = 1.5
"""Factor by which the output norm of a matched set may differ from the selected one's."""

_DRAWN = 40  # layer-matched sets that are looked at for each one wanted


@dataclass(frozen=True)
class RandomSets:
    """Sets of heads like the selected one, none of them selected; the ratio of their output norm to the selected set's;
    and how well they match, in words."""

    sets: tuple[tuple[Head, ...], ...]
    ratio: tuple[float, ...]
    asked: int
    note: str


def matched_sets(
    model: Model,
    rollouts: Sequence[Rollout],
    selected: Any,
    n_sets: int = 20,
    *,
    positions: str = "before_answer",
    within: float = WITHIN,
    plan: BatchPlan | None = None,
    seed: int = 0,
) -> RandomSets:
    """Random head sets of the same layers and a similar output norm, the null of an ablation.

    Args:
        model: a wrapped model.
        rollouts: on which the heads' output norms are measured; others than the effect is reported on.
        selected: the heads under test.
        n_sets: how many sets to draw; fewer are given where fewer exist.
        positions: where the norms are measured.
        within: factor by which a set's norm may differ.
        plan: batches.
        seed: of the draw.

    Returns:
        sets within the factor, or those nearest in norm where there are not enough; ``note`` says which.

    Raises:
        InputError: no layer-matched set exists beside the selected heads, or a head or setting is out of range.

    Example:
        >>> from verdictscope.activations import load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> rollout = Rollout("r0", "prompt 0", (5, 6, 7, 8), (Span("user", 0, 4),), 4)
        >>> drawn = matched_sets(model, [rollout], ["L4H6", "L5H2"], n_sets=3, positions="last")
        >>> [sorted(layer for layer, _ in heads) for heads in drawn.sets]
        [[4, 5], [4, 5], [4, 5]]
    """
    norms = output_norms(model, rollouts, positions=positions, plan=plan)
    return norm_matched_sets(as_heads(selected), norms, n_sets, seed, within)


def norm_matched_sets(
    selected: Sequence[Head], norms: Float[np.ndarray, "layer head"], n_sets: int, seed: int, within: float = WITHIN
) -> RandomSets:
    """Layer-matched sets whose output norm (root of the heads' summed squares) is near the selected heads'.

    A head with a small output cannot do much, and most heads have smaller ones than those that were selected for their
    effect: a null matched by layers alone is too easy.
    """
    number(within, "within (a factor)", 1), whole_number(n_sets, "n_sets", 1)
    if not np.isfinite(norms).all():
        raise InputError("a head's norm is NaN or infinite: measure them again (output_norms)")
    n_heads = norms.shape[1]
    _check_heads(selected, n_heads, len(norms))
    per_layer = Counter(layer for layer, _ in set(selected))
    possible = prod(comb(n_heads - count, count) for count in per_layer.values())
    if not possible:
        raise InputError("no random set exists: in some layer fewer heads are left than were selected")
    drawn = layer_matched_sets(selected, n_heads, min(possible, _DRAWN * n_sets), seed)
    size = np.array([np.sqrt(sum(norms[head] ** 2 for head in heads)) for heads in (selected, *drawn)])
    ratio = size[1:] / size[0] if size[0] > 0 else np.ones(len(drawn))
    off = np.abs(np.log(np.maximum(ratio, 1e-12)))
    near = np.flatnonzero(off <= np.log(within))
    if len(near) >= n_sets:
        chosen, how = near[:n_sets], f"with an output norm within a factor {within:g} of the selected heads'"
    else:
        chosen = np.sort(np.argsort(off, kind="stable")[:n_sets])
        how = f"nearest in output norm to the selected heads (only {len(near)} of {len(drawn)} lie within {within:g})"
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


def layer_matched_sets(
    selected: Sequence[Head], n_heads: int, n_sets: int, seed: int, beside: Sequence[Head] = (), fewer: bool = False
) -> list[tuple[Head, ...]]:
    """Distinct random head sets with as many heads in each layer as ``selected``, none of them selected or ``beside``.

    Drawing from all heads instead would put a selected head into about half of the sets of a small model and make the
    null look like the effect. With ``fewer`` all there are, where fewer exist, instead of an error.
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


def curve_steps(n_heads: int, shares: Sequence[float] = tuple(np.arange(1, 11) / 100)) -> list[int]:
    """Numbers of heads that are 1 to 10 % of all, each once: few for a small model, ten for a large one."""
    whole_number(n_heads, "n_heads", 1)
    for share in shares:
        number(share, "share", 0, 1, above=True)
    return sorted({max(1, round(share * n_heads)) for share in shares})


def cumulative_curve(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    ranking: Sequence[Head],
    *,
    steps: Sequence[int] | None = None,
    n_random: int = 9,
    plan: BatchPlan | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Zero-ablate the first k heads of a ranking together, for growing k, and as many random heads of the same layers.

    What this does not show: the least number of heads that would do. The ranking is of single heads; two that stand in
    for one another both rank low.

    Args:
        model: a wrapped model.
        rollouts: others than the ranking was made on.
        readout: a scalar per rollout.
        ranking: all heads of the model, the strongest first.
        steps: values of k; 1 to 10 % of the heads by default.
        n_random: random sets a step, none of the highest step's heads among them; fewer where fewer exist.
        plan: batches.
        seed: of the draws and the bootstrap.
        progress: called with (edits done, edits in all).

    Returns:
        ``k share kind set heads`` and an Effect per row; ``kind`` is ``top`` or ``random``.

    Raises:
        InputError: a step larger than the ranking.

    Example:
        >>> from verdictscope.activations import LogOddsReadout, load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> rollout = Rollout("r0", "prompt 0", (5, 6, 7, 8), (Span("user", 0, 4),), 4)
        >>> readout = LogOddsReadout("odds", positive=((3,),), negative=((4,),), positions="last")
        >>> curve = cumulative_curve(model, [rollout], readout, [(4, 6), (5, 2)], steps=[1], n_random=2)
        >>> curve["kind"].tolist()
        ['top', 'random', 'random']
    """
    ks = list(steps) if steps is not None else curve_steps(len(ranking))
    if not ks or not 0 < min(ks) <= max(ks) <= len(ranking):
        raise InputError(f"steps {ks} of a ranking of {len(ranking)} heads: take numbers from 1 to that")
    rows, sets = [], []
    for k in ks:
        top = tuple(ranking[:k])
        random = layer_matched_sets(top, model.n_heads, n_random, seed, ranking[: max(ks)], fewer=True)
        for at, heads in enumerate([top, *random]):
            kind, name = ("random", f"random_{at - 1}") if at else ("top", "top")
            rows.append({"k": k, "share": k / len(ranking), "kind": kind, "set": name, "heads": head_names(heads)})
            sets.append(HeadEdit(heads))
    found = effects(model, rollouts, readout, sets, plan=plan, seed=seed, progress=progress)
    return pd.concat([pd.DataFrame(rows), effects_frame(found.of(i) for i in range(len(sets)))], axis=1)
