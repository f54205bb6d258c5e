"""A probe of a judge's verdict, antisymmetric over AB and BA: a preference for the first answer cannot enter it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.controls import DRAWS, effect_row, table_row
from verdictscope.probes.fit_probe import ProbeResult, fit_probe
from verdictscope.probes.nulls import PERMUTATIONS
from verdictscope.probes.pair_controls import Answers, check_sides, pair_controls
from verdictscope.probes.selection import DEFAULT_CS, RULE
from verdictscope.probes.states import Layers
from verdictscope.probes.verdict_states import Pairs, VerdictStates, item_parts, mirrored_rows
from verdictscope.stats import auroc_effect

if TYPE_CHECKING:
    from verdictscope.figures import Display

COLUMNS = ("kind", "name", "layer", "C", "estimate", "low", "high", "n", "p", "selectivity", "about")
"""Columns of a verdict probe's table."""


@dataclass(frozen=True, eq=False)
class VerdictProbe:
    """An antisymmetric probe of a judge's verdict, its test number and its controls.

    It shows that the verdict on an item can be read linearly from the component of the states that changes sign with
    the order of the answers; not that the judge uses it, nor that it is right.

    Attributes:
        result: the probe over mirrored pairs.
        table: ``COLUMNS``; kind ``test`` (the probe), ``part`` (the same direction on the content component, on the
            position component, and on both, against which answer *as shown* won; and a probe fitted to the position
            component), ``permuted``, ``control``, ``baseline``, and ``layer`` (validation, every layer at its best
            penalty).
        counts: items: used, changed by the order, tie or not parsed.
        condition: whose verdicts.
        positions: at which token.
    """

    result: ProbeResult
    table: pd.DataFrame
    counts: dict[str, int]
    condition: str
    positions: str

    def score(self, ab: Float[ndarray, "*any d"], ba: Float[ndarray, "*any d"]) -> Float[ndarray, "*any"]:
        """Log-odds of A from the states of an item in both orders; ``score(ba, ab) == -score(ab, ba)`` to the bit."""
        return ((np.asarray(ab, dtype=float) - np.asarray(ba, dtype=float)) / 2) @ self.result.direction

    def to_frame(self) -> pd.DataFrame:
        """Every number."""
        return self.table.copy()

    def plot(self) -> Display:
        """The test number by layer and among its nulls."""
        from verdictscope.figures import verdict_probe

        return verdict_probe(self.table.assign(place=self.positions, variant=""))

    def __repr__(self) -> str:
        chosen = f"layer {self.result.layer}, C {self.result.C:g} ({RULE})"
        lines = [f"Verdict probe in {self.condition} at {self.positions}: {chosen}"]
        for row in self.table[self.table["kind"] != "layer"].itertuples():
            p = "" if row.p != row.p else f", p = {row.p:.2g}"
            number = f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}], n = {row.n}" if row.n else str(row.about)
            lines.append(f"  {row.kind}, {row.name}: {number}{p}")
        return "\n".join([*lines, "  items: " + ", ".join(f"{n} {what}" for what, n in self.counts.items())])

    def _repr_html_(self) -> str:
        shown = self.table[self.table["kind"] != "layer"].drop(columns=["layer", "C"])
        return (
            f"<p><b>Verdict probe</b> in {self.condition} at {self.positions}: layer {self.result.layer}</p>"
            f"{shown.to_html(index=False, float_format='{:.3f}'.format, na_rep='')}"
            "<p>It shows that the verdict can be read, not that the judge uses it.</p>"
        )


