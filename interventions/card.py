"""A head on one card: where it looks, what it takes from there and writes, what it knows, and what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from verdictscope.activations import BatchPlan, Model, Readout, Site, forward
from verdictscope.activations.positions import FrozenPositions, Positions
from verdictscope.errors import InputError
from verdictscope.figures.token_view.visible import one_line
from verdictscope.interventions.attribution import Attribution, attribute
from verdictscope.interventions.circuit import logit_weights, mean_written, ov_directions, token_frame
from verdictscope.interventions.edits import HeadEdit
from verdictscope.interventions.effects import effects
from verdictscope.interventions.sources import QUANTITIES, Head
from verdictscope.probes import select
from verdictscope.probes.splits import part_rows
from verdictscope.rollouts import Rollout, pieces
from verdictscope.stats import Effect, effects_frame, mean_effect
from verdictscope.values import truth

if TYPE_CHECKING:
    from verdictscope.figures import Display

TOP = 8
"""Tokens of each kind on a card."""
WORDS = {
    "readout": "readout, untouched",
    "share": "its direct share",
    "effect": "change when zeroed",
    "probe": "its own probe",
}
ABOUT = (
    "What this does not show: what a token stands for by this layer (earlier layers moved things there), heads that "
    "would stand in if this one were gone, and that a head whose output a probe can read uses what it says."
)


@dataclass(frozen=True, eq=False)
class HeadCard:
    """What is known of one head.

    Attributes:
        head: (layer, head).
        readout: the readout's name.
        positions: where it looks from.
        numbers: Effects: ``readout`` (untouched), ``share`` (the head's direct share of it), ``effect`` (its change
            when the head is zeroed), and ``probe`` (AUROC of a probe on the head's own output, on prompts it was not
            fitted on) where labels were given.
        segments: ``segment quantity estimate low high n``, see :meth:`Attribution.by_source`: ``attention`` and
            ``weighted`` from ``positions``, ``share`` at the readout's own, where it sums to the number of that name.
        tokens: ``segment token attention weighted share``: the same, summed over the tokens of one text in a segment,
            mean over rows.
        writes: ``what side rank token_id token logit``: ``written`` is what the head adds to the logits on average;
            ``OV 1`` … are the strongest output directions of its value and output matrices, with their share of the
            squared size.
        notes: what could not be had, in words.
    """

    head: Head
    readout: str
    positions: str
    numbers: tuple[Effect, ...]
    segments: pd.DataFrame
    tokens: pd.DataFrame
    writes: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For example ``L4H6``."""
        return f"L{self.head[0]}H{self.head[1]}"

    def to_frame(self) -> pd.DataFrame:
        """One tidy table, ``part name segment token quantity estimate low high n unit``: parts are ``number``,
        ``segment``, ``token`` and ``writes``."""
        numbers = effects_frame(self.numbers)[["name", "estimate", "low", "high", "n", "unit"]]
        tokens = self.tokens.melt(["segment", "token"], list(QUANTITIES), "quantity", "estimate")
        writes = self.writes.rename(columns={"what": "name", "side": "quantity", "logit": "estimate"})
        parts = [
            numbers.assign(part="number"),
            self.segments.assign(part="segment"),
            tokens.assign(part="token"),
            writes.assign(part="writes", unit="logit"),
        ]
        columns = ["part", "name", "segment", "token", "quantity", "estimate", "low", "high", "n", "unit"]
        return pd.concat([part.reindex(columns=columns).astype(object) for part in parts], ignore_index=True)

    def plot(self) -> Display:
        """The card as a figure."""
        from verdictscope import figures

        return figures.head_card(self.to_frame(), self.name, self.readout, self.positions)

    def __repr__(self) -> str:
        return f"HeadCard {self.name}, {self.readout} from {self.positions}: " + "; ".join(map(str, self.numbers))

    def _repr_html_(self) -> str:
        numbers = effects_frame(self.numbers)[["name", "estimate", "low", "high", "n", "unit"]]
        wide = self.segments.pivot(index="segment", columns="quantity", values="estimate")
        segments = wide.reindex(self.segments["segment"].unique())[list(QUANTITIES)].reset_index()
        segments.columns.name = None
        blocks = [
            ("What it does", numbers.assign(name=numbers["name"].map(lambda name: WORDS.get(name, name)))),
            (f"Where it looks from {self.positions}, and where its share comes from", segments),
            ("and by token", self.tokens.assign(token=self.tokens["token"].map(one_line))),
            ("What it writes", self._written()),
        ]
        tables = "".join(f"<h4>{escape(title)}</h4>{_html(table)}" for title, table in blocks if len(table))
        notes = "".join(f"<p>{escape(note.rstrip('.'))}.</p>" for note in (*self.notes, ABOUT))
        return f"<h3>Head {self.name}, {escape(self.readout)}</h3>{tables}{notes}"

    def _written(self) -> pd.DataFrame:
        """A line per vector and side, its tokens in order."""
        said = self.writes.assign(token=self.writes["token"].map(lambda t: f"“{one_line(t)}”"))
        lines = said.groupby(["what", "side"], sort=False)["token"].agg(" ".join)
        return lines.rename("tokens").reset_index()


