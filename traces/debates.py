"""A judge reads a debate: its verdict after every turn, in both orders of the two sides.

Each turn is a prompt of its own that ends there, so what is read is what the judge would decide if the debate stopped
at that turn. Whether it carries that verdict while it reads on is another question, which a readout at the turn's
tokens within the whole debate would answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from verdictscope.activations import LinearReadout, Model, forward
from verdictscope.errors import InputError
from verdictscope.judgments import DebateItem, Judged, JudgeSettings, judge, order_contrasts
from verdictscope.judgments.asking import ORDERS
from verdictscope.judgments.formats.format import Format
from verdictscope.judgments.items import Item
from verdictscope.rollouts import Sampling
from verdictscope.traces.contrasts import part_curves, parts_at

if TYPE_CHECKING:
    from verdictscope.figures import Display

VERDICT = "verdict"
"""Readout of the verdict's own log-odds."""

DEBATE_COLUMNS = ["item", "group", "turn", "n_turns", "speaker", "order", "readout", "layer", "score"]
DEBATE_COLUMNS += ["verdict", "label", "status"]


@dataclass(frozen=True, eq=False)
class DebateTraces:
    """A row per debate, turn, order and readout (turn 0 is before anyone spoke), and the verdicts behind it.

    ``score`` is towards the side shown first, in nats for ``verdict``; NaN where no verdict could be parsed.
    """

    table: pd.DataFrame
    judged: Judged

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def parts(self) -> pd.DataFrame:
        """Content (towards the right side) and position (towards the side shown first) of every debate and turn."""
        rows = self.table.assign(rollout=self.table["item"] + "/" + self.table["order"], run=0)
        contrasts = order_contrasts(rows.drop_duplicates("rollout"))
        return parts_at(rows, contrasts.values(), "turn", ("readout", "layer"))

    def curves(self, *, seed: int = 0) -> pd.DataFrame:
        """Mean of both parts after every turn, with bands; n falls where shorter debates are over."""
        return part_curves(self.parts(), "turn", ("readout", "layer"), seed=seed)

    def plot(self) -> Display:
        """Both parts of the verdict by turn."""
        from verdictscope.figures import debate

        return debate(self.curves())

    def __str__(self) -> str:
        own = self.table[self.table["readout"] == VERDICT]
        n, longest, unread = own["item"].nunique(), int(own["n_turns"].max()), int(own["score"].isna().sum())
        return (
            f"{n} debates of up to {longest} turns, {len(own)} verdicts, {unread} not read. Each turn is judged as if "
            "the debate ended there."
        )

    def _repr_html_(self) -> str:
        return f"<p>{self}</p>{self.table.head(12).to_html(index=False)}"


def debate_traces(
    model: Model,
    debates: Sequence[Item],
    format: str | Format = "debate_letter",
    orders: Sequence[str] = ORDERS,
    *,
    readouts: Sequence[LinearReadout] = (),
    turns: Sequence[int] | None = None,
    settings: JudgeSettings | None = None,
    sampling: Sampling | None = None,
    path: str | Path | None = None,
) -> DebateTraces:
    """The verdict's log-odds, and any linear readout, after each turn of debates."""
    other = next((d for d in debates if not isinstance(d, DebateItem)), None)
    if other is not None or not debates:
        raise InputError("there are no debates to judge" if other is None else f"item {other.id} is no debate")
    spoken = [d for d in debates if isinstance(d, DebateItem)]
    longest = max(len(d.turns) for d in spoken)
    wanted = sorted(set(range(longest + 1) if turns is None else turns))
    if not wanted or wanted[0] < 0 or wanted[-1] > longest:
        raise InputError(f"the longest debate has {longest} turns: name turns from 0 to {longest}")
    asked = {d.until(k).id: (d, k) for d in spoken for k in wanted if k <= len(d.turns)}
    judged = judge(
        model,
        [d.until(k) for d, k in asked.values()],
        format,
        settings=replace(settings or JudgeSettings(), orders=orders, runs=1),
        sampling=sampling,
        path=path,
    )
    rows = judged.verdicts
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.log(rows["p_first"].astype(float)) - np.log(rows["p_second"].astype(float))
    found = [rows.assign(readout=VERDICT, layer=pd.array([None] * len(rows), dtype="Int64"), score=odds)]
    if readouts and judged.rollouts:
        at_last = [replace(r, positions="last") for r in readouts]
        scores = forward(model, judged.rollouts, score=at_last).scores[["rollout", "readout", "layer", "score"]]
        every = rows.merge(scores[["readout", "layer"]].drop_duplicates(), how="cross")
        found.append(every.merge(scores, on=["rollout", "readout", "layer"], how="left"))
    table = pd.concat(found, ignore_index=True)
    of = [asked[i] for i in table["item"]]
    table["item"], table["turn"] = [d.id for d, _ in of], [k for _, k in of]
    table["n_turns"] = [len(d.turns) for d, _ in of]
    table["speaker"] = pd.Series([d.turns[k - 1].speaker if k else None for d, k in of], dtype=object)
    return DebateTraces(table[DEBATE_COLUMNS], judged)
