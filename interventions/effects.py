"""What edits do to a readout, on the same tokens: the exact effect of any list of edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from verdictscope.activations import BatchPlan, Model, Readout, forward
from verdictscope.errors import InputError
from verdictscope.interventions.edits import Edit, compile_edits
from verdictscope.rollouts import Rollout
from verdictscope.stats import Effect, effects_frame, mean_effect


@dataclass(frozen=True)
class Effects:
    """The readout of every rollout, untouched and under every edit.

    What this does not show: *why* an edit acts. A total effect contains whatever later layers do about it
    (self-repair), so a small effect of one head is no proof that it plays no part.

    Attributes:
        descriptions: what each edit changed, in words.
        rollouts: ids.
        groups: resampling unit of each rollout.
        base: the readout without edits.
        edited: the readout under each edit.
        unit: of the readout.
        seed: of the bootstrap.
    """

    descriptions: tuple[str, ...]
    rollouts: tuple[str, ...]
    groups: tuple[str, ...]
    base: Float[np.ndarray, " rollout"]
    edited: Float[np.ndarray, "edit rollout"]
    unit: str = "nats"
    seed: int = 0

    @property
    def change(self) -> Float[np.ndarray, "edit rollout"]:
        """Edited minus untouched, per rollout."""
        return self.edited - self.base

    def of(self, edit: int) -> Effect:
        """Mean change under one edit, with a cluster-bootstrap interval over groups."""
        return mean_effect(self.descriptions[edit], self.change[edit], self.groups, unit=self.unit, seed=self.seed)

    def baseline(self) -> Effect:
        """Mean readout without edits."""
        return mean_effect("base", self.base, self.groups, unit=self.unit, seed=self.seed)

    def to_frame(self) -> pd.DataFrame:
        """One row per edit: what it changed and the Effect."""
        return effects_frame(self.of(i) for i in range(len(self.descriptions)))


def effects(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    edits: Sequence[Edit | Sequence[Edit]],
    *,
    plan: BatchPlan | None = None,
    unit: str = "nats",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Effects:
    """Run every rollout once untouched and once under each edit, and read the readout.

    The tokens stay the same, so an effect cannot come from a changed chain of thought.

    Args:
        model: a wrapped model.
        rollouts: teacher-forced ids; cut them with :func:`verdictscope.rollouts.until_answer` to save work.
        readout: one scalar per rollout; where it is read at several tokens, their mean.
        edits: each entry an edit, or several that act together.
        plan: batches; the same for every pass, so that rounding cancels.
        unit: unit of the readout, for the table.
        seed: of the bootstrap.
        progress: called with (edits done, edits in all).

    Raises:
        InputError: no rollouts, or a rollout in which the readout's position does not exist.
    """
    if not rollouts:
        raise InputError("no rollouts to measure effects on: the selection is empty")
    together = [tuple(e) if isinstance(e, Sequence) else (e,) for e in edits]
    plan = plan or BatchPlan.make([len(r) for r in rollouts])
    base = _read(model, rollouts, readout, (), plan)
    rows = []
    for done, group in enumerate(together):
        rows.append(_read(model, rollouts, readout, group, plan))
        if progress:
            progress(done + 1, len(together))
    return Effects(
        descriptions=tuple("; ".join(e.describe() for e in group) for group in together),
        rollouts=tuple(r.id for r in rollouts),
        groups=tuple(r.group for r in rollouts),
        base=base,
        edited=np.array(rows).reshape(len(rows), len(rollouts)),
        unit=unit,
        seed=seed,
    )


def _read(
    model: Model, rollouts: Sequence[Rollout], readout: Readout, edits: Sequence[Edit], plan: BatchPlan
) -> Float[np.ndarray, " rollout"]:
    """The readout's mean over its positions, in the order of the rollouts."""
    scores = forward(model, rollouts, score=[readout], write=compile_edits(model, edits), plan=plan).scores
    means = scores.groupby("rollout")["score"].mean().reindex([r.id for r in rollouts])
    if means.isna().any():
        missing = means.index[means.isna()][0]
        raise InputError(f"readout {readout.name!r} has no position in rollout {missing}: leave it out")
    return means.to_numpy(dtype=np.float64)
