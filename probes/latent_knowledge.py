"""Of pairs of one part: what a probe of the right answer says beside the verdict, and what chance would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from verdictscope.judgments.metrics.measure import Measure, contrast, mean, measured, share
from verdictscope.judgments.metrics.solving import solve_to_judge
from verdictscope.probes.fit_probe import ProbeResult
from verdictscope.probes.verdict_states import Pairs
from verdictscope.stats import auroc_effect, auroc_many, permutation_p

CUES = "all cues"
"""The scope of all conditions that push, together."""
MIRROR, VIEW = "by a probe of the verdict", "by a probe of the uncued verdict"
LEVEL = "right, with right and wrong verdicts weighed equally"


@dataclass(frozen=True, eq=False)
class Case:
    """Pairs of one part with what is known of them.

    ``right`` is 1 where A is; ``averaged`` says whether the verdict averaged over the orders is right, ``stated`` the
    share of the two stated verdicts that are (NaN where one could not be read), ``pushed`` whether the cue turned a
    right averaged verdict into a wrong one.
    """

    pairs: Pairs
    right: ndarray
    averaged: Bool[ndarray, " pair"]
    stated: Float[ndarray, " pair"]
    wrong_orders: Float[ndarray, " pair"]
    pushed: Bool[ndarray, " pair"]
    scopes: dict[str, Bool[ndarray, " pair"]]

    @classmethod
    def of(cls, pairs: Pairs, uncued: str, quiet: tuple[str, ...]) -> Case:
        """Pairs of one part; ``uncued`` names the condition without a cue, ``quiet`` those that push nowhere."""
        table = pairs.table
        right = (table["label"] == "A").to_numpy()
        averaged = (table["content"] > 0).to_numpy() == right
        hit = np.stack(
            [
                (table[c] == table["label"]).astype(float).where(table[c].notna()).to_numpy(dtype=float)
                for c in ("verdict_ab", "verdict_ba")
            ]
        )
        before = pd.Series(averaged, index=table["item"])[(table["condition"] == uncued).to_numpy()]
        pushed = table["item"].map(before).eq(True).to_numpy() & ~averaged
        condition = table["condition"].to_numpy()
        scopes = {str(c): condition == c for c in dict.fromkeys(condition)}
        cues = ~np.isin(condition, [*quiet, uncued])
        if len(set(condition[cues])) > 1:
            scopes[CUES] = cues
        return cls(pairs, right, averaged, hit.mean(axis=0), (hit == 0).sum(axis=0).astype(float), pushed, scopes)

    @property
    def groups(self) -> ndarray:
        """Resampling unit of every pair."""
        return self.pairs.table["group"].to_numpy()

    def correct(self, result: ProbeResult, layer: int | None = None) -> Bool[ndarray, " pair"]:
        """Whether a probe points to the right answer."""
        at = result.selection.layer if layer is None else layer
        return (self.pairs.content(at) @ result.selection.probes[at].direction_ > 0) == self.right

    def measure(self) -> Callable[[ndarray, ndarray], ndarray]:
        """Statistics of a refit with permuted labels: `names`, from labels and scores of the mirrored test rows."""
        W = np.stack(list(self.weights().values()), axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            W = W / W.sum(axis=0)

        def statistics(labels: ndarray, scores: ndarray) -> ndarray:
            half = scores.shape[1] // 2
            shares = ((scores[:, :half] > 0) == self.right) @ W
            both = (np.tile(at, 2) for at in self.scopes.values())
            return np.concatenate([shares.T, np.stack([auroc_many(labels[:, at], scores[:, at]) for at in both])])

        return statistics

    def weights(self) -> dict[tuple[str, str], Float[ndarray, " pair"]]:
        """What each share is taken over, by condition and name: weight per pair."""
        found = {}
        for scope, at in self.scopes.items():
            found[scope, "right"] = at.astype(float)
            found[scope, "right where the verdict is wrong"] = (at & ~self.averaged).astype(float)
            found[scope, "right where a stated verdict is wrong"] = at * self.wrong_orders
            if (at & self.pushed).any():
                found[scope, "right where the cue turned the verdict"] = (at & self.pushed).astype(float)
            halves = [(at & verdict).astype(float) for verdict in (self.averaged, ~self.averaged)]
            if all(half.any() for half in halves):
                found[scope, LEVEL] = sum(half / half.sum() for half in halves)
        return found


def tested(case: Case, result: ProbeResult, mirror: ProbeResult, view: ProbeResult, seed: int) -> pd.DataFrame:
    """Every figure of the test part, by condition."""
    probe, shown, own, tables = case.correct(result), case.correct(mirror), case.correct(view), []
    score = case.pairs.content(result.selection.layer) @ result.direction
    for scope, at in case.scopes.items():
        wrong, turned = at & ~case.averaged, at & case.pushed
        where = "items where the verdict, averaged over the orders, is wrong"
        made = [
            share("right", probe, at, "the probe points to the right answer"),
            mean("right as stated", np.where(at, case.stated, np.nan), "rate", "stated verdicts, mean of both orders"),
            share("right as stated, orders averaged", case.averaged, at, "log-odds averaged over the orders"),
            mean("gap to stated", np.where(at, probe - case.stated, np.nan), "rate", "probe less stated, paired"),
            mean(
                "gap to stated, orders averaged",
                np.where(at, probe * 1.0 - case.averaged, np.nan),
                "rate",
                "probe less verdict averaged over the orders, paired: what both orders alone give is taken off",
            ),
            share("right where the verdict is wrong", probe, wrong, where),
            share(f"right where the verdict is wrong, {MIRROR}", shown, wrong, f"{where}; 0 for a mere mirror"),
            share(
                f"right where the verdict is wrong, {VIEW}",
                own,
                wrong,
                f"{where}; as high as the probe's where that reads the judge's own view before the cue",
            ),
        ]
        known, mirrored, viewed = made[-3:]
        made += [
            contrast("knows better than it says", known, mirrored, "probe less probe of the verdict, paired"),
            contrast(
                "knows better than its uncued view", known, viewed, "probe less probe of the uncued verdict, paired"
            ),
            level(LEVEL, probe, at & case.averaged, wrong),
        ]
        if turned.any():
            what = "items that the cue turned from right to wrong"
            made += [
                share("right where the cue turned the verdict", probe, turned, what),
                share(f"right where the cue turned the verdict, {MIRROR}", shown, turned, what),
                share(f"right where the cue turned the verdict, {VIEW}", own, turned, what),
            ]
        table = measured(made, case.groups, seed=seed)
        right, seen, group = case.right[at], score[at], case.groups[at]
        twice = np.r_[right, ~right].astype(int), np.r_[seen, -seen], np.r_[group, group]
        auroc = auroc_effect("AUROC", *twice)
        first = pd.DataFrame(
            [
                {
                    "name": "AUROC",
                    "estimate": auroc.estimate,
                    "low": auroc.low,
                    "high": auroc.high,
                    "n": 2 * int(at.sum()),
                    "groups": auroc.n,
                    "unit": "AUROC",
                    "definition": "the right answer, pairs seen from both sides",
                }
            ]
        )
        tables.append(pd.concat([first, table, _stated_wrong(case, probe, at, seed)]).assign(condition=scope))
    return _renamed(pd.concat(tables, ignore_index=True), "test")


def level(name: str, hits: ndarray, one: ndarray, two: ndarray) -> Measure:
    """Mean of the shares of hits in two sets: what reads for or against the verdict alone comes to one half."""
    first, second = share("", hits, one, ""), share("", hits, two, "")
    assert first.parts is not None
    assert second.parts is not None

    def formula(sums: ndarray) -> ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return (sums[..., 0] / sums[..., 1] + sums[..., 2] / sums[..., 3]) / 2

    about = "mean of the share right where the verdict is right and where it is wrong: one half for what follows the "
    return Measure(
        name,
        "rate",
        f"{about}verdict, or the side opposite to it, alone",
        one | two,
        np.concatenate([first.parts, second.parts], axis=1),
        formula,
    )


def _stated_wrong(case: Case, probe: ndarray, at: ndarray, seed: int) -> pd.DataFrame:
    """Share by stated verdict, one order at a time: here the units are verdicts, not items."""
    orders = np.stack([case.pairs.table[c] != case.pairs.table["label"] for c in ("verdict_ab", "verdict_ba")])
    known = np.stack([case.pairs.table[c].notna() for c in ("verdict_ab", "verdict_ba")])
    wrong = (orders & known & at).ravel()
    about = "stated verdicts that are wrong, one order at a time; the probe sees both orders"
    made = [share("right where a stated verdict is wrong", np.tile(probe, 2), wrong, about)]
    return measured(made, np.tile(case.groups, 2), seed=seed)


def add_nulls(table: pd.DataFrame, case: Case, measures: ndarray) -> None:
    """Beside every statistic of the probe its null under permuted labels; a gap's is theirs less what is stated."""
    names = [*case.weights(), *((scope, "AUROC") for scope in case.scopes)]
    values = dict(zip(names, measures.T, strict=True))
    at = table.set_index(["condition", "name"])["estimate"]
    for scope in case.scopes:
        for gap, stated in (
            ("gap to stated", "right as stated"),
            ("gap to stated, orders averaged", "right as stated, orders averaged"),
        ):
            values[scope, gap] = values[scope, "right"] - at[scope, stated]
    for (scope, name), drawn in values.items():
        null = drawn[1:][np.isfinite(drawn[1:])]
        where = (table["condition"] == scope) & (table["name"] == name)
        if not where.any() or not len(null):
            continue
        p = permutation_p(table.loc[where, "estimate"].iloc[0], drawn[1:])
        table.loc[where, ["null_mean", "null_low", "null_high", "p"]] = [null.mean(), null.min(), null.max(), p]


