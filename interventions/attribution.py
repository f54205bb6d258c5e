"""Direct logit attribution (DLA): embedding, every head, every MLP and the biases sum to the readout, exactly.

The residual stream is a sum of what the components added, and a readout of it is linear once the divisor of the final
norm is taken as the one it had. So ``logit = Σ_c <γ ⊙ w, c> / rms(h) + bias`` holds to rounding. Earlier code left out
γ and the divisor, although the probe's direction lived behind the final norm and the heads' outputs in front of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray

from verdictscope.activations import BatchPlan, Model, Readout
from verdictscope.activations.batch import Listener
from verdictscope.activations.forward import passes
from verdictscope.activations.positions import FrozenPositions, Positions
from verdictscope.errors import InputError
from verdictscope.interventions.components import Component, Components
from verdictscope.interventions.edits.protocol import as_heads
from verdictscope.interventions.linear_forms import linear_form
from verdictscope.interventions.sources import Gathered, Sources, SourceShares
from verdictscope.judgments import Contrast
from verdictscope.rollouts import Rollout
from verdictscope.stats import draw_clusters, percentile_interval

if TYPE_CHECKING:
    from verdictscope.figures import Display

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest residual that rounding explains, relative to the summed absolute attributions."""

ABOUT = (
    "Direct logit attribution is a direct effect: what a head does through later heads and MLPs is not in it, and a "
    "gate may have none at all. Ablate the head to see."
)


