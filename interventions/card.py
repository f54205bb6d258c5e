"""A head card: what a head attends to, its attribution by source token, its output as tokens, its effect and probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from verdictscope.interventions.circuit import logit_weights, mean_output, ov_directions, token_frame
from verdictscope.interventions.edits.heads import HeadEdit
from verdictscope.interventions.edits.protocol import Head, as_heads, head_name
from verdictscope.interventions.effects import effects
from verdictscope.interventions.sources import QUANTITIES
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
    "readout": "readout, unedited",
    "attribution": "direct logit attribution",
    "effect": "change when zero-ablated",
    "probe": "probe of the head's output",
}
ABOUT = (
    "What this does not show: what a token represents by this layer (earlier layers moved things there), heads that "
    "would compensate if this one were ablated, and that the model uses what a probe can read from a head's output."
)


@dataclass(frozen=True, eq=False)
class HeadCard:
    """One head: numbers (readout, attribution, effect, probe), attention and attribution by segment and token, and the
    tokens that its mean output and its strongest output-value directions promote and suppress."""

    head: Head
    readout: str
    positions: str
    numbers: tuple[Effect, ...]
    segments: pd.DataFrame
    tokens: pd.DataFrame
    promoted: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For example ``L4H6``."""
        return head_name(self.head)

    def to_frame(self) -> pd.DataFrame:
        """One tidy table, ``part name segment token quantity estimate low high n unit``: parts are ``number``,
        ``segment``, ``token`` and ``promoted``."""
        numbers = effects_frame(self.numbers)[["name", "estimate", "low", "high", "n", "unit"]]
        tokens = self.tokens.melt(["segment", "token"], list(QUANTITIES), "quantity", "estimate")
        promoted = self.promoted.rename(columns={"what": "name", "side": "quantity", "logit": "estimate"})
        parts = [
            numbers.assign(part="number"),
            self.segments.assign(part="segment"),
            tokens.assign(part="token"),
            promoted.assign(part="promoted", unit="logit"),
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
            ("Effect", numbers.assign(name=numbers["name"].map(lambda name: WORDS.get(name, name)))),
            (f"Attention from {self.positions}, and attribution by source segment", segments),
            ("By source token", self.tokens.assign(token=self.tokens["token"].map(one_line))),
            ("Tokens promoted by its output", self._by_vector()),
        ]
        tables = "".join(f"<h4>{escape(title)}</h4>{_html(table)}" for title, table in blocks if len(table))
        notes = "".join(f"<p>{escape(note.rstrip('.'))}.</p>" for note in (*self.notes, ABOUT))
        return f"<h3>Head {self.name}, {escape(self.readout)}</h3>{tables}{notes}"

    def _by_vector(self) -> pd.DataFrame:
        """A line per vector and side, its tokens in order."""
        spelled = self.promoted.assign(token=self.promoted["token"].map(lambda t: f"“{one_line(t)}”"))
        lines = spelled.groupby(["what", "side"], sort=False)["token"].agg(" ".join)
        return lines.rename("tokens").reset_index()


def _html(table: pd.DataFrame) -> str:
    return str(table.to_html(index=False, border=0, escape=True, float_format="{:.3g}".format, na_rep=""))


