"""Which heads and MLPs bias a judge: exact effects of each on every part of the verdict, tested together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import expit

from verdictscope.activations import BatchPlan, LogOddsReadout, Model, Readout
from verdictscope.errors import InputError
from verdictscope.interventions.attribution import Part
from verdictscope.interventions.edits import Head
from verdictscope.interventions.head_sweep import sweep_heads
from verdictscope.interventions.many_heads import DELTA_SHARE, HeadSweep
from verdictscope.judgments import Contrast, at_first_difference
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
        positions: where the parts were taken out.
    """

    sizes: Mapping[str, Effect]
    sweeps: Mapping[str, HeadSweep]
    delta: float
    delta_is: str
    positions: str = "all"

    @property
    def biases(self) -> tuple[str, ...]:
        """Names of the contrasts that are no content."""
        return tuple(name for name in self.sweeps if name != CONTENT)

    def is_biased(self, bias: str) -> bool:
        """Whether there is a bias to carry: the interval of its size lies beyond delta, on one side of zero.

        Without one no part is declared: what zeroing a part then adds to the contrast is a bias that it *makes*.
        """
        size = self.sizes[bias]
        return min(abs(size.low), abs(size.high)) > self.delta and size.low * size.high > 0

    @property
    def content_loss(self) -> Float[np.ndarray, " part"]:
        """What content loses without each part, in nats; negative where it gains."""
        effects = self.sweeps[CONTENT].effects
        return np.asarray(effects.change.mean(axis=1))

    def heads(self, bias: str) -> tuple[Head, ...]:
        """The heads among :meth:`parts`, the strongest first."""
        return tuple((layer, head) for component, layer, head in self.parts(bias) if component == "head")

    def parts(self, bias: str) -> tuple[Part, ...]:
        """Heads and MLPs that carry the bias and not the content: there is one (:meth:`is_biased`), it is smaller by
        more than delta without the part (tested), and content loses less than delta by it. The strongest first."""
        if not self.is_biased(bias):
            return ()
        spared = {
            part for part, loss in zip(self.sweeps[bias].parts, self.content_loss, strict=True) if loss < self.delta
        }
        return tuple(part for part in self.sweeps[bias].selected if part in spared)

    def strongest(self, bias: str, k: int) -> tuple[Head, ...]:
        """At most k heads without which the bias is smallest: they take more than delta from it, and less than delta
        from content; none where there is no bias. Untested: for the half that chooses."""
        if not self.is_biased(bias):
            return ()
        sweep = self.sweeps[bias]
        means = sweep.effects.change.mean(axis=1)
        order = [i for i in np.argsort(-means, kind="stable") if sweep.parts[i][0] == "head"]
        kept = [i for i in order if means[i] > self.delta and self.content_loss[i] < self.delta]
        return tuple((sweep.parts[i][1], sweep.parts[i][2]) for i in kept[:k])

    def to_frame(self) -> pd.DataFrame:
        """One row per contrast and part: ``contrast size component layer head``, then as ``HeadSweep.to_frame``, then
        ``content_loss`` and ``declared`` (among :meth:`parts`; ``selected`` is the test alone).
        """
        tables = []
        for name, sweep in self.sweeps.items():
            table = sweep.to_frame()
            table.insert(0, "contrast", name)
            table.insert(1, "size", self.sizes[name].estimate)
            declared = set(self.parts(name)) if name != CONTENT else set()
            table["content_loss"] = self.content_loss
            table["declared"] = [part in declared for part in sweep.parts]
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
    signs: Mapping[str, float] | None = None,
    plan: BatchPlan | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BiasSweep:
    """Zero every head and MLP alone and read content, position and cues again, from the same passes.

    Args:
        model: the judge.
        rollouts: the verdict prefixes of everything the contrasts are made of.
        readout: the log-odds of the first shown against the second (:func:`~verdictscope.judgments.verdict_readout`);
            labels of several tokens are read where they first differ, at a fraction of the cost.
        contrasts: by name; ``content`` must be among them.
        heads: which heads; all by default.
        sublayers: sites that are zeroed whole too.
        positions: where to zero.
        delta: smallest effect that counts, in nats; by default 5 % of the distance between the verdicts on items whose
            first and whose second answer is the better one, that is of twice the content.
        signs: by contrast the sign that counts as its direction, for example of another half's sizes; by default that
            of its mean here.
        plan: batches.
        seed: of every draw.
        progress: called with (edits done, edits in all).

    Raises:
        InputError: no content among the contrasts, or a judge whose verdicts do not depend on it; see `sweep_heads`.
    """
    if CONTENT not in contrasts:
        raise InputError("a bias is weighed against content: give the content contrast too (order_contrasts)")
    if isinstance(readout, LogOddsReadout):
        readout = at_first_difference(readout)
    swept = sweep_heads(
        model,
        rollouts,
        readout,
        heads=heads,
        sublayers=sublayers,
        positions=positions,
        plan=plan,
        seed=seed,
        progress=progress,
    )
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
        sign = (signs or {}).get(name, sizes[name].estimate)
        shrinking = -contrast if sign > 0 else contrast
        sweeps[name] = HeadSweep(swept.parts, swept.effects.on(shrinking), delta)
    return BiasSweep(sizes, sweeps, delta, told, positions)


def rejudged(verdicts: pd.DataFrame, rollouts: Sequence[str], log_odds: Float[np.ndarray, " rollout"]) -> pd.DataFrame:
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