@dataclass(frozen=True)
class Attribution:
    """The direct logit attribution of every component.

    What this does not show: that a component matters. This is a *direct* effect; what a head does through later heads
    and MLPs is not in it, and a gate may have none at all. Ablate the head to see (:func:`effects`). Some head always
    has the largest attribution, of a random direction too.

    Attributes:
        readout: its name.
        components: (component, layer, head) of every row of ``values``.
        values: in the readout's unit.
        logit: the readout as the ordinary scoring path gave it.
        groups: resampling unit of every row.
        rows: ``rollout pos`` of every column.
        notes: what is not linear in the readout, and which layers could not be decomposed, in words.
        tolerance: largest ``relative_residual`` that rounding explains.
        sources: of heads, by source token, where it was asked for.
        seed: of the bootstrap.

    Example:
        >>> rows = pd.DataFrame({"rollout": ["a", "b"], "pos": 3})
        >>> values, logit = np.array([[1.0, 2.0], [0.5, 0.5]]), np.array([1.5, 2.5])
        >>> found = Attribution("odds", (("head", 0, 1), ("mlp", 0, -1)), values, logit, ("a", "b"), rows)
        >>> found.by_head()["estimate"].tolist()
        [1.5]
    """

    readout: str
    components: tuple[Component, ...]
    values: Float[ndarray, "component row"]
    logit: Float[ndarray, " row"]
    groups: tuple[str, ...]
    rows: pd.DataFrame
    notes: tuple[str, ...] = ()
    tolerance: float = TOLERANCE[torch.float32]
    sources: Sources | None = None
    seed: int = 0

    @property
    def residual(self) -> Float[ndarray, " row"]:
        """What the components leave unexplained: rounding, or a fault."""
        return self.logit - self.values.sum(axis=0)

    @property
    def relative_residual(self) -> float:
        """Largest residual over the largest sum of absolute attributions."""
        left, total = float(np.abs(self.residual).max()), float(np.abs(self.values).sum(axis=0).max())
        if total == 0:  # a readout that is 0 in every row
            return 0.0 if left == 0 else np.inf
        return left / total

    def on(self, contrast: Contrast) -> Attribution:
        """What every component adds to a contrast; the columns are items, the rows' ``rollout`` is the item."""
        names = list(self.rows["rollout"])
        return replace(
            self,
            readout=f"{contrast.name} contrast of {self.readout}",
            values=contrast.of(self.values, names),
            logit=contrast.of(self.logit, names),
            groups=contrast.groups,
            rows=pd.DataFrame({"rollout": contrast.items, "pos": -1}),
            sources=None,
        )

    def check(self) -> None:
        """Raises ``InputError`` if components do not sum to the readout, or sources to their head, within rounding."""
        sources = 0.0 if self.sources is None else self.sources.relative_residual
        for what, left in (("components", self.relative_residual), ("sources of a head's attribution", sources)):
            if left <= self.tolerance:
                continue
            raise InputError(
                f"the {what} of {self.readout!r} leave {left:.2g} of it unexplained, more than "
                f"rounding ({self.tolerance:.0e}): see `verdictscope doctor MODEL`"
            )

    def to_frame(self) -> pd.DataFrame:
        """``component layer head estimate low high n``: the mean share of every component over rows, with a
        cluster-bootstrap interval over groups, then the readout itself (``logit``) and the ``residual``."""
        components = [*self.components, ("logit", -1, -1), ("residual", -1, -1)]
        means = mean_frame(np.vstack([self.values, self.logit, self.residual]), self.groups, self.seed)
        return pd.concat([pd.DataFrame(components, columns=["component", "layer", "head"]), means], axis=1)

    def by_head(self) -> pd.DataFrame:
        """``layer head estimate low high n`` of the heads, the largest share in size first."""
        table = self.to_frame()
        heads = table[table["component"] == "head"].drop(columns="component")
        return heads.sort_values("estimate", key=np.abs, ascending=False).reset_index(drop=True)

    def by_source(self) -> pd.DataFrame:
        """``layer head segment quantity estimate low high n``: of each head asked for its raw attention, its attention
        weighted by the length of what the values write, and its share of the readout, by segment of the token they
        come from. By token: ``sources.to_frame()``."""
        if self.sources is None:
            raise InputError("no sources were asked for: attribute(..., sources=['L4H6', …]) or sources='all'")
        return self.sources.by_segment()

    def plot(self) -> Display:
        """Attribution by layer, and of every head."""
        from verdictscope import figures

        return figures.attribution(self.to_frame(), self.readout)

    def __repr__(self) -> str:
        return f"Attribution({self._summary()})"

    def _summary(self) -> str:
        return (
            f"{self.readout}: mean {self.logit.mean():.4g} over {self.values.shape[1]} rows of "
            f"{len(set(self.groups))} groups, {len(self.components)} components; residual at most "
            f"{np.abs(self.residual).max():.2g}, relative {self.relative_residual:.1e} "
            f"(rounding explains {self.tolerance:.0e})"
        )

    def _repr_html_(self) -> str:
        table = self.to_frame()
        ends = table[table["component"].isin(["logit", "residual"])]
        most = table.drop(ends.index).sort_values("estimate", key=np.abs, ascending=False).head(12)
        shown = pd.concat([most, ends]).to_html(index=False, border=0, float_format="{:.4g}".format)
        notes = "".join(f"<p>{escape(note)}.</p>" for note in (*self.notes, ABOUT.rstrip(".")))
        return f"<p>{escape(self._summary())}</p>{shown}{notes}"


