"""The exact effect of every single head on a readout."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from verdictscope.activations import BatchPlan, Model, Readout
from verdictscope.interventions.edits import Head, HeadEdit
from verdictscope.interventions.effects import effects
from verdictscope.rollouts import Rollout


def sweep_heads(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    *,
    heads: Sequence[Head] | None = None,
    positions: str = "all",
    plan: BatchPlan | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Zero each head alone and read the readout again: one forward pass per head, nothing approximated.

    Args:
        model: a wrapped model.
        rollouts: teacher-forced ids.
        readout: for example the refusal log-odds before the answer.
        heads: which heads; all by default.
        positions: where to zero them.
        plan: batches.
        seed: of the bootstrap.
        progress: called with (heads done, heads in all).

    Returns:
        ``layer head`` and an Effect per head: the change of the readout when the head is zeroed. A head that
        *suppresses* what the readout measures has a positive effect.
    """
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    chosen = list(heads) if heads is not None else every
    edits = [HeadEdit((head,), positions=positions) for head in chosen]
    table = effects(model, rollouts, readout, edits, plan=plan, seed=seed, progress=progress).to_frame()
    table.insert(0, "layer", [layer for layer, _ in chosen])
    table.insert(1, "head", [head for _, head in chosen])
    return table
