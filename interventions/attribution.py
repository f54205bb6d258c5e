"""The exact shares of a readout: embedding, every head, every MLP and the biases sum to it.

The residual stream is a sum of what the components added, and a readout of it is linear once the divisor of the final
norm is taken as the one it had. So ``logit = Σ_c <γ ⊙ w, c> / rms(h) + bias`` holds to rounding. Earlier code left out
γ and the divisor, although the probe's direction lived behind the final norm and the heads' outputs in front of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from verdictscope.activations import BatchPlan, Model, Readout, passes
from verdictscope.activations.positions import FrozenPositions, Positions
from verdictscope.errors import InputError
from verdictscope.interventions.components import Components, Part
from verdictscope.interventions.linear_forms import linear_form
from verdictscope.interventions.sources import Gathered, Head, Sources, SourceShares
from verdictscope.judgments import Contrast
from verdictscope.rollouts import Rollout
from verdictscope.stats import draw_clusters, percentile_interval

if TYPE_CHECKING:
    from verdictscope.figures import Display

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest residual that rounding explains, as a share of the summed absolute parts."""

ABOUT = (
    "A share is a direct effect: what a head does through later heads and MLPs is not in it, and a gate may have no "
    "share at all. Zero the head to see."
)


@dataclass(frozen=True)
class Attribution:
    """What each component adds to a readout.

    What this does not show: that a component matters. A share is a *direct* effect; what a head does through later
    heads and MLPs is not in it, and a gate may have no share at all. Zero the head to see (:func:`effects`). Any
    direction has writers, a random one too.

    Attributes:
        readout: its name.
        parts: (component, layer, head) of every row of ``shares``.
        shares: in the readout's unit.
        logit: the readout as the ordinary scoring path gave it.
        groups: resampling unit of every row.
        rows: ``rollout pos`` of every column.
        notes: what is not linear in the readout, and where a layer could not be taken apart, in words.
        tolerance: largest ``relative_residual`` that rounding explains.
        sources: of heads, by the token they come from, where it was asked for.
        seed: of the bootstrap.
    """

    readout: str
    parts: tuple[Part, ...]
    shares: Float[ndarray, "part row"]
    logit: Float[ndarray, " row"]
    groups: tuple[str, ...]
    rows: pd.DataFrame
    notes: tuple[str, ...] = ()
    tolerance: float = TOLERANCE[torch.float32]
    sources: Sources | None = None
    seed: int = 0

    @property
    def residual(self) -> Float[ndarray, " row"]:
        """What the parts leave unexplained: rounding, or a fault."""
        return self.logit - self.shares.sum(axis=0)

    @property
    def relative_residual(self) -> float:
        """Largest residual over the largest sum of absolute shares."""
        return float(np.abs(self.residual).max() / np.abs(self.shares).sum(axis=0).max())

    def on(self, contrast: Contrast) -> Attribution:
        """What every component adds to a contrast; the columns are items, the rows' ``rollout`` is the item."""
        names = list(self.rows["rollout"])
        return replace(
            self,
            readout=f"{contrast.name} contrast of {self.readout}",
            shares=contrast.of(self.shares, names),
            logit=contrast.of(self.logit, names),
            groups=contrast.groups,
            rows=pd.DataFrame({"rollout": contrast.items, "pos": -1}),
            sources=None,
        )

    def check(self) -> None:
        """Raises ``InputError`` if the parts do not sum to the readout, or sources to their head, within what rounding
        explains."""
        sources = 0.0 if self.sources is None else self.sources.relative_residual
        for what, left in (("parts", self.relative_residual), ("sources of a head's share", sources)):
            if left <= self.tolerance:
                continue
            raise InputError(
                f"the {what} of {self.readout!r} leave {left:.2g} of it unexplained, more than "
                f"rounding ({self.tolerance:.0e}): this model is not read rightly; see `verdictscope doctor MODEL`"
            )

    def to_frame(self) -> pd.DataFrame:
        """``component layer head estimate low high n``: the mean share of every component over rows, with a
        cluster-bootstrap interval over groups, then the readout itself (``logit``) and the ``residual``."""
        parts = [*self.parts, ("logit", -1, -1), ("residual", -1, -1)]
        means = mean_frame(np.vstack([self.shares, self.logit, self.residual]), self.groups, self.seed)
        return pd.concat([pd.DataFrame(parts, columns=["component", "layer", "head"]), means], axis=1)

    def by_head(self) -> pd.DataFrame:
        """``layer head estimate low high n`` of the heads, the largest share in size first."""
        table = self.to_frame()
        heads = table[table["component"] == "head"].drop(columns="component")
        return heads.sort_values("estimate", key=np.abs, ascending=False).reset_index(drop=True)

    def by_source(self) -> pd.DataFrame:
        """``layer head segment quantity estimate low high n``: of each head asked for its raw attention, its attention
        weighted by the length of what the values write, and its share of the readout, by segment of the token they
        come from. By token: ``sources.to_frame()``.

        Raises:
            InputError: no sources were asked for.
        """
        if self.sources is None:
            raise InputError("no sources were asked for: attribute(..., sources=[(layer, head), …]) or sources='all'")
        return self.sources.by_segment()

    def plot(self) -> Display:
        """Shares by layer, and of every head."""
        from verdictscope import figures

        return figures.attribution(self.to_frame(), self.readout)

    def __repr__(self) -> str:
        return f"Attribution({self._summary()})"

    def _summary(self) -> str:
        return (
            f"{self.readout}: mean {self.logit.mean():.4g} over {self.shares.shape[1]} rows of "
            f"{len(set(self.groups))} groups, {len(self.parts)} parts; residual at most "
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
    sources: Sequence[Head] | Literal["all"] = (),
    names: Mapping[str, Sequence[str]] | None = None,
    plan: BatchPlan | None = None,
    seed: int = 0,
    strict: bool = True,
) -> Attribution:
    """Take a readout apart into what each component adds to it, exactly, in one pass.

    Shares are computed where the values pass, batch by batch: what is kept is one number per row and component.

    Args:
        model: a wrapped model.
        rollouts: teacher-forced ids.
        readout: linear in the residual stream (through the final norm or not), in ``attn_out``, ``mlp_out`` or ``z``;
            or a log-odds whose labels are single tokens. What is not linear in it (several labels on a side, a soft
            cap) is a part of its own and said in ``notes``.
        positions: where; the readout's own positions do not count here.
        sources: heads whose share is also taken apart by source token; ``all`` keeps sums over segments only.
        names: by rollout id a name for every token, to sum source tokens by instead of by segment
            (:func:`~verdictscope.judgments.token_spans`).
        plan: batches.
        seed: of the bootstrap.
        strict: raise where the parts do not sum to the readout.

    Raises:
        InputError: the readout cannot be taken apart, the positions exist in no rollout, a head is not there, or the
            parts do not sum to the readout within what rounding explains.
    """
    form = linear_form(model, readout)
    components = Components(model, form, positions)
    split = _source_shares(components, sources)
    gathered = Gathered(split.heads, sources != "all", names)
    batches = list(_batches(model, rollouts, replace(readout, positions=positions), plan, split, gathered))
    if not batches:
        raise InputError(f"positions {positions!r} exist in none of the {len(rollouts)} rollouts")
    parts, shares, rows, order = _joined(batches, rollouts)
    group_of = {r.id: r.group for r in rollouts}
    groups = tuple(group_of[i] for i in rows["rollout"])
    own = shares[[parts.index(("head", *head)) for head in split.heads]]
    result = Attribution(
        readout=readout.name,
        parts=parts,
        shares=shares,
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


Batch = tuple[dict[Part, ndarray], pd.DataFrame]
"""Shares of a batch's rows by part, and its score table."""


def _batches(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    plan: BatchPlan | None,
    split: SourceShares,
    gathered: Gathered,
) -> Iterator[Batch]:
    """Runs the model; what is not linear in the readout is put to the parts of every batch."""
    components = split.components
    listeners = [components, split] if split.heads else [components]
    for done in passes(model, rollouts, score=[readout], plan=plan, moments=listeners):
        if done.scores.empty:
            continue
        found = components.result(done.scores)
        weights, extra = components.form.mix(np.sum(list(found.values()), axis=0))
        if split.heads:
            gathered.add(split.result(weights))
        mixed = {part: (share * weights).sum(axis=1) for part, share in found.items()}
        yield mixed | {(name, -1, -1): values for name, values in extra.items()}, done.scores


def _joined(
    batches: Sequence[Batch], rollouts: Sequence[Rollout]
) -> tuple[tuple[Part, ...], Float[ndarray, "part row"], pd.DataFrame, Int[ndarray, " row"]]:
    """Parts, shares and rows in the rollouts' order, and how the batches' rows were put in it."""
    rows = pd.concat([scores for _, scores in batches], ignore_index=True)
    at = {r.id: i for i, r in enumerate(rollouts)}
    order = np.argsort(rows["rollout"].map(at).to_numpy(), kind="stable")
    parts = tuple(batches[0][0])
    shares = np.stack([np.concatenate([found[part] for found, _ in batches]) for part in parts])
    return parts, shares[:, order], rows.iloc[order].reset_index(drop=True), order


def _source_shares(components: Components, sources: Sequence[Head] | str) -> SourceShares:
    if isinstance(sources, str):
        blocks = components.model.sites.blocks
        heard = [layer for layer in components.maps if blocks[layer].attention is not None]
        return SourceShares(components, tuple((layer, h) for layer in heard for h in range(blocks[layer].n_heads)))
    return SourceShares(components, tuple((int(layer), int(head)) for layer, head in sources))


def mean_frame(values: Float[ndarray, "line row"], groups: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """``estimate low high n``: the mean of every line over its rows, with a cluster-bootstrap interval; the groups are
    drawn once for all lines, as `stats.mean_effect` draws them for one."""
    drawn = draw_clusters(groups, seed=seed)
    sums, sizes = drawn.sums(values.T), drawn.sums(np.ones(values.shape[1]))
    draws = (drawn.counts @ sums) / (drawn.counts @ sizes)[:, None]
    low, high = percentile_interval(draws, drawn.n)
    return pd.DataFrame({"estimate": values.mean(axis=1), "low": low, "high": high, "n": drawn.n})