def verdict_probe(
    states: VerdictStates,
    split: Mapping[str, str] | None = None,
    *,
    condition: str | None = None,
    answers: Answers | None = None,
    Cs: Sequence[float | int] = DEFAULT_CS,
    permutations: int = PERMUTATIONS,
    draws: int = DRAWS,
    contrasts: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> VerdictProbe:
    """Fit, select and test a probe of the verdict with `fit_probe`, on pairs mirrored over the order of the answers.

    It is fitted on items with the same verdict in both orders; the others are counted, and evaluated in the rows of
    kind ``part``.

    Args:
        states: states and verdicts of items in both orders.
        split: split by item; made here (by group, stratified by label) if not given.
        condition: whose verdicts; the first by default.
        answers: texts of the answers by item, for text baselines and the control task.
        Cs: inverse penalties to select from.
        permutations: refits with permuted verdicts.
        draws: draws of the control task.
        contrasts: also evaluate the content and the position component against the verdict as shown.
        seed: of every draw.
        progress: called with layers done and in all.

    Raises:
        InputError: one order only, one verdict only in a split, or what `fit_probe` raises.

    Example:
        >>> from verdictscope import judge, load_model
        >>> from verdictscope.judgments import load_items
        >>> from verdictscope.probes import verdict_states
        >>> from verdictscope.sources import locate
        >>> model = load_model("organism:judge")
        >>> items = load_items(locate("organism:judge/items.csv"), "pairs", limit=60).items
        >>> judged = judge(model, items, locate("organism:judge/format.toml"))
        >>> states = verdict_states(model, {"plain": judged}, layers=[3])
        >>> probe = verdict_probe(states, Cs=[0.1], permutations=19, contrasts=False)
        >>> probe.result.test.low > probe.result.null.mean
        True
    """
    where = condition or states.conditions[0]
    every = states.pairs(where)
    split = item_parts(states, seed) if split is None else split
    used = every.where(every.table["agreed"].isin(["A", "B"]))
    rows = mirrored_rows(used, used.table["agreed"] == "A", split)
    check_sides(rows, f"verdicts in {where} that both orders gave")
    given: dict[str, Any] = {"Cs": Cs, "permutations": permutations, "seed": seed}
    result = fit_probe(Layers(states.layers, used.mirrored, states.site), rows, progress=progress, **given)
    null = result.permutation
    selectivity = float("nan") if null is None else null.observed - null.mean
    made = [effect_row("test", result.test, p=np.nan if null is None else null.p, selectivity=selectivity)]
    if contrasts:
        made += _components(every, split, result, states, given)
    if null is not None:
        made.append(null.row() | {"name": "verdicts permuted between items"})
    made += [result.random.row(), *pair_controls(used, rows, result, answers, draws=draws, seed=seed)]
    chosen = result.selection.table
    for row in chosen.loc[chosen.groupby("layer")["auroc_validation"].idxmax()].itertuples():
        ends = max(0.0, row.auroc_validation - 2 * row.se), min(1.0, row.auroc_validation + 2 * row.se)
        about = "validation split, where the layer was selected; two standard errors"
        more = {"layer": row.layer, "C": row.C, "about": about}
        made.append(table_row("layer", f"layer {row.layer}", row.auroc_validation, *ends, row.n_groups, **more))
    table = pd.DataFrame(made, columns=list(COLUMNS))
    table.loc[table["kind"].isin(["test", "permuted", "control"]), ["layer", "C"]] = [result.layer, result.C]
    ab, ba = every.table["verdict_ab"], every.table["verdict_ba"]
    sided = ab.isin(["A", "B"]) & ba.isin(["A", "B"])
    same = sided & (ab == ba)
    counts = {"used": int(same.sum()), "changed by the order": int((sided & ~same).sum())}
    counts["tie or unread"] = int((~sided).sum())
    return VerdictProbe(result, table, counts, where, states.positions)


def _components(
    every: Pairs, split: Mapping[str, str], result: ProbeResult, states: VerdictStates, given: dict[str, Any]
) -> list[dict[str, Any]]:
    """The verdict as shown, predicted from the content component, the position component, and both."""
    table = every.table
    both = every.where(table["verdict_ab"].isin(["A", "B"]) & table["verdict_ba"].isin(["A", "B"]))
    rows = mirrored_rows(both, np.ones(len(both)), split).drop(columns="turned")  # labels by place, not by answer
    rows["label"] = np.r_[both.table["verdict_ab"] == "A", both.table["verdict_ba"] == "B"].astype(int)
    test = (rows["part"] == "test").to_numpy()
    layer = result.selection.layer
    content, position = both.content(layer) @ result.direction, both.position(layer) @ result.direction
    scores = {
        "part that turns": (np.r_[content, -content], "the probe against which side won as shown, all items"),
        "part that stays": (np.r_[position, position], "the probe's direction on the position component"),
        "both parts": (np.r_[content + position, position - content], "the probe's direction on the states themselves"),
    }
    y, group = rows["label"].to_numpy()[test], rows["group"].to_numpy()[test]
    made = [
        effect_row("part", auroc_effect(name, y, score[test], group), about=about, layer=layer)
        for name, (score, about) in scores.items()
    ]
    name = "fitted to what stays"
    layers = Layers(states.layers, lambda number: np.concatenate([both.position(number)] * 2), states.site)
    try:
        fitted = fit_probe(layers, rows, **given)
    except InputError as error:
        return [*made, table_row("part", name, about=str(error))]
    test_of, null = fitted.test, fitted.permutation
    about = "a probe of which side won as shown, fitted to the position component"
    about += f"; permuted {null.mean:.3f}" if null is not None else ""
    more = {"p": np.nan if null is None else null.p, "about": about, "layer": fitted.layer, "C": fitted.C}
    return [*made, table_row("part", name, test_of.estimate, test_of.low, test_of.high, test_of.n, **more)]
