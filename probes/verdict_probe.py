"""A probe of what a judge says that a preference for the first answer cannot feed: antisymmetric over AB and BA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.nulls import REFITS, PermutedControl, permuted_selection
from verdictscope.probes.pair_baselines import Answers, pair_nulls
from verdictscope.probes.pair_tables import PLAIN, check_sides, effect_row, told_row
from verdictscope.probes.selectivity import DRAWS
from verdictscope.probes.sweep import DEFAULT_CS, RULE, Sweep, select
from verdictscope.probes.verdict_states import Pairs, VerdictStates, item_parts, mirrored_rows
from verdictscope.stats import Effect, auroc_effect

if TYPE_CHECKING:
    from verdictscope.figures import Display

COLUMNS = ("kind", "name", "layer", "C", "estimate", "low", "high", "n", "p", "selectivity", "about")
"""Columns of a verdict probe's table."""

_SHOWN: dict[str, Any] = {"balance": "classes", "hold": ()}


@dataclass(frozen=True, eq=False)
class VerdictProbe:
    """An antisymmetric probe of a judge's verdict, its one test number, and what stands beside it.

    It shows that what the judge says of an item can be read linearly from the part of the states that turns round with
    the answers; not that the judge uses it, nor that it is right.

    Attributes:
        sweep: the choice on validation and the test, over pairs seen from both sides.
        permuted: refits with verdicts permuted between items, each choosing anew.
        table: ``COLUMNS``; kind ``test`` (the probe), ``part`` (the same direction on the part that turns, on the part
            that stays, and on both, against what was *shown* first; and a probe fitted to the part that stays),
            ``permuted``, ``control``, ``baseline``, and ``layer`` (validation, every layer at its best penalty).
        counts: items by what became of them: used, changed by the order, tie or unread.
        condition: whose verdicts.
        positions: at which token.
        seed: of the draws.
    """

    sweep: Sweep
    permuted: PermutedControl
    table: pd.DataFrame
    counts: dict[str, int]
    condition: str
    positions: str
    seed: int

    @property
    def layer(self) -> int:
        """The chosen layer."""
        return self.sweep.layer

    @property
    def test(self) -> Effect:
        """Test AUROC, interval over item groups."""
        return self.sweep.test

    @property
    def direction(self) -> Float[ndarray, " d"]:
        """Weight per feature; there is no offset."""
        return self.sweep.probe.direction_

    def score(self, ab: Float[ndarray, "*any d"], ba: Float[ndarray, "*any d"]) -> Float[ndarray, "*any"]:
        """Log-odds of A from the states of an item in both orders; ``score(ba, ab) == -score(ab, ba)`` to the bit."""
        return ((np.asarray(ab, dtype=float) - np.asarray(ba, dtype=float)) / 2) @ self.direction

    def to_frame(self) -> pd.DataFrame:
        """Every number."""
        return self.table.copy()

    def plot(self) -> Display:
        """The test number by layer and among its nulls."""
        from verdictscope.figures import verdict_probe

        return verdict_probe(self.table.assign(place=self.positions, variant=""))

    def __str__(self) -> str:
        counted = ", ".join(f"{n} {what}" for what, n in self.counts.items())
        chosen = f"layer {self.layer}, C {self.sweep.C:g} ({RULE})"
        lines = [f"Verdict probe in {self.condition} at {self.positions}: {chosen}"]
        for row in self.table[self.table["kind"] != "layer"].itertuples():
            p = "" if row.p != row.p else f", p = {row.p:.2g}"
            number = f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}], n = {row.n}" if row.n else str(row.about)
            lines.append(f"  {row.kind}, {row.name}: {number}{p}")
        return "\n".join([*lines, f"  items: {counted}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        shown = self.table[self.table["kind"] != "layer"].drop(columns=["layer", "C"])
        return (
            f"<p><b>Verdict probe</b> in {self.condition} at {self.positions}: layer {self.layer}</p>"
            f"{shown.to_html(index=False, float_format='{:.3f}'.format, na_rep='')}"
            "<p>It shows that the verdict can be read, not that the judge uses what is read.</p>"
        )


def verdict_probe(
    states: VerdictStates,
    part: Mapping[str, str] | None = None,
    *,
    condition: str | None = None,
    answers: Answers | None = None,
    Cs: Sequence[float | int] = DEFAULT_CS,
    refits: int = REFITS,
    draws: int = DRAWS,
    parts: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> VerdictProbe:
    """Fit, choose and test a probe of what the judge said, in the frame that turns round with the answers.

    Fitted on items of which the judge said the same in both orders; the others are counted, and read in the rows of
    kind ``part``.

    Args:
        states: states and verdicts of items in both orders.
        part: part of the split by item; made here (by group, stratified by label) if not given.
        condition: whose verdicts; the first by default.
        answers: texts of the answers by item, for the baselines of words and the control task.
        Cs: inverse penalties to choose from.
        refits: refits with permuted verdicts.
        draws: draws of the control task.
        parts: also read what was shown first, by the part of the states that turns and the part that stays.
        seed: of every draw.
        progress: called with layers done and in all.

    Raises:
        InputError: one order only; one verdict only in a part; see `verdictscope.probes.select`.
    """
    where = condition or states.conditions[0]
    every = states.pairs(where)
    part = item_parts(states, seed) if part is None else part
    used = every.where(every.table["said"].isin(["A", "B"]))
    label = (used.table["said"] == "A").to_numpy().astype(int)
    rows = mirrored_rows(used, label, part)
    check_sides(rows, f"verdicts in {where} that both orders gave")
    swept = select(used.mirrored, rows, states.layers, Cs, progress=progress, **PLAIN).test(used.mirrored, rows)
    permuted = permuted_selection(
        used.mirrored, rows, states.layers, Cs, refits=refits, seed=seed, progress=progress, **PLAIN
    )
    made = [effect_row("test", swept.test, p=permuted.p, selectivity=permuted.observed - permuted.mean)]
    if parts:
        made += _parts(every, part, swept, Cs, states.layers, refits, seed)
    made.append(_permuted(permuted))
    made += pair_nulls(used, label, part, swept, answers, draws=draws, seed=seed)
    made += layer_rows(swept.table)
    table = pd.DataFrame(made, columns=list(COLUMNS))
    table.loc[table["kind"].isin(["test", "permuted", "control"]), ["layer", "C"]] = [swept.layer, swept.C]
    return VerdictProbe(swept, permuted, table, _counts(every), where, states.positions, seed)


def layer_rows(choice: pd.DataFrame) -> list[dict[str, Any]]:
    """Every layer at its best penalty on validation, with an interval of two standard errors."""
    best = choice.loc[choice.groupby("layer")["auroc_validation"].idxmax()]
    return [
        told_row(
            "layer",
            f"layer {row.layer}",
            row.auroc_validation,
            max(0.0, row.auroc_validation - 2 * row.se),
            min(1.0, row.auroc_validation + 2 * row.se),
            row.n_groups,
            layer=row.layer,
            C=row.C,
            about="validation part: where the layer was chosen; two standard errors",
        )
        for row in best.itertuples()
    ]


def _parts(
    every: Pairs,
    part: Mapping[str, str],
    swept: Sweep,
    Cs: Sequence[float | int],
    layers: Sequence[int],
    refits: int,
    seed: int,
) -> list[dict[str, Any]]:
    """The reading of what was shown first: by the part that turns with the answers, by the part that stays, by both."""
    table = every.table
    both = every.where(table["verdict_ab"].isin(["A", "B"]) & table["verdict_ba"].isin(["A", "B"]))
    rows = mirrored_rows(both, np.ones(len(both)), part).drop(columns="turned")  # labels by place, not by answer
    rows["label"] = np.r_[both.table["verdict_ab"] == "A", both.table["verdict_ba"] == "B"].astype(int)
    test = (rows["part"] == "test").to_numpy()
    w = swept.probe.direction_
    content, stays = both.content(swept.layer) @ w, both.position(swept.layer) @ w
    read = {
        "part that turns": (np.r_[content, -content], "the probe against which side won as shown, all items"),
        "part that stays": (np.r_[stays, stays], "the probe's direction on what the order does not turn"),
        "both parts": (np.r_[content + stays, stays - content], "the probe's direction on the states as they are"),
    }
    y, group = rows["label"].to_numpy()[test], rows["group"].to_numpy()[test]
    made = [
        effect_row("part", auroc_effect(name, y, score[test], group), about=about, layer=swept.layer)
        for name, (score, about) in read.items()
    ]

    def stay(layer: int) -> ndarray:
        half = both.position(layer)
        return np.concatenate([half, half])

    name = "fitted to what stays"
    try:
        fitted = select(stay, rows, layers, Cs, **_SHOWN).test(stay, rows)
        null = permuted_selection(stay, rows, layers, Cs, refits=refits, seed=seed, **_SHOWN)
    except InputError as error:
        return [*made, told_row("part", name, about=str(error))]
    found = Effect(name, fitted.test.estimate, fitted.test.low, fitted.test.high, fitted.test.n, "AUROC")
    about = f"a probe of which side won as shown, fitted to half the sum; permuted {null.mean:.3f}"
    return [*made, effect_row("part", found, p=null.p, about=about, layer=fitted.layer, C=fitted.C)]


def _counts(pairs: Pairs) -> dict[str, int]:
    ab, ba = pairs.table["verdict_ab"], pairs.table["verdict_ba"]
    sided = ab.isin(["A", "B"]) & ba.isin(["A", "B"])
    same = sided & (ab == ba)
    return {
        "used": int(same.sum()),
        "changed by the order": int((sided & ~same).sum()),
        "tie or unread": int((~sided).sum()),
    }


def _permuted(control: PermutedControl) -> dict[str, Any]:
    about = f"mean and range over refits, each the choice of {control.candidates} layers x penalties"
    return told_row(
        "permuted",
        "verdicts permuted between items",
        control.mean,
        control.low,
        control.high,
        control.refits,
        p=control.p,
        about=about,
    )
