"""Does a judge know better than it says? Which answer is right, read from its states, beside the verdict it states.

The probe is antisymmetric (`verdict_states`), so its score has a zero of its own and needs no threshold: above it the
states speak for A. It is fitted where nothing pushes the verdict, and read where something does. Two things could make
it look wise. It may only mirror the verdict: then it is wrong wherever the verdict is, and a probe of the verdict
itself, read beside it, tells so. Or it may agree with the right answer by chance: refits with labels permuted tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.judgments.measure import contrast, mean, measured, share
from verdictscope.judgments.solving import solve_to_judge
from verdictscope.probes.nulls import REFITS, permuted_measures
from verdictscope.probes.pair_tables import PLAIN, check_sides
from verdictscope.probes.sweep import DEFAULT_CS, RULE, Sweep, select
from verdictscope.probes.verdict_states import Pairs, VerdictStates, item_parts, mirrored_rows
from verdictscope.stats import auroc_effect, auroc_many, permutation_p

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    "kind", "condition", "name", "layer", "estimate", "low", "high", "n", "groups", "unit", "null_mean", "null_low",
    "null_high", "p", "about",
)  # fmt: skip
"""Columns of the table of correctness."""
CUES = "all cues"
"""The scope of all conditions that push, together."""
_MIRROR = "by a probe of the verdict"


@dataclass(frozen=True, eq=False)
class Correctness:
    """A probe of which answer is right, beside what the judge says.

    It shows whether the right answer can be read where the judge states the other; not that the judge could be brought
    to say it, and not that what is read is what a person would call knowledge.

    Attributes:
        sweep: the probe of the right answer: chosen on validation items of all conditions, fitted where nothing pushes.
        mirror: a probe of the verdict itself, fitted and chosen likewise.
        table: ``COLUMNS``: kind ``test`` (by condition), and ``layer`` (validation items, every layer at the chosen
            penalty).
        fitted_in: conditions whose train items were fitted.
        seed: of the draws.
    """

    sweep: Sweep
    mirror: Sweep
    table: pd.DataFrame
    fitted_in: tuple[str, ...]
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """Every number."""
        return self.table.copy()

    def score(self, ab: Float[ndarray, "*any d"], ba: Float[ndarray, "*any d"]) -> Float[ndarray, "*any"]:
        """Log-odds that A is right; exchanging the orders negates it exactly."""
        half = (np.asarray(ab, dtype=float) - np.asarray(ba, dtype=float)) / 2
        return half @ self.sweep.probe.direction_

    def plot(self) -> Figure:
        """Where the verdict is wrong: what the probe says, by condition and by layer."""
        from verdictscope.figures import correctness_figure

        return correctness_figure(self.table.assign(arm=""))

    def __str__(self) -> str:
        lines = [
            f"Correctness probe, fitted in {' and '.join(self.fitted_in)}: layer {self.sweep.layer}, "
            f"C {self.sweep.C:g} ({RULE})"
        ]
        for row in self.table[self.table["kind"] == "test"].itertuples():
            null = "" if row.null_mean != row.null_mean else (
                f"; permuted {row.null_mean:.3f} ({row.null_low:.3f} to {row.null_high:.3f}), p = {row.p:.2g}")
            number = f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}], n = {row.n}" if row.n else "no such item"
            lines.append(f"  {row.condition}, {row.name}: {number}{null}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        shown = self.table[self.table["kind"] == "test"].drop(columns=["kind", "layer", "about"])
        return (
            f"<p><b>Correctness probe</b>, layer {self.sweep.layer}</p>"
            f"{shown.to_html(index=False, float_format='{:.3f}'.format, na_rep='')}"
            "<p>It shows what can be read, not that the judge could be brought to say it.</p>"
        )


def correctness(
    states: VerdictStates,
    part: Mapping[str, str] | None = None,
    *,
    fitted_in: Sequence[str] | None = None,
    control: str | None = None,
    solved: Mapping[str, bool] | None = None,
    Cs: Sequence[float | int] = DEFAULT_CS,
    refits: int = REFITS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Correctness:
    """Probe which answer is right, and read it where the stated verdict is wrong.

    Args:
        states: states and verdicts in both orders, of conditions that push the verdict and of some that do not. Items
            without a better answer are left out.
        part: part of the split by item; made here if not given.
        fitted_in: conditions that push nowhere: by default those named ``plain`` and ``control``, else the first. A
            control sentence that names a side belongs among them: a probe that has never seen a side named reads the
            name.
        control: the condition that tells what a verdict would be without a cue; ``control``, else ``plain``.
        solved: by item whether the judge's own answer to the question was right, where it was asked.
        Cs: inverse penalties to choose from.
        refits: refits with labels permuted between items, each choosing anew.
        seed: of every draw.
        progress: called with layers done and in all.

    Raises:
        InputError: one order only; no item with a better answer, or one side only in a part.
    """
    known = states.conditions
    quiet = tuple(fitted_in or [c for c in ("plain", "control") if c in known] or known[:1])
    unknown = [c for c in (*quiet, *([control] if control else [])) if c not in known]
    if unknown:
        raise InputError(f"no verdict in condition {unknown[0]!r}: there are {', '.join(known)}")
    uncued = control or ("control" if "control" in known else quiet[0])
    part = item_parts(states, seed) if part is None else part
    pairs = states.pairs()
    pairs = pairs.where(pairs.table["label"].isin(["A", "B"]))
    if not len(pairs):
        raise InputError("no item has a better answer: correctness needs labels A and B")
    in_train = pairs.table["item"].map(dict(part)) == "train"
    pairs = pairs.where(~in_train | pairs.table["condition"].isin(quiet))
    right = (pairs.table["label"] == "A").to_numpy().astype(int)
    said = (pairs.table["content"] > 0).to_numpy().astype(int)
    rows = mirrored_rows(pairs, right, part)
    check_sides(rows, "the right answers")
    read = pairs.mirrored
    sweep = select(read, rows, states.layers, Cs, progress=progress, **PLAIN).test(read, rows)
    told = mirrored_rows(pairs, said, part)
    check_sides(told, "the verdicts")
    mirror = select(read, told, states.layers, Cs, **PLAIN).test(read, told)
    test = (rows["part"] == "test").to_numpy()[: len(pairs)]
    case = _Case.of(pairs.where(test), uncued, quiet)
    table = _tested(case, sweep, mirror, seed)
    _add_nulls(table, case, lambda measure: permuted_measures(
        read, rows, states.layers, Cs, measure, refits=refits, seed=seed, progress=progress, **PLAIN))  # fmt: skip
    if solved is not None:
        table = pd.concat([table, _solving(case, sweep, solved, quiet[0], seed)], ignore_index=True)
    held = (rows["part"] == "validation").to_numpy()[: len(pairs)]
    by_layer = _layers(_Case.of(pairs.where(held), uncued, quiet), sweep, mirror, seed)
    whole = pd.concat([table, by_layer], ignore_index=True).reindex(columns=list(COLUMNS))
    whole["layer"] = whole["layer"].fillna(sweep.layer).astype(int)
    return Correctness(sweep, mirror, whole, quiet, seed)


@dataclass(frozen=True, eq=False)
class _Case:
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
    def of(cls, pairs: Pairs, uncued: str, quiet: tuple[str, ...]) -> _Case:
        table = pairs.table
        right = (table["label"] == "A").to_numpy()
        averaged = (table["content"] > 0).to_numpy() == right
        hit = np.stack([(table[c] == table["label"]).astype(float).where(table[c].notna()).to_numpy(dtype=float)
                        for c in ("verdict_ab", "verdict_ba")])  # fmt: skip
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
        return self.pairs.table["group"].to_numpy()

    def correct(self, sweep: Sweep, layer: int | None = None) -> Bool[ndarray, " pair"]:
        at = sweep.layer if layer is None else layer
        return (self.pairs.content(at) @ sweep.selection.probes[at].direction_ > 0) == self.right

    def weights(self) -> dict[tuple[str, str], Float[ndarray, " pair"]]:
        """What each share is taken over, by condition and name: weight per pair."""
        found = {}
        for scope, at in self.scopes.items():
            found[scope, "right"] = at.astype(float)
            found[scope, "right where the verdict is wrong"] = (at & ~self.averaged).astype(float)
            found[scope, "right where a stated verdict is wrong"] = at * self.wrong_orders
            if (at & self.pushed).any():
                found[scope, "right where the cue turned the verdict"] = (at & self.pushed).astype(float)
        return found


def _tested(case: _Case, sweep: Sweep, mirror: Sweep, seed: int) -> pd.DataFrame:
    probe, shown, tables = case.correct(sweep), case.correct(mirror), []
    score = case.pairs.content(sweep.layer) @ sweep.probe.direction_
    for scope, at in case.scopes.items():
        wrong, turned = at & ~case.averaged, at & case.pushed
        where = "items where the verdict, averaged over the orders, is wrong"
        made = [
            share("right", probe, at, "the probe points to the right answer"),
            mean("right as stated", np.where(at, case.stated, np.nan), "rate", "stated verdicts, mean of both orders"),
            share("right as stated, orders averaged", case.averaged, at, "log-odds averaged over the orders"),
            mean("gap to stated", np.where(at, probe - case.stated, np.nan), "rate", "probe less stated, paired"),
            mean("gap to stated, orders averaged", np.where(at, probe * 1.0 - case.averaged, np.nan), "rate",
                 "probe less verdict averaged over the orders, paired: what both orders alone give is taken off"),
            share("right where the verdict is wrong", probe, wrong, where),
            share(f"right where the verdict is wrong, {_MIRROR}", shown, wrong, f"{where}; 0 for a mere mirror"),
        ]  # fmt: skip
        made.append(contrast("knows better than it says", made[-2], made[-1], "the difference of the two, paired"))
        if turned.any():
            what = "items that the cue turned from right to wrong"
            made += [share("right where the cue turned the verdict", probe, turned, what),
                     share(f"right where the cue turned the verdict, {_MIRROR}", shown, turned, what)]  # fmt: skip
        table = measured(made, case.groups, seed=seed)
        auroc = auroc_effect("AUROC", *_seen_twice(case.right[at], score[at], case.groups[at]))
        first = pd.DataFrame([{"name": "AUROC", "estimate": auroc.estimate, "low": auroc.low, "high": auroc.high,
                               "n": 2 * int(at.sum()), "groups": auroc.n, "unit": "AUROC",
                               "definition": "the right answer, pairs seen from both sides"}])  # fmt: skip
        tables.append(pd.concat([first, table, _stated_wrong(case, probe, at, seed)]).assign(condition=scope))
    return _told(pd.concat(tables, ignore_index=True), "test")


def _stated_wrong(case: _Case, probe: ndarray, at: ndarray, seed: int) -> pd.DataFrame:
    """Share by stated verdict, one order at a time: here the units are verdicts, not items."""
    orders = np.stack([case.pairs.table[c] != case.pairs.table["label"] for c in ("verdict_ab", "verdict_ba")])
    known = np.stack([case.pairs.table[c].notna() for c in ("verdict_ab", "verdict_ba")])
    wrong = (orders & known & at).ravel()
    about = "stated verdicts that are wrong, one order at a time; the probe sees both orders"
    made = [share("right where a stated verdict is wrong", np.tile(probe, 2), wrong, about)]
    return measured(made, np.tile(case.groups, 2), seed=seed)


def _seen_twice(right: ndarray, score: ndarray, groups: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    return np.r_[right, ~right].astype(int), np.r_[score, -score], np.r_[groups, groups]


def _add_nulls(table: pd.DataFrame, case: _Case, refit: Callable[[Any], ndarray]) -> None:
    """Beside every figure of the probe what refits with permuted labels give; a gap's is theirs less what is stated."""
    weights = case.weights()
    names = [*weights, *((scope, "AUROC") for scope in case.scopes)]
    W = np.stack(list(weights.values()), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        W = W / W.sum(axis=0)

    def measure(labels: ndarray, scores: ndarray) -> ndarray:
        half = scores.shape[1] // 2
        shares = ((scores[:, :half] > 0) == case.right) @ W
        aurocs = [auroc_many(labels[:, at], scores[:, at]) for at in (np.tile(s, 2) for s in case.scopes.values())]
        return np.concatenate([shares.T, np.stack(aurocs)])

    values = dict(zip(names, refit(measure).T, strict=True))
    at = table.set_index(["condition", "name"])["estimate"]
    for scope in case.scopes:
        for gap, stated in (("gap to stated", "right as stated"),
                            ("gap to stated, orders averaged", "right as stated, orders averaged")):  # fmt: skip
            values[scope, gap] = values[scope, "right"] - at[scope, stated]
    for (scope, name), drawn in values.items():
        null = drawn[1:][np.isfinite(drawn[1:])]
        where = (table["condition"] == scope) & (table["name"] == name)
        if not where.any() or not len(null):
            continue
        p = permutation_p(table.loc[where, "estimate"].iloc[0], drawn[1:])
        table.loc[where, ["null_mean", "null_low", "null_high", "p"]] = [null.mean(), null.min(), null.max(), p]


def _solving(case: _Case, sweep: Sweep, solved: Mapping[str, bool], condition: str, seed: int) -> pd.DataFrame:
    """S2J's gap (arXiv 2509.22099) for the stated verdict, and the same with the probe in its place."""
    at = case.scopes[condition]
    own = [solved.get(item) for item in case.pairs.table["item"][at]]
    told = {"stated, orders averaged": case.averaged[at], "probe": case.correct(sweep)[at]}
    found = [solve_to_judge(own, hits.astype(float), case.groups[at], seed=seed).query("name == 'solve_judge_gap'")
             .assign(name=f"wrong though solved, {name}") for name, hits in told.items()]  # fmt: skip
    return _told(pd.concat(found, ignore_index=True).assign(condition=condition), "test")


def _layers(case: _Case, sweep: Sweep, mirror: Sweep, seed: int) -> pd.DataFrame:
    """Validation items, every layer at the chosen penalty: what was looked at when the layer was chosen."""
    tables = []
    for layer in sorted(sweep.selection.probes):
        probe, shown = case.correct(sweep, layer), case.correct(mirror, layer)
        for scope, at in case.scopes.items():
            wrong = at & ~case.averaged
            name = "right where the verdict is wrong"
            made = [share("right", probe, at, "validation items"), share(name, probe, wrong, "validation items"),
                    share(f"{name}, {_MIRROR}", shown, wrong, "validation items")]  # fmt: skip
            tables.append(measured(made, case.groups, seed=seed).assign(condition=scope, layer=layer))
    return _told(pd.concat(tables, ignore_index=True), "layer")


def _told(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    return table.rename(columns={"definition": "about"}).assign(kind=kind)
