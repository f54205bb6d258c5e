"""Which heads and MLPs bias a judge: exact effects of each on every part of the verdict, tested together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import expit

from verdictscope.activations import BatchPlan, Model, Readout
from verdictscope.errors import InputError
from verdictscope.interventions.attribution import Part
from verdictscope.interventions.contrasts import Contrast
from verdictscope.interventions.edits import Head
from verdictscope.interventions.head_sweep import sweep_heads
from verdictscope.interventions.many_heads import DELTA_SHARE, HeadSweep
from verdictscope.judgments.asking import shown_to_own
from verdictscope.rollouts import Rollout
from verdictscope.stats import Effect, mean_effect

CONTENT = "content"
"""Name of the contrast that is no bias."""


@dataclass(frozen=True)
class BiasSweep:
    """What taking out every part alone does to each part of a judge's verdict.

    What this does not show: that a head *is* biased. Taking it out can unbalance others; and a head that carries both
    content and position is no candidate for ablation, however large its effect.

    Attributes:
        sizes: the untouched size of each contrast: mean over items, in nats.
        sweeps: by contrast, the effects of every part, signed so that a positive effect makes the contrast smaller.
        delta: smallest effect that counts, in nats.
        delta_is: where it comes from, in words.
    """

    sizes: Mapping[str, Effect]
    sweeps: Mapping[str, HeadSweep]
    delta: float
    delta_is: str

    @property
    def biases(self) -> tuple[str, ...]:
        """Names of the contrasts that are no content."""
        return tuple(name for name in self.sweeps if name != CONTENT)

    def heads(self, bias: str) -> tuple[Head, ...]:
        """Heads without which the bias is smaller by more than delta, the strongest first."""
        return self.sweeps[bias].heads

    def parts(self, bias: str) -> tuple[Part, ...]:
        """The same with whole sublayers."""
        return self.sweeps[bias].selected

    def to_frame(self) -> pd.DataFrame:
        """One row per contrast and part: ``contrast size component layer head``, then as ``HeadSweep.to_frame``."""
        tables = []
        for name, sweep in self.sweeps.items():
            table = sweep.to_frame()
            table.insert(0, "contrast", name)
            table.insert(1, "size", self.sizes[name].estimate)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def __str__(self) -> str:
        lines = [f"smallest effect that counts: {self.delta:.3g} nats ({self.delta_is})"]
        for name, sweep in self.sweeps.items():
            size = self.sizes[name]
            lines.append(f"{name} {size.estimate:+.2f} [{size.low:+.2f}, {size.high:+.2f}] nats, n = {size.n}: {sweep}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in str(self).splitlines())


def sweep_bias(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    contrasts: Mapping[str, Contrast],
    *,
    heads: Sequence[Head] | None = None,
    sublayers: Sequence[str] = ("mlp_out",),
    positions: str = "all",
    delta: float | None = None,
    plan: BatchPlan | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BiasSweep:
    """Zero every head and MLP alone and read content, position and cues again, from the same passes.

    Args:
        model: the judge.
        rollouts: the verdict prefixes of everything the contrasts are made of.
        readout: the log-odds of the first shown against the second (:func:`~verdictscope.judgments.verdict_readout`).
        contrasts: by name; ``content`` must be among them.
        heads: which heads; all by default.
        sublayers: sites that are zeroed whole too.
        positions: where to zero.
        delta: smallest effect that counts, in nats; by default 5 % of the distance between the verdicts on items whose
            first and whose second answer is the better one, that is of twice the content.
        plan: batches.
        seed: of every draw.
        progress: called with (edits done, edits in all).

    Raises:
        InputError: no content among the contrasts, or a judge whose verdicts do not depend on it; see `sweep_heads`.
    """
    if CONTENT not in contrasts:
        raise InputError("a bias is weighed against content: give the content contrast too (order_contrasts)")
    swept = sweep_heads(
        model, rollouts, readout, heads=heads, sublayers=sublayers, positions=positions, plan=plan, seed=seed,
        progress=progress,
    )  # fmt: skip
    sizes, sweeps, told = {}, {}, "as stated"
    for name, contrast in contrasts.items():
        size = contrast.of(swept.effects.base, swept.effects.rollouts)
        sizes[name] = mean_effect(name, size, contrast.groups, unit="nats", seed=seed)
    if delta is None:
        gap = 2 * sizes[CONTENT].estimate
        if not gap > 0:
            raise InputError(
                f"this judge does not favour the better answer (content {gap / 2:+.2g} nats), so no smallest effect "
                "follows from it: state delta"
            )
        delta, told = DELTA_SHARE * gap, f"{DELTA_SHARE:.0%} of {gap:.3g}, the distance that content makes"
    for name, contrast in contrasts.items():
        shrinking = -contrast if sizes[name].estimate > 0 else contrast
        sweeps[name] = HeadSweep(swept.parts, shrinking.effects(swept.effects), delta)
    return BiasSweep(sizes, sweeps, delta, told)


def rejudged(
    verdicts: pd.DataFrame, rollouts: Sequence[str], log_odds: Float[np.ndarray, " rollout"]
) -> pd.DataFrame:
    """The table of verdicts as it would be with these log-odds of the first shown answer against the second.

    Args:
        verdicts: of pairs, scored without ties (``Judged.verdicts``).
        rollouts: ids, in the order of ``log_odds``.
        log_odds: for example ``Effects.edited[k]``, in nats.
    """
    table = verdicts[verdicts["rollout"].isin(list(rollouts))].copy()
    odds = pd.Series(log_odds, index=list(rollouts)).loc[table["rollout"]].to_numpy()
    table["shown"] = np.where(odds > 0, "first", "second")
    table["verdict"] = [shown_to_own(*row) for row in zip(table["shown"], table["order"], strict=True)]
    table["probability"] = expit(np.abs(odds))
    table["status"] = "ok"
    return table.reset_index(drop=True)