def head_card(
    model: Model,
    rollouts: Sequence[Rollout],
    head: Any,
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

    Take rollouts that did not select the head: its numbers are then free of selection bias.

    Args:
        model: a wrapped model.
        rollouts: teacher-forced ids.
        head: ``(layer, head)`` or ``"L4H6"``.
        readout: one that :func:`attribute` takes.
        positions: where it attends from; its attribution and output are at the readout's own positions.
        edit_positions: where it is zero-ablated.
        labels: 0 or 1 by rollout id, for a probe of the head's output.
        labelled: the rollouts of the probe; by default ``rollouts``.
        top: tokens of each kind.
        plan: batches.
        seed: of bootstraps and splits.

    Raises:
        InputError: the head is not below the readout, the positions exist in no rollout, or the readout cannot be
            decomposed.

    Example:
        >>> from verdictscope.activations import LogOddsReadout, load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> rollout = Rollout("r0", "prompt 0", (5, 6, 7, 8), (Span("user", 0, 4),), 4)
        >>> readout = LogOddsReadout("odds", positive=((3,),), negative=((4,),), positions="last")
        >>> card = head_card(model, [rollout], "L4H6", readout, positions="last", top=2)
        >>> [effect.name for effect in card.numbers]
        ['readout', 'attribution', 'effect']
    """
    (head,) = as_heads(head)
    at = readout.positions
    decompose = partial(attribute, model, rollouts, readout, sources=[head], plan=plan, seed=seed)
    looked = decompose(positions=positions)
    read = looked if at == positions else decompose(positions=at)
    own = read.values[read.components.index(("head", *head))]
    edit = HeadEdit(head, positions=edit_positions)
    zeroed = effects(model, rollouts, readout, [edit], plan=plan, seed=seed)
    numbers = [
        replace(zeroed.baseline(), name="readout"),
        mean_effect("attribution", own, read.groups, unit=zeroed.unit, seed=seed),
        replace(zeroed.of(0), name="effect"),
    ]
    if labels is not None:
        numbers.append(_probe(model, labelled or rollouts, head, labels, at, seed))
    notes = [*looked.notes]
    return HeadCard(
        head=head,
        readout=readout.name,
        positions=positions if isinstance(positions, str) else "given positions",
        numbers=tuple(numbers),
        segments=_segments(looked, read),
        tokens=_tokens(model, rollouts, looked, read, top),
        promoted=_promoted(model, rollouts, head, at, top, plan, notes),
        notes=tuple(notes),
    )


def _probe(
    model: Model, rollouts: Sequence[Rollout], head: Head, labels: Mapping[str, Any], at: Any, seed: int
) -> Effect:
    """AUROC of a probe on the head's ``z`` alone, on the test split of the prompt groups."""
    known = {r.id: truth(labels.get(r.id), f"label of rollout {r.id!r}") for r in rollouts}
    chosen = [r for r in rollouts if known[r.id] is not None]
    if len({known[r.id] for r in chosen}) < 2:
        raise InputError("the head's probe needs rollouts of both labels; give them as labelled=…")
    read = Site("z", head[0]) @ at
    done = forward(model, chosen, [read])
    values = done.values[read][0][:, head[1]].float()
    group_of = {r.id: r.group for r in chosen}
    names = done.rows[read]["rollout"]
    label, group = [int(bool(known[i])) for i in names], [group_of[i] for i in names]
    rows = part_rows(label, group, rollouts=names.to_list(), seed=seed)
    fitted = select(lambda _: values, rows, [head[0]], hold=(), balance="classes")
    return replace(fitted.test(lambda _: values, rows).test, name="probe")


def _promoted(
    model: Model,
    rollouts: Sequence[Rollout],
    head: Head,
    at: Positions | FrozenPositions,
    top: int,
    plan: BatchPlan | None,
    notes: list[str],
) -> pd.DataFrame:
    try:
        output = mean_output(model, rollouts, head, at, plan)
        logit_weights(model, output[None])
    except InputError as error:
        notes.append(f"The head's output cannot be read as tokens: {error}")
        return token_frame((), np.zeros((0, 1)), (), top)
    names, vectors = ["mean output"], [output[None]]
    try:
        directions, sizes = ov_directions(model, head, output)
    except InputError as error:
        notes.append(f"The OV matrix is not shown: {error}")
    else:
        names += [f"OV {i + 1} ({size:.0%})" for i, size in enumerate(sizes)]
        vectors.append(directions)
    logits = logit_weights(model, torch.cat(vectors))
    tokenizer = model.optional_tokenizer
    known = 0 if tokenizer is None else len(tokenizer)
    spelled = [str(model.tokenizer.decode([i])) if i < known else f"#{i}" for i in range(logits.shape[1])]
    return token_frame(names, logits, spelled, top)


def _segments(looked: Attribution, read: Attribution) -> pd.DataFrame:
    """Attention from the chosen positions, attribution where the readout is read."""
    here, there = (a.by_source().drop(columns=["layer", "head"]) for a in (looked, read))
    own = there["quantity"] == "attribution"
    return pd.concat([here[here["quantity"] != "attribution"], there[own]], ignore_index=True)


def _tokens(
    model: Model, rollouts: Sequence[Rollout], looked: Attribution, read: Attribution, top: int
) -> pd.DataFrame:
    """The texts with the most attention and those with the largest attribution, per row."""
    texts: dict[str, np.ndarray] = {}
    if model.optional_tokenizer is not None:
        texts = {r.id: np.array(pieces(r.ids, model.tokenizer), dtype=object) for r in rollouts}

    def sums(of: Attribution) -> pd.DataFrame:
        assert of.sources is not None
        table = of.sources.to_frame()
        spelled = zip(table["rollout"], table["source"], table["token_id"], strict=True)
        table["token"] = [texts[r][at] if texts else f"#{i}" for r, at, i in spelled]
        return table.groupby(["segment", "token"], sort=False)[list(QUANTITIES)].sum() / len(of.rows)

    both = sums(looked)[["attention", "weighted"]].join(sums(read)["attribution"], how="outer").fillna(0.0)
    ranks = (both["attention"].rank(ascending=False), both["attribution"].abs().rank(ascending=False))
    kept = both[(ranks[0] <= top) | (ranks[1] <= top)]
    return kept.sort_values("attribution", key=np.abs, ascending=False).reset_index()
