"""Effects of all heads, tested together: which exceed the smallest effect that counts, on which contrast.

Nearly every head of a trained network has *some* effect, so the test is of ``effect <= delta``, one-sided, for all
components at once (max-T over sign flips of the prompt groups, :func:`~verdictscope.stats.sign_flip_test`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from verdictscope.activations import BatchPlan, Model, Readout
from verdictscope.errors import InputError
from verdictscope.interventions.components import Component
from verdictscope.interventions.edits.heads import HeadEdit
from verdictscope.interventions.edits.protocol import Edit, Head, as_heads, head_name
from verdictscope.interventions.edits.sublayers import SublayerEdit
from verdictscope.interventions.effects import Effects, effects, sorted_by_size
from verdictscope.judgments import Contrast, mean_contrast
from verdictscope.judgments.contrasts import CONTENT
from verdictscope.rollouts import Rollout
from verdictscope.stats import (
    Effect,
    SignFlips,
    difference_effect,
    draw_clusters,
    effects_frame,
    mean_effect,
    percentile_interval,
    sign_flip_test,
)

if TYPE_CHECKING:
    from verdictscope.figures import Display

DELTA_SHARE = 0.05
"""The smallest effect that counts, as a share of the distance between the two verdicts in the readout."""

DELTA_NATS = 1.0
"""The same in log-odds (odds times 2.7) where a model does not separate the two, so that no share can be taken."""

ALPHA = 0.05
"""Family-wise error of the test."""


@dataclass(frozen=True)
class ContrastEffects:
    """The effect of ablating each component alone on one contrast; positive where the test looks for it."""

    components: tuple[Component, ...]
    effects: Effects
    delta: float | None = None
    size: Effect | None = None
    alpha: float = ALPHA

    def __post_init__(self) -> None:
        if len(self.components) != len(self.effects.descriptions):
            raise InputError(f"{len(self.components)} components for {len(self.effects.descriptions)} edits")

    @cached_property
    def tests(self) -> SignFlips | None:
        """The tests of every component; ``None`` where no smallest effect was stated."""
        if self.delta is None:
            return None
        return sign_flip_test(self.effects.change, self.effects.groups, self.delta, seed=self.effects.seed)

    @property
    def means(self) -> Float[np.ndarray, " component"]:
        """Mean effect of every component."""
        return np.asarray(self.effects.change.mean(axis=1))

    @property
    def selected(self) -> tuple[Component, ...]:
        """Components whose effect exceeds delta (tested), the strongest first."""
        if self.tests is None:
            return ()
        chosen = self.tests.selected(self.alpha)
        return tuple(self.components[i] for i in np.argsort(-self.tests.estimate, kind="stable") if chosen[i])

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads among the selected, the strongest first."""
        return tuple((layer, head) for component, layer, head in self.selected if component == "head")

    def stability(self, k: int, *, components: Sequence[str] = ("head",)) -> Stability:
        """How often other prompts of the same kind would have ranked the same ``k`` components highest."""
        among = np.array([component[0] in components for component in self.components])
        if not 0 < k <= among.sum():
            raise InputError(f"cannot look at the strongest {k} of {among.sum()} components")
        change, seed = self.effects.change[among], self.effects.seed
        draws = draw_clusters(self.effects.groups, seed=seed)
        sums, sizes = draws.sums(change.T), draws.sums(np.ones(change.shape[1]))
        means = (draws.counts @ sums) / (draws.counts @ sizes)[:, None]
        top = np.argsort(-change.mean(axis=1), kind="stable")[:k]
        tops = np.argsort(-means, axis=1, kind="stable")[:, :k]
        both = np.isin(tops, top).sum(axis=1)
        jaccard = both / (2 * k - both)
        low, high = percentile_interval(jaccard, draws.n)
        overlap = Effect("Jaccard", float(jaccard.mean()), float(low), float(high), draws.n, "share", seed)
        return Stability(overlap, np.bincount(tops.ravel(), minlength=int(among.sum())) / len(tops))

    def to_frame(self) -> pd.DataFrame:
        """``component layer head``, the Effect with ``delta p p_adjusted``, ``q`` and ``selected``, unsorted."""
        table = effects_frame(self.effects.of(i) for i in range(len(self.components))).drop(columns="name")
        for at, column in enumerate(("component", "layer", "head")):
            table.insert(at, column, [component[at] for component in self.components])
        table[["delta", "p", "p_adjusted", "q"]], table["selected"] = np.nan, False
        if self.tests is not None:
            table["delta"], table["selected"] = self.tests.delta, self.tests.selected(self.alpha)
            for column in ("p", "p_adjusted", "q"):
                table[column] = getattr(self.tests, column)
        return table

    def __str__(self) -> str:
        if self.tests is None:
            return f"{len(self.components)} components, not tested: no smallest effect (delta) was stated"
        names = ", ".join(component_name(component) for component in self.selected) or "none"
        return (
            f"{len(self.selected)} of {len(self.components)} components exceed delta = {self.tests.delta:.3g} "
            f"{self.effects.unit} (family-wise error {self.alpha:g}, {self.tests.n} prompt groups, "
            f"{self.tests.flips:,} sign vectors): {names}"
        )


