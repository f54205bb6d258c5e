"""Effects of many heads become findings: every one with its interval and its place in a test of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from verdictscope.activations import BatchPlan, Model, Readout
from verdictscope.errors import InputError
from verdictscope.interventions.attribution import Part
from verdictscope.interventions.edits import Head
from verdictscope.interventions.effects import Effects, effects
from verdictscope.rollouts import Rollout
from verdictscope.stats import Effect, SignFlips, difference_effect, draw_clusters, percentile_interval, sign_flip_test

if TYPE_CHECKING:
    from verdictscope.figures import Display

DELTA_SHARE = 0.05
"""The smallest effect that counts, as a share of the distance between refused and complied rollouts in the readout."""

DELTA_NATS = 1.0
"""The same in log-odds (odds times 2.7) where a model does not tell the two apart, so that no share can be taken."""

ALPHA = 0.05
"""Family-wise error of what is called selected."""


@dataclass(frozen=True)
class HeadSweep:
    """The effect of taking out every part alone, and which of them exceed the smallest effect that counts.

    Nearly every head of a trained network has *some* effect, so the test is of ``effect ≤ delta``, one-sided, for all
    parts at once (:func:`~verdictscope.stats.sign_flip_test`).

    What this does not show: parts that stand in for one another, since each is taken out alone; and why a part acts.

    Attributes:
        parts: (component, layer, head) of every edit; head is -1 where a whole sublayer was taken out.
        effects: the readout, untouched and under every edit.
        delta: smallest effect that counts, in the readout's unit; ``None``: none was stated, and nothing is tested.
        alpha: family-wise error of ``selected``.
    """

    parts: tuple[Part, ...]
    effects: Effects
    delta: float | None = None
    alpha: float = ALPHA

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.effects.descriptions):
            raise InputError(f"{len(self.parts)} parts for {len(self.effects.descriptions)} edits: name each edit's")

    @cached_property
    def tests(self) -> SignFlips | None:
        """The tests of every part; ``None`` where no smallest effect was stated."""
        if self.delta is None:
            return None
        return sign_flip_test(self.effects.change, self.effects.groups, self.delta, seed=self.effects.seed)

    @property
    def selected(self) -> tuple[Part, ...]:
        """Parts whose effect exceeds delta, the strongest first."""
        if self.tests is None:
            return ()
        order = np.argsort(-self.tests.estimate, kind="stable")
        chosen = self.tests.selected(self.alpha)
        return tuple(self.parts[i] for i in order if chosen[i])

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads among the selected, the strongest first."""
        return tuple((layer, head) for component, layer, head in self.selected if component == "head")

    def to_frame(self) -> pd.DataFrame:
        """One row per part: ``component layer head``, an Effect with ``delta p p_adjusted``, ``q`` and ``selected``."""
        table = self.effects.to_frame()
        for place, column in enumerate(("component", "layer", "head")):
            table.insert(place, column, [part[place] for part in self.parts])
        table[["delta", "p", "p_adjusted", "q"]], table["selected"] = np.nan, False
        if self.tests is not None:
            table["delta"], table["selected"] = self.tests.delta, self.tests.selected(self.alpha)
            for column in ("p", "p_adjusted", "q"):
                table[column] = getattr(self.tests, column)
        return table

    def stability(self, k: int, *, components: Sequence[str] = ("head",)) -> Stability:
        """How often other prompts of the same kind would have ranked the same ``k`` parts highest."""
        among = np.array([part[0] in components for part in self.parts])
        if not 0 < k <= among.sum():
            raise InputError(f"cannot look at the strongest {k} of {among.sum()} parts")
        parts = tuple(part for part, member in zip(self.parts, among, strict=True) if member)
        return _stability(self.effects.change[among], self.effects.groups, parts, k, self.effects.seed)

    def plot(self) -> Display:
        """The effects as a map of layer and head, the selected ones framed."""
        from verdictscope import figures

        table = self.to_frame().query("component == 'head'").rename(columns={"estimate": "effect"})
        rank = table["effect"].rank(ascending=False, method="first").astype(int) - 1
        table = table.assign(rank=rank, found=table["selected"], attribution_log_odds=np.nan, attribution_probe=np.nan)
        return figures.head_map(table)

    def __str__(self) -> str:
        unit = self.effects.unit
        if self.tests is None:
            return f"{len(self.parts)} parts, not tested: no smallest effect (delta) was stated"
        names = ", ".join(_name(part) for part in self.selected) or "none"
        return (
            f"{len(self.selected)} of {len(self.parts)} parts exceed delta = {self.tests.delta:.3g} {unit} "
            f"(family-wise error {self.alpha:g}, {self.tests.n} prompt groups, {self.tests.flips:,} sign vectors): "
            f"{names}"
        )

    def _repr_html_(self) -> str:
        columns = ["component", "layer", "head", "estimate", "low", "high", "n", "p", "p_adjusted", "q", "selected"]
        shown = self.to_frame().sort_values("estimate", ascending=False, kind="stable")[columns].head(12)
        return f"<p>{self}</p>" + shown.to_html(index=False, float_format=lambda x: f"{x:.3g}", border=0)


