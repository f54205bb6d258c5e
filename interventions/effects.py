"""What edits do to a readout, on the same tokens: the exact effect of any list of edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from verdictscope.activations import BatchPlan, LinearReadout, Model, Readout, forward
from verdictscope.activations.forward import check_inputs, default_plan
from verdictscope.activations.positions import explicit
from verdictscope.activations.scoring import linear_groups
from verdictscope.errors import InputError
from verdictscope.interventions.edits.protocol import Edit, as_edits, compile_edits
from verdictscope.interventions.replay.running import Computed, NotReplayed, Readings, replay
from verdictscope.judgments import Contrast
from verdictscope.rollouts import Rollout
from verdictscope.stats import Effect, effects_frame, mean_effect


@dataclass(frozen=True)
class Effects:
    """The readout of every rollout, unedited and under every edit.

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
        computed: how: by replay, by restarts, or by whole passes, and why not the cheaper way.

    Example:
        >>> ids = ("a", "b", "c")
        >>> found = Effects(("L0H1 zero-ablated",), ids, ids, np.zeros(3), np.ones((1, 3)))
        >>> found.to_frame()["estimate"].item()
        1.0
    """

    descriptions: tuple[str, ...]
    rollouts: tuple[str, ...]
    groups: tuple[str, ...]
    base: Float[np.ndarray, " rollout"]
    edited: Float[np.ndarray, "edit rollout"]
    unit: str = "nats"
    seed: int = 0
    computed: Computed = Computed("passes")

    def __repr__(self) -> str:
        edits, rollouts = self.edited.shape
        return f"Effects({edits} edits x {rollouts} rollouts, {self.unit}; to_frame() has a row per edit)"

    @property
    def change(self) -> Float[np.ndarray, "edit rollout"]:
        """Edited minus unedited, per rollout."""
        return self.edited - self.base

    def on(self, contrast: Contrast) -> Effects:
        """Effects on a contrast, one column per item."""
        return replace(
            self,
            rollouts=contrast.items,
            groups=contrast.groups,
            base=contrast.of(self.base, self.rollouts),
            edited=contrast.of(self.edited, self.rollouts),
        )

    def of(self, edit: int) -> Effect:
        """Mean change under one edit, with a cluster-bootstrap interval over groups."""
        return mean_effect(self.descriptions[edit], self.change[edit], self.groups, unit=self.unit, seed=self.seed)

    def baseline(self) -> Effect:
        """Mean readout without edits."""
        return mean_effect("base", self.base, self.groups, unit=self.unit, seed=self.seed)

    def to_frame(self) -> pd.DataFrame:
        """One row per edit, its description and Effect, the largest in size first; the index numbers the edits."""
        return sorted_by_size(effects_frame(self.of(i) for i in range(len(self.descriptions))), reset=False)


def sorted_by_size(table: pd.DataFrame, by: Sequence[str] = (), *, reset: bool = True) -> pd.DataFrame:
    """Rows by absolute estimate, the largest first, within the columns ``by`` in their order of appearance."""
    ranks = [table.groupby(list(by), sort=False, dropna=False).ngroup().to_numpy()] if by else []
    order = np.lexsort([-table["estimate"].abs().fillna(-1).to_numpy(), *ranks])
    return table.iloc[order].reset_index(drop=True) if reset else table.iloc[order]


METHODS = ("auto", "replay", "passes")
"""How effects may be computed, see :func:`effects`."""


def effects(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    edits: Edit | Sequence[Edit | Sequence[Edit]],
    *,
    method: str = "auto",
    plan: BatchPlan | None = None,
    unit: str = "nats",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Effects:
    """Read a readout of every rollout, unedited and under each edit.

    The tokens stay the same, so an effect cannot come from a changed chain of thought. What an edit leaves untouched is
    not run again: nothing before its layer or behind the readout's, and nothing before the first edited token. Edits at
    the last tokens of a long rollout are cheap for that reason, edits at ``all`` positions save the layers only. The
    model's own kernels do all of it, and it is verified on each model against a whole pass.

    Args:
        model: a wrapped model.
        rollouts: teacher-forced ids; what follows the readout's last position is not run.
        readout: one scalar per rollout; where it is read at several tokens, their mean.
        edits: one edit, or a list in which each entry is an edit or several that act together.
        method: ``auto`` replays and falls back to whole passes, which the result says; ``replay`` does not fall back;
            ``passes`` runs one whole forward pass per edit.
        plan: batches of whole passes; its token budget also bounds what is replayed at once.
        unit: unit of the readout, for the table.
        seed: of the bootstrap.
        progress: called with (edits done, edits in all).

    Raises:
        InputError: no rollouts, a rollout in which the readout's position does not exist, an unknown method, or a
            model that cannot be replayed although this was asked for.

    Example:
        >>> from verdictscope.activations import LogOddsReadout, load_model
        >>> from verdictscope.interventions import HeadEdit
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> rollout = Rollout("r0", "prompt 0", (5, 6, 7, 8), (Span("user", 0, 4),), 4)
        >>> readout = LogOddsReadout("odds", positive=((3,),), negative=((4,),), positions="last")
        >>> found = effects(model, [rollout], readout, [HeadEdit("L4H6"), HeadEdit(["L4H6", "L5H2"])])
        >>> found.change.shape
        (2, 1)
    """
    if not rollouts:
        raise InputError("no rollouts to measure effects on: the selection is empty")
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}: use {', '.join(METHODS[:-1])} or {METHODS[-1]}")
    together = [as_edits(entry) for entry in ([edits] if isinstance(edits, Edit) else edits)]
    plan = plan or default_plan(model, rollouts)
    check_inputs(model, rollouts, (), (readout,))
    if isinstance(readout, LinearReadout):
        linear_groups(model, [readout])
    readout = replace(readout, positions=explicit(readout.positions, rollouts, model.optional_tokenizer))
    found = _read_all(model, rollouts, readout, together, method, plan, progress)
    return Effects(
        descriptions=tuple("; ".join(e.describe() for e in group) for group in together),
        rollouts=tuple(r.id for r in rollouts),
        groups=tuple(r.group for r in rollouts),
        base=found.base,
        edited=found.edited,
        unit=unit,
        seed=seed,
        computed=found.computed,
    )


def _read_all(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    together: Sequence[tuple[Edit, ...]],
    method: str,
    plan: BatchPlan,
    progress: Callable[[int, int], None] | None,
) -> Readings:
    why = ""
    if method != "passes":
        try:
            return replay(model, rollouts, readout, together, plan, progress)
        except NotReplayed as error:
            if method == "replay":
                raise InputError(f"{model.name} cannot be replayed: {error}; use method='passes'") from error
            why = str(error)
    base = _read(model, rollouts, readout, (), plan)
    rows = []
    for done, group in enumerate(together):
        rows.append(_read(model, rollouts, readout, group, plan))
        if progress:
            progress(done + 1, len(together))
    return Readings(base, np.array(rows).reshape(len(rows), len(rollouts)), Computed("passes", why))


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