def _html(table: pd.DataFrame) -> str:
    return str(table.to_html(index=False, border=0, escape=True, float_format="{:.3g}".format, na_rep=""))


def head_card(
    model: Model,
    rollouts: Sequence[Rollout],
    head: Head,
    readout: Readout,
    *,
    positions: Positions | FrozenPositions = "think_end",
    edit_positions: str = "all",
    labels: Mapping[str, Any] | None = None,
    labelled: Sequence[Rollout] | None = None,
    top: int = TOP,
    plan: BatchPlan | None = None,
    seed: int = 0,
) -> HeadCard:
    """Everything about one head: four passes over the rollouts, and one over the labelled ones.

    Show it rollouts that did not choose the head: its numbers are then no winner's.

    Args:
        model: a wrapped model.
        rollouts: teacher-forced ids.
        head: (layer, head).
        readout: what it is judged by; one that :func:`attribute` takes.
        positions: where it looks from; the share and the written direction are at the readout's own positions.
        edit_positions: where it is zeroed.
        labels: 0 or 1 by rollout id, for its own probe.
        labelled: the rollouts of the probe; by default ``rollouts``.
        top: tokens of each kind.
        plan: batches.
        seed: of bootstraps and splits.

    Raises:
        InputError: the head is not below the readout, the positions exist in no rollout, or the readout cannot be
            taken apart.
    """
    head = (int(head[0]), int(head[1]))
    at = readout.positions
    apart = partial(attribute, model, rollouts, readout, sources=[head], plan=plan, seed=seed)
    looked = apart(positions=positions)
    read = looked if at == positions else apart(positions=at)
    numbers = _numbers(model, rollouts, head, readout, read, edit_positions, plan, seed)
    notes = [*looked.notes]
    if labels is not None:
        numbers.append(_probe(model, labelled or rollouts, head, labels, at, seed))
    return HeadCard(
        head=head,
        readout=readout.name,
        positions=positions if isinstance(positions, str) else "given positions",
        numbers=tuple(numbers),
        segments=_segments(looked, read),
        tokens=_tokens(model, rollouts, looked, read, top),
        writes=_writes(model, rollouts, head, at, top, plan, notes),
        notes=tuple(notes),
    )


def _numbers(
    model: Model,
    rollouts: Sequence[Rollout],
    head: Head,
    readout: Readout,
    read: Attribution,
    edit_positions: str,
    plan: BatchPlan | None,
    seed: int,
) -> list[Effect]:
    share = read.shares[read.parts.index(("head", *head))]
    zeroed = effects(model, rollouts, readout, [HeadEdit((head,), positions=edit_positions)], plan=plan, seed=seed)
    base, change = zeroed.baseline(), zeroed.of(0)
    return [
        _named(base, "readout"),
        mean_effect("share", share, read.groups, unit=base.unit, seed=seed),
        _named(change, "effect"),
    ]