@dataclass(frozen=True)
class Stability:
    """How stable a ranking's top is under resampled prompts.

    What this does not show: that the ranking is right. A wrong one can be stable too.

    Attributes:
        jaccard: overlap of the top with a resample's top, shared over all in either: its mean over resamples, with
            the interval in which 95 % of the resamples lie.
        parts: every part ranked.
        share: of the resamples in which the part is among the top.
    """

    jaccard: Effect
    parts: tuple[Part, ...]
    share: Float[np.ndarray, " part"]


def _stability(
    change: Float[np.ndarray, "part rollout"], groups: Sequence[str], parts: tuple[Part, ...], k: int, seed: int
) -> Stability:
    draws = draw_clusters(groups, seed=seed)
    sums, sizes = draws.sums(change.T), draws.sums(np.ones(change.shape[1]))
    means = (draws.counts @ sums) / (draws.counts @ sizes)[:, None]
    top = set(_strongest(change.mean(axis=1), k).tolist())
    tops = np.argsort(-means, axis=1, kind="stable")[:, :k]
    both = np.isin(tops, list(top)).sum(axis=1)
    jaccard = both / (2 * k - both)
    low, high = percentile_interval(jaccard, draws.n)
    share = np.bincount(tops.ravel(), minlength=len(parts)) / len(tops)
    effect = Effect("Jaccard", float(jaccard.mean()), float(low), float(high), draws.n, "share", seed)
    return Stability(effect, parts, share)


def _strongest(means: Float[np.ndarray, " part"], k: int) -> Int[np.ndarray, " top"]:
    return np.argsort(-means, kind="stable")[:k]


def readout_gap(
    model: Model,
    above: Sequence[Rollout],
    below: Sequence[Rollout],
    readout: Readout,
    *,
    plan: BatchPlan | None = None,
    seed: int = 0,
) -> Effect:
    """How far apart two kinds of the model's own rollouts lie in a readout, for example refused and complied ones.

    :data:`DELTA_SHARE` of it is the smallest effect that counts unless another is stated: the unit in which this
    model itself tells the two apart.

    Args:
        model: a wrapped model.
        above: rollouts that should read high.
        below: rollouts that should read low.
        readout: a scalar per rollout.
        plan: batches of ``above`` and ``below`` together.
        seed: of the bootstrap.

    Raises:
        InputError: one of the two kinds is empty, or they do not lie apart in this order.
    """
    if not above or not below:
        raise InputError("one of the two kinds of rollouts is empty, so no distance is known: state delta yourself")
    read = effects(model, [*above, *below], readout, [], method="passes", plan=plan, seed=seed)
    cut = len(above)
    gap = difference_effect(
        "gap", read.base[:cut], read.groups[:cut], read.base[cut:], read.groups[cut:], unit=read.unit, seed=seed
    )
    if not gap.estimate > 0:
        raise InputError(
            f"{readout.name} reads the first kind of rollouts no higher than the second (by {gap.estimate:.3g}): "
            "check its label strings, or state delta yourself"
        )
    return gap


def _name(part: Part) -> str:
    component, layer, head = part
    return f"L{layer}H{head}" if component == "head" else f"{component} {layer}"
