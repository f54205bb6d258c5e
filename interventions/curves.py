"""How an effect grows with the heads taken out, beside as many random heads of the same layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from verdictscope.activations import BatchPlan, Model, Readout
from verdictscope.errors import InputError
from verdictscope.interventions.edits import Head, HeadEdit
from verdictscope.interventions.effects import effects
from verdictscope.interventions.random_sets import layer_matched_sets
from verdictscope.rollouts import Rollout
from verdictscope.values import number as check_number
from verdictscope.values import whole_number


def curve_steps(n_heads: int, shares: Sequence[float] = tuple(np.arange(1, 11) / 100)) -> list[int]:
    """Numbers of heads that are 1 to 10 % of all, each once: few for a small model, ten for a large one.

    Raises:
        InputError: no heads, or a share outside 0 to 1.
    """
    whole_number(n_heads, "n_heads", 1)
    for share in shares:
        check_number(share, "share", 0, 1, above=True)
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
    """Zero the first k heads of a ranking together, for growing k, and as many random heads of the same layers.

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
    """
    ks = list(steps) if steps is not None else curve_steps(len(ranking))
    if not ks or not 0 < min(ks) <= max(ks) <= len(ranking):
        raise InputError(f"steps {ks} of a ranking of {len(ranking)} heads: take numbers from 1 to that")
    rows, sets = [], []
    for k in ks:
        top = tuple(ranking[:k])
        random = layer_matched_sets(top, model.n_heads, n_random, seed, ranking[: max(ks)], fewer=True)
        for number, heads in enumerate([top, *random]):
            kind, name = ("random", f"random_{number - 1}") if number else ("top", "top")
            told = " ".join(f"L{layer}H{head}" for layer, head in heads)
            rows.append({"k": k, "share": k / len(ranking), "kind": kind, "set": name, "heads": told})
            sets.append(HeadEdit(heads))
    found = effects(model, rollouts, readout, sets, plan=plan, seed=seed, progress=progress)
    return pd.concat([pd.DataFrame(rows), found.to_frame()], axis=1)