def _named(effect: Effect, name: str) -> Effect:
    return Effect(name, effect.estimate, effect.low, effect.high, effect.n, effect.unit, effect.seed)


def _probe(
    model: Model, rollouts: Sequence[Rollout], head: Head, labels: Mapping[str, Any], at: Any, seed: int
) -> Effect:
    """AUROC of a probe on the head's ``z`` alone, on the test half of the prompt groups."""
    labels = {r.id: truth(labels.get(r.id), f"label of rollout {r.id!r}") for r in rollouts}
    known = [r for r in rollouts if labels[r.id] is not None]
    if len({labels[r.id] for r in known}) < 2:
        raise InputError("the head's own probe needs rollouts of both labels; give them as labelled=…")
    read = Site("z", head[0]) @ at
    done = forward(model, known, [read])
    values = done.values[read][0][:, head[1]].float()
    group_of = {r.id: r.group for r in known}
    names = done.rows[read]["rollout"]
    label, group = [int(bool(labels[i])) for i in names], [group_of[i] for i in names]
    rows = part_rows(label, group, rollouts=names.to_list(), seed=seed)
    chosen = select(lambda _: values, rows, [head[0]], hold=(), balance="classes")
    return _named(chosen.test(lambda _: values, rows).test, "probe")


def _writes(
    model: Model,
    rollouts: Sequence[Rollout],
    head: Head,
    at: Positions | FrozenPositions,
    top: int,
    plan: BatchPlan | None,
    notes: list[str],
) -> pd.DataFrame:
    try:
        written = mean_written(model, rollouts, head, at, plan)
        logit_weights(model, written[None])
    except InputError as error:
        notes.append(f"What the head writes cannot be read as tokens: {error}")
        return token_frame((), np.zeros((0, 1)), (), top)
    names, vectors = ["written"], [written[None]]
    try:
        directions, sizes = ov_directions(model, head, written)
    except InputError as error:
        notes.append(f"The OV matrix is not shown: {error}")
    else:
        names += [f"OV {i + 1} ({size:.0%})" for i, size in enumerate(sizes)]
        vectors.append(directions)
    logits = logit_weights(model, torch.cat(vectors))
    return token_frame(names, logits, _spelling(model, logits.shape[1]), top)


def _spelling(model: Model, vocab: int) -> list[str]:
    if model.optional_tokenizer is None:
        return [f"#{i}" for i in range(vocab)]
    return [str(model.tokenizer.decode([i])) if i < len(model.tokenizer) else f"#{i}" for i in range(vocab)]


def _segments(looked: Attribution, read: Attribution) -> pd.DataFrame:
    """Attention where the head looks from, shares where the readout is read."""
    here, there = (a.by_source().drop(columns=["layer", "head"]) for a in (looked, read))
    return pd.concat([here[here["quantity"] != "share"], there[there["quantity"] == "share"]], ignore_index=True)


def _tokens(
    model: Model, rollouts: Sequence[Rollout], looked: Attribution, read: Attribution, top: int
) -> pd.DataFrame:
    """The texts that are most attended to and those with the largest shares, per row."""
    texts: dict[str, np.ndarray] = {}
    if model.optional_tokenizer is not None:
        texts = {r.id: np.array(pieces(r.ids, model.tokenizer), dtype=object) for r in rollouts}

    def sums(of: Attribution) -> pd.DataFrame:
        assert of.sources is not None
        table = of.sources.to_frame()
        spelled = zip(table["rollout"], table["source"], table["token_id"], strict=True)
        table["token"] = [texts[r][at] if texts else f"#{i}" for r, at, i in spelled]
        return table.groupby(["segment", "token"], sort=False)[list(QUANTITIES)].sum() / len(of.rows)

    both = sums(looked)[["attention", "weighted"]].join(sums(read)["share"], how="outer").fillna(0.0)
    ranks = (both["attention"].rank(ascending=False), both["share"].abs().rank(ascending=False))
    kept = both[(ranks[0] <= top) | (ranks[1] <= top)]
    return kept.sort_values("share", key=np.abs, ascending=False).reset_index()