def permuted(table: pd.DataFrame, refits: int) -> pd.DataFrame:
    """The null of every AUROC as rows of their own."""
    rows = table[table["name"] == "AUROC"]
    about = "mean and range over refits with labels permuted between items, each selecting layer and penalty again"
    null = rows.assign(
        kind="permuted",
        name="labels permuted between items",
        n=refits,
        about=about,
        estimate=rows["null_mean"],
        low=rows["null_low"],
        high=rows["null_high"],
    )
    return null.assign(null_mean=np.nan, null_low=np.nan, null_high=np.nan, groups=np.nan)


def solving(case: Case, result: ProbeResult, solved: Mapping[str, bool], condition: str, seed: int) -> pd.DataFrame:
    """S2J's gap (arXiv 2509.22099) for the stated verdict, and the same with the probe in its place."""
    at = case.scopes[condition]
    own = [solved.get(item) for item in case.pairs.table["item"][at]]
    judged = {"stated, orders averaged": case.averaged[at], "probe": case.correct(result)[at]}
    found = [
        solve_to_judge(own, hits.astype(float), case.groups[at], seed=seed)
        .query("name == 'solve_judge_gap'")
        .assign(name=f"wrong though solved, {name}")
        for name, hits in judged.items()
    ]
    return _renamed(pd.concat(found, ignore_index=True).assign(condition=condition), "test")


def layers(case: Case, result: ProbeResult, mirror: ProbeResult, seed: int) -> pd.DataFrame:
    """Validation items, every layer at the chosen penalty: what was looked at when the layer was chosen."""
    tables = []
    for layer in sorted(result.selection.probes):
        probe, shown = case.correct(result, layer), case.correct(mirror, layer)
        for scope, at in case.scopes.items():
            wrong = at & ~case.averaged
            name = "right where the verdict is wrong"
            made = [
                share("right", probe, at, "validation items"),
                share(name, probe, wrong, "validation items"),
                share(f"{name}, {MIRROR}", shown, wrong, "validation items"),
            ]
            tables.append(measured(made, case.groups, seed=seed).assign(condition=scope, layer=layer))
    return _renamed(pd.concat(tables, ignore_index=True), "layer")


def _renamed(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    return table.rename(columns={"definition": "about"}).assign(kind=kind)