def attribute(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    *,
    positions: Positions | FrozenPositions = "before_answer",
    sources: Any = (),
    names: Mapping[str, Sequence[str]] | None = None,
    plan: BatchPlan | None = None,
    seed: int = 0,
    strict: bool = True,
) -> Attribution:
    """Direct logit attribution: decompose a readout into what each component adds to it, exactly, in one pass.

    Computed where the values pass, batch by batch: what is kept is one number per row and component.

    Args:
        model: a wrapped model.
        rollouts: teacher-forced ids.
        readout: linear in the residual stream (through the final norm or not), in ``attn_out``, ``mlp_out`` or ``z``;
            or a log-odds whose labels are single tokens. What is not linear in it (several labels on a side, a soft
            cap) is a component of its own, described in ``notes``.
        positions: where; the readout's own positions do not count here.
        sources: heads whose attribution is also split by source token; ``all`` keeps sums over segments only.
        names: by rollout id a name for every token, to sum source tokens by instead of by segment
            (:func:`~verdictscope.judgments.token_spans`).
        plan: batches.
        seed: of the bootstrap.
        strict: raise where the components do not sum to the readout.

    Raises:
        InputError: the readout cannot be decomposed, the positions exist in no rollout, a head does not exist, or the
            components do not sum to the readout within rounding.

    Example:
        >>> from verdictscope.activations import LogOddsReadout, load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> rollout = Rollout("r0", "prompt 0", (5, 6, 7, 8), (Span("user", 0, 4),), 4)
        >>> readout = LogOddsReadout("odds", positive=((3,),), negative=((4,),))
        >>> found = attribute(model, [rollout], readout, positions="last")
        >>> bool(abs(found.residual).max() < 1e-4)
        True
    """
    form = linear_form(model, readout)
    components = Components(model, form, positions)
    every = isinstance(sources, str) and sources == "all"
    heads = as_heads(sources) if not every and len(sources) else ()
    if every:  # below the readout, where attention patterns can be read
        blocks = model.sites.blocks
        layers = [layer for layer in components.maps if blocks[layer].attention is not None]
        heads = tuple((layer, head) for layer in layers for head in range(blocks[layer].n_heads))
    split = SourceShares(components, heads)
    gathered = Gathered(split.heads, not every, names)
    listeners: list[Listener] = [components, split] if split.heads else [components]
    batches: list[tuple[dict[Component, ndarray], pd.DataFrame]] = []
    for done in passes(model, rollouts, score=[replace(readout, positions=positions)], plan=plan, moments=listeners):
        if done.scores.empty:
            continue
        found = components.result(done.scores)
        weights, extra = form.mix(np.sum(list(found.values()), axis=0))
        if split.heads:
            gathered.add(split.result(weights))
        mixed = {component: (values * weights).sum(axis=1) for component, values in found.items()}
        batches.append((mixed | {(name, -1, -1): values for name, values in extra.items()}, done.scores))
    if not batches:
        raise InputError(f"positions {positions!r} exist in none of the {len(rollouts)} rollouts")
    rows = pd.concat([scores for _, scores in batches], ignore_index=True)
    at = {r.id: i for i, r in enumerate(rollouts)}
    order = np.argsort(rows["rollout"].map(at).to_numpy(), kind="stable")
    rows = rows.iloc[order].reset_index(drop=True)
    known = tuple(batches[0][0])
    values = np.stack([np.concatenate([found[component] for found, _ in batches]) for component in known])[:, order]
    groups = tuple(rollouts[at[i]].group for i in rows["rollout"])
    own = values[[known.index(("head", *head)) for head in split.heads]]
    result = Attribution(
        readout=readout.name,
        components=known,
        values=values,
        logit=rows["score"].to_numpy(dtype=np.float64),
        groups=groups,
        rows=rows[["rollout", "pos"]],
        notes=(*form.notes, *components.notes),
        tolerance=TOLERANCE.get(model.dtype, TOLERANCE[torch.float32]),
        sources=gathered.sources(readout.name, order, groups, own, seed) if split.heads else None,
        seed=seed,
    )
    if strict:
        result.check()
    return result


def mean_frame(values: Float[ndarray, "line row"], groups: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """``estimate low high n``: the mean of every line over its rows, with a cluster-bootstrap interval; the groups are
    drawn once for all lines, as `stats.mean_effect` draws them for one."""
    drawn = draw_clusters(groups, seed=seed)
    sums, sizes = drawn.sums(values.T), drawn.sums(np.ones(values.shape[1]))
    draws = (drawn.counts @ sums) / (drawn.counts @ sizes)[:, None]
    low, high = percentile_interval(draws, drawn.n)
    return pd.DataFrame({"estimate": values.mean(axis=1), "low": low, "high": high, "n": drawn.n})