@dataclass(frozen=True)
class Stability:
    """How stable a ranking's top is under resampled prompts: overlap with each resample's, and each component's share
    of the resamples in which it is among the top. A wrong ranking can be stable too."""

    jaccard: Effect
    share: Float[np.ndarray, " component"]


@dataclass(frozen=True)
class HeadSweep:
    """The effect of ablating every component alone, on every contrast.

    What this does not show: components that stand in for one another, since each is ablated alone; why a component
    acts; or that a head *is* biased, since ablating it can unbalance others. A head that carries both content and
    position is no candidate for ablation, however large its effect.

    Attributes:
        components: (component, layer, head) of every edit; head is -1 where a whole sublayer was ablated.
        contrasts: by name the effects on the contrast. A positive effect makes a named contrast smaller; of the mean
            over rollouts (no contrasts given) it is the change itself.
        delta: smallest effect that counts, in the readout's unit; ``None``: none was stated, and nothing is tested.
        delta_source: where it comes from, in words.
        positions: where the components were ablated.

    Example:
        >>> import numpy as np
        >>> base, change = np.zeros(30), np.array([[2.0], [0.1]]) + np.zeros((2, 30))
        >>> ids = tuple(map(str, range(30)))
        >>> found = Effects(("L0H0", "L0H1"), ids, ids, base, base + change)
        >>> HeadSweep.of((("head", 0, 0), ("head", 0, 1)), found, delta=0.5).heads()
        ((0, 0),)
    """

    components: tuple[Component, ...]
    contrasts: Mapping[str, ContrastEffects] = field(repr=False)
    delta: float | None = None
    delta_source: str = "stated"
    positions: str = "all"

    @classmethod
    def of(cls, components: Sequence[Component], effects: Effects, delta: float | None = None) -> HeadSweep:
        """A sweep of one contrast, the mean over rollouts."""
        size = mean_effect("mean", effects.base, effects.groups, unit=effects.unit, seed=effects.seed)
        return cls(tuple(components), {"mean": ContrastEffects(tuple(components), effects, delta, size)}, delta)

    def toward(self, signs: Mapping[str, float]) -> HeadSweep:
        """The same effects; where a sign is given, for example of another split, it is the contrast's direction."""
        turned = dict(self.contrasts)
        for name, of in self.contrasts.items():
            if name in signs and of.size is not None and (signs[name] > 0) != (of.size.estimate > 0):
                negated = replace(of.effects, base=-of.effects.base, edited=-of.effects.edited)
                turned[name] = replace(of, effects=negated)
        return replace(self, contrasts=turned)

    def __getitem__(self, contrast: str | None) -> ContrastEffects:
        """The effects on one contrast; ``None`` for the only one."""
        if contrast is None and len(self.contrasts) == 1:
            return next(iter(self.contrasts.values()))
        if contrast is None or contrast not in self.contrasts:
            raise InputError(f"no contrast {contrast!r}: there are {', '.join(self.contrasts)}")
        return self.contrasts[contrast]

    @property
    def biases(self) -> tuple[str, ...]:
        """Names of the contrasts other than content."""
        return tuple(name for name in self.contrasts if name != CONTENT)

    @property
    def content_loss(self) -> Float[np.ndarray, " component"]:
        """By how much content falls without each component, in nats; zero where content is no contrast."""
        return self.contrasts[CONTENT].means if CONTENT in self.contrasts else np.zeros(len(self.components))

    def is_biased(self, contrast: str) -> bool:
        """Whether the contrast exists: the interval of its size lies beyond delta, on one side of zero.

        Without one no component is declared: what ablating a component then adds is a bias that it *makes*.
        """
        size = self[contrast].size
        assert size is not None
        return min(abs(size.low), abs(size.high)) > (self.delta or 0.0) and size.low * size.high > 0

    def declared(self, contrast: str | None = None) -> tuple[Component, ...]:
        """Selected components, the strongest first. Where there is content: those that also leave it, which is that the
        contrast exists (:meth:`is_biased`) and content falls by less than delta."""
        if CONTENT not in self.contrasts:
            return self[contrast].selected
        if contrast is None or not self.is_biased(contrast):
            return ()
        spared = {c for c, loss in zip(self.components, self.content_loss, strict=True) if loss < (self.delta or 0.0)}
        return tuple(component for component in self[contrast].selected if component in spared)

    def heads(self, contrast: str | None = None) -> tuple[Head, ...]:
        """The heads among :meth:`declared`, the strongest first."""
        return tuple((layer, head) for component, layer, head in self.declared(contrast) if component == "head")

    def strongest(self, k: int, contrast: str | None = None) -> tuple[Head, ...]:
        """At most k heads of the largest effect. Untested: for the split that ranks. Where there is content, only heads
        whose effect exceeds delta and that leave content, and none where the contrast does not exist."""
        means = self[contrast].means
        order = [i for i in np.argsort(-means, kind="stable") if self.components[i][0] == "head"]
        if CONTENT in self.contrasts:
            delta = self.delta or 0.0
            exists = contrast is not None and self.is_biased(contrast)
            order = [i for i in order if exists and means[i] > delta and self.content_loss[i] < delta]
        return tuple((self.components[i][1], self.components[i][2]) for i in order[:k])

    def to_frame(self) -> pd.DataFrame:
        """``contrast size component layer head``, an Effect, ``delta p p_adjusted q selected content_loss declared``.

        Per contrast the largest effects in size first; ``selected`` is the test, ``declared`` is :meth:`declared`.
        """
        return sorted_by_size(self.table(), ["contrast"])

    def table(self) -> pd.DataFrame:
        """As :meth:`to_frame`, in the order of the components."""
        tables = []
        for name, effects_on in self.contrasts.items():
            table = effects_on.to_frame()
            table.insert(0, "contrast", name)
            table.insert(1, "size", np.nan if effects_on.size is None else effects_on.size.estimate)
            declared = set() if name == CONTENT else set(self.declared(name))
            table["content_loss"] = self.content_loss if CONTENT in self.contrasts else np.nan
            table["declared"] = [component in declared for component in self.components]
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def plot(self, contrast: str | None = None) -> Display:
        """The effects on a contrast as a map of layer and head, the selected ones framed."""
        from verdictscope import figures

        table = self[contrast].to_frame().query("component == 'head'").rename(columns={"estimate": "effect"})
        rank = table["effect"].rank(ascending=False, method="first").astype(int) - 1
        table = table.assign(rank=rank, found=table["selected"], attribution_log_odds=np.nan, attribution_probe=np.nan)
        return figures.head_map(table)

    def __str__(self) -> str:
        if len(self.contrasts) == 1:
            return str(self[None])
        lines = [] if self.delta is None else [f"smallest effect: {self.delta:.3g} nats ({self.delta_source})"]
        for name, found in self.contrasts.items():
            size = found.size
            assert size is not None
            lines.append(f"{name} {size.estimate:+.2f} [{size.low:+.2f}, {size.high:+.2f}] nats, n = {size.n}: {found}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        columns = ["contrast", "component", "layer", "head", "estimate", "low", "high", "n", "p_adjusted", "selected"]
        shown = self.to_frame()[columns].groupby("contrast", sort=False).head(12)
        lines = "".join(f"<p>{escape(line)}</p>" for line in str(self).splitlines())
        return lines + shown.to_html(index=False, float_format=lambda x: f"{x:.3g}", border=0)


def component_name(component: Component) -> str:
    """For example ``L4H6`` or ``mlp 3``."""
    kind, layer, head = component
    return head_name((layer, head)) if kind == "head" else f"{kind} {layer}"


def sweep_heads(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    contrasts: Mapping[str, Contrast] | None = None,
    *,
    heads: Any = None,
    sublayers: Sequence[str] = (),
    positions: str = "all",
    delta: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HeadSweep:
    """Zero-ablate each head alone and read the readout again, exactly: its effect on every contrast, with its test.

    Args:
        model: a wrapped model.
        rollouts: teacher-forced ids; with contrasts all those that they weigh.
        readout: for example the refusal log-odds before the answer, or a judge's log-odds of the answer shown first
            against the second (:func:`~verdictscope.judgments.verdict_readout`).
        contrasts: by name (:func:`~verdictscope.judgments.order_contrasts`); by default the mean over rollouts.
        heads: which heads; all by default.
        sublayers: sites that are ablated as a whole too, layer by layer: ``attn_out``, ``mlp_out``.
        positions: where to ablate.
        delta: smallest effect that counts, for example 5 % of :func:`readout_gap`. By default 5 % of twice the content,
            which is the distance between the verdicts on items whose first and whose second answer is better; without
            content nothing is tested.
        seed: of every draw.
        progress: called with (edits done, edits in all).

    Returns:
        the effects. Without contrasts, a head that *suppresses* what the readout measures has a positive effect; with
        them, a head has a positive effect on a contrast that is smaller without it; the direction of a contrast is
        the sign of its mean here (see :meth:`HeadSweep.toward`).

    Raises:
        InputError: a head the model lacks, or no delta where the content is not positive.

    Example:
        >>> from verdictscope.activations import LogOddsReadout, load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> texts = {"a": (5, 6, 7, 8), "b": (9, 10, 11, 12)}
        >>> rollouts = [Rollout(name, name, ids, (Span("user", 0, 4),), 4) for name, ids in texts.items()]
        >>> readout = LogOddsReadout("odds", positive=((3,),), negative=((4,),), positions="last")
        >>> sweep = sweep_heads(model, rollouts, readout, heads=["L4H6", "L5H2"])
        >>> len(sweep.to_frame())
        2
    """
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    chosen = as_heads(heads) if heads is not None else every
    edits: list[Edit] = [HeadEdit((head,), positions=positions) for head in chosen]
    whole = [(site, layer) for site in sublayers for layer in range(model.n_layers)]
    edits += [SublayerEdit(site, (layer,), positions=positions) for site, layer in whole]
    components = tuple(("head", layer, head) for layer, head in chosen)
    components += tuple((site.removesuffix("_out"), layer, -1) for site, layer in whole)
    swept = effects(model, rollouts, readout, edits, seed=seed, progress=progress)
    if contrasts is None:
        return HeadSweep.of(components, swept.on(mean_contrast(rollouts)), delta)
    sizes = {}
    for name, contrast in contrasts.items():
        values = contrast.of(swept.base, swept.rollouts)
        sizes[name] = mean_effect(name, values, contrast.groups, unit=swept.unit, seed=seed)
    source = "stated"
    if delta is None and CONTENT in contrasts:
        gap = 2 * sizes[CONTENT].estimate
        if not gap > 0:
            raise InputError(
                f"this judge does not favour the better answer (content {gap / 2:+.2g} nats), so no smallest effect "
                "follows from it: state delta"
            )
        delta, source = DELTA_SHARE * gap, f"{DELTA_SHARE:.0%} of {gap:.3g}, the distance that content makes"
    found = {}
    for name, contrast in contrasts.items():
        shrinking = swept.on(-contrast if sizes[name].estimate > 0 else contrast)
        found[name] = ContrastEffects(components, shrinking, delta, sizes[name])
    return HeadSweep(components, found, delta, source, positions)


def readout_gap(
    model: Model,
    above: Sequence[Rollout],
    below: Sequence[Rollout],
    readout: Readout,
    *,
    plan: BatchPlan | None = None,
    seed: int = 0,
) -> Effect:
    """The distance of two kinds of the model's own rollouts in a readout, for example refused and complied ones.

    5 % of it is the smallest effect that counts unless another is stated: the unit in which this model itself separates
    the two.

    Args:
        model: a wrapped model.
        above: rollouts that should read high.
        below: rollouts that should read low.
        readout: a scalar per rollout.
        plan: batches of ``above`` and ``below`` together.
        seed: of the bootstrap.

    Raises:
        InputError: one of the two kinds is empty, or their means are not apart in this order.

    Example:
        >>> from verdictscope.activations import LogOddsReadout, load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> a, b = (Rollout(str(t), str(t), (5, t), (Span("user", 0, 2),), 2) for t in (7, 6))
        >>> readout = LogOddsReadout("odds", positive=((3,),), negative=((4,),), positions="last")
        >>> gap = readout_gap(model, [a], [b], readout)
        >>> gap.unit
        'nats'
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
