"""Controls of the cliff: nulls, other normalisers, the published statistic, change points, and exclusions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, SupportsFloat, SupportsInt

import numpy as np
import pandas as pd

from verdictscope.errors import InputError
from verdictscope.rollouts import Forcer, Rollout
from verdictscope.stats import Effect, mean_effect
from verdictscope.study.folder import RunFolder
from verdictscope.study.tasks.outcome import outcome_task
from verdictscope.traces import (
    Normaliser,
    change_points,
    cliff,
    commitment,
    commitment_gap,
    drop_difference,
    exchange_null,
    shift_null,
)
from verdictscope.traces.aggregate import as_published
from verdictscope.traces.commitment import commitment_time, forced_readings, probe_readings, text_readings
from verdictscope.traces.normaliser import windows

COLUMNS = ["check", "variant", "cell", "name", "estimate", "low", "high", "n", "unit", "p", "about"]
MOST = 64
"""Rollouts, in the order of the prompts, whose change points and settling times are looked for."""

Row = dict[str, Any]


def write_checks(run: RunFolder, test: pd.DataFrame, normaliser: Normaliser) -> None:
    """Write ``cliff_checks.parquet``, ``change_points.parquet`` and ``commitment.parquet``.

    Args:
        run: the run.
        test: aligned scores of the test part of every unedited variant, with ``variant cell target``.
        normaliser: the run's normaliser.
    """
    rows = list(_left_out(test, normaliser.m))
    base = test[test["variant"] == "base"]
    hero = base[base["target"] & base["outcome"].eq(False).fillna(False).astype(bool)]
    changes, times = change_points([]), commitment(_no_readings(), [])
    if len(hero):
        rows += [*_exchanged(base, hero, normaliser, run.study.seed), *_turned(hero, normaliser.m, run.study.seed)]
        rows += [*_other_normaliser(run, hero), *_published(hero)]
        rollouts = run.rollouts()
        some = [rollouts[i] for i in list(dict.fromkeys(hero["rollout"]))[:MOST]]
        changes = _changes(hero, some, run.study.seed)
        times, more = _settled(run, hero, some, rollouts)
        rows += [*_change_rows(changes, some, run.study.seed), *more]
    table = pd.DataFrame(rows, columns=COLUMNS)
    run.write("cliff_checks", table.astype({"p": float, "about": object}))
    run.write("change_points", changes)
    run.write("commitment", times)


def _row(
    check: str,
    cell: str,
    name: str,
    estimate: SupportsFloat,
    n: SupportsInt,
    unit: str,
    variant: str = "base",
    **more: Any,
) -> Row:
    return {
        "check": check,
        "variant": variant,
        "cell": cell,
        "name": name,
        "estimate": float(estimate),
        "n": int(n),
    } | ({"low": np.nan, "high": np.nan, "unit": unit, "p": np.nan, "about": ""} | more)


def _effect(check: str, cell: str, effect: Effect, about: str = "") -> Row:
    more: dict[str, Any] = {"low": effect.low, "high": effect.high, "about": about}
    return _row(check, cell, effect.name, effect.estimate, effect.n, effect.unit, **more)


def _left_out(test: pd.DataFrame, m: int) -> Iterator[Row]:
    """Rollouts that have no plateau or no end, by variant and cell, so that nobody is dropped unseen."""
    for (variant, cell), own in test.groupby(["variant", "cell"], sort=False):
        table = windows(own, m).table
        for reason, n in table["reason"].replace("", "measured").value_counts().items():
            yield _row("counted", str(cell), str(reason), n, len(table), "rollouts", variant=str(variant))


def _exchanged(base: pd.DataFrame, hero: pd.DataFrame, normaliser: Normaliser, seed: int) -> Iterator[Row]:
    """The headline's drop against every other cell's: whole prompts exchanged, or paired where both hold the same."""
    asked = cliff(hero, normaliser, name="headline")
    others = base[~base["rollout"].isin(set(hero["rollout"]))]
    for cell, own in others.groupby("cell", sort=True):
        other = cliff(own, normaliser, name=str(cell))
        shared = set(asked.table["group"]) & set(other.table["group"])
        if shared:
            name = f"normalised drop minus that of {cell}, paired by prompt"
            difference = drop_difference(asked, other, name=name)
            yield _effect("paired", str(cell), difference, f"{len(shared)} prompts stand in both")
            continue
        for kind, unit in (("normalised", "normalised"), ("raw", "logit")):
            name = f"{kind} drop minus that of {cell}"
            try:
                found = exchange_null(asked, other, value=f"{kind}_drop", name=name, seed=seed)
            except InputError as error:
                yield _row("exchange", str(cell), name, np.nan, 0, unit, about=str(error))
                continue
            null = found.to_row()
            about = f"null {null['null_low']:.3g} to {null['null_high']:.3g}"
            yield _row("exchange", str(cell), found.name, found.estimate, found.n, unit, p=found.p, about=about)


def _turned(hero: pd.DataFrame, m: int, seed: int) -> Iterator[Row]:
    """The headline's raw drop against that at other positions of the same rollouts."""
    name, cell = "raw drop against other places", str(hero["cell"].iloc[0])
    try:
        found = shift_null(hero, m, name=name, seed=seed)
    except InputError as error:
        yield _row("shift", cell, name, np.nan, 0, "logit", about=str(error))
        return
    null = found.to_row()
    about = f"null {null['null_low']:.3g} to {null['null_high']:.3g}; a raw drop alone is no cliff"
    yield _row("shift", cell, found.name, found.estimate, found.n, "logit", p=found.p, about=about)


def _other_normaliser(run: RunFolder, hero: pd.DataFrame) -> Iterator[Row]:
    """The headline read by normaliser that were fitted on one kind of refusal, and the other kind read by the same."""
    labels = run.labels()
    trace = run.table("trace")
    base = trace[trace["variant"] == "base"]
    train = labels[labels["part"] == "train"]
    cells = outcome_task(run.study).cells
    complied = train["rollout"][train["cell"] == cells[False, False]]
    with_factor, without = cells[True, True], cells[False, True]
    for kind, other in ((with_factor, without), (without, with_factor)):
        refused = train["rollout"][train["cell"] == kind]
        fitted = Normaliser.fit(base, list(complied), list(refused), m=run.study.trace.plateau, seed=run.study.seed)
        read = {str(hero["cell"].iloc[0]): list(dict.fromkeys(hero["rollout"]))}
        read[other] = list(labels["rollout"][(labels["part"] == "test") & (labels["cell"] == other)])
        for cell, ids in read.items():
            found = cliff(base, fitted, rollouts=ids, name=cell, seed=run.study.seed)
            for name in ("normalised_plateau", "normalised_final", "normalised_drop"):
                yield _effect(f"normaliser from {kind}", cell, found[name], found.reason)


def _published(hero: pd.DataFrame) -> Iterator[Row]:
    """The published curve's own plateau and end, and how much of its mean at the start is padding."""
    before = hero[(hero["rel_answer"] < 0).fillna(False).astype(bool)]
    if before.empty:
        return
    curve, cell = as_published(hero), str(hero["cell"].iloc[0])
    n = before["group"].nunique()
    peak, last = curve.loc[curve["score"].idxmax()], curve.iloc[-1]
    about = f"zero-padded mean; its peak is at {peak['percent']:.0f} %, where {peak['share_padding']:.0%} is padding"
    yield _row("as published", cell, "highest of the curve", peak["score"], n, "probability", about=about)
    yield _row("as published", cell, "end of the curve", last["score"], n, "probability")
    yield _row("as published", cell, "drop of the curve", peak["score"] - last["score"], n, "probability", about=about)
    share = curve["share_padding"].mean()
    yield _row("as published", cell, "share of the curve that is padding", share, n, "share")


def _changes(hero: pd.DataFrame, rollouts: list[Rollout], seed: int) -> pd.DataFrame:
    """Where each rollout's score changes most, from the start of thinking to the answer."""
    rows = hero[hero["segment"].isin(["thinking", "think_end"]) & (hero["rel_answer"] < 0).fillna(False).astype(bool)]
    by_id = {str(i): own.sort_values("pos") for i, own in rows.groupby("rollout", sort=False)}
    used = [r.id for r in rollouts if r.id in by_id]
    found = change_points([(i, by_id[i]["score"].to_numpy(dtype=float)) for i in used], seed=seed)
    to_end = [int(by_id[i]["rel_think_end"].iloc[0]) if by_id[i]["rel_think_end"].notna().all() else None for i in used]
    first = pd.array(to_end, dtype="Int64")
    table = found.rename(columns={"name": "rollout"})
    for name in ("location", "low", "high"):
        table[f"{name}_rel_think_end"] = table[name] + first
    return table


def _change_rows(changes: pd.DataFrame, rollouts: list[Rollout], seed: int) -> Iterator[Row]:
    """How often the change lies in the closing tokens, and how large it is."""
    group = {r.id: r.group for r in rollouts}
    found = changes[changes["location_rel_think_end"].notna()] if len(changes) else changes
    if found.empty:
        return
    groups = found["rollout"].map(group)
    inside = (found["location_rel_think_end"] >= 0).astype(float)
    cell = "headline"
    about = f"{len(changes) - len(found)} rollouts without one, {int((found['drift'] > 0).sum())} with drifting levels"
    share = mean_effect("change lies in the closing tokens", inside, groups, unit="share", seed=seed)
    size = mean_effect("size of the change", found["size"].astype(float), groups, unit="logit", seed=seed)
    yield _effect("change point", cell, share, about)
    yield _effect("change point", cell, size, about)


def _settled(
    run: RunFolder, hero: pd.DataFrame, some: list[Rollout], rollouts: dict[str, Rollout]
) -> tuple[pd.DataFrame, list[Row]]:
    """When the probe, a text classifier and the model itself (its thinking closed early) settle; and the gaps."""
    readings: list[pd.DataFrame] = [probe_readings(hero, some)]
    why: dict[str, str] = {}
    for reader, read in (("text", _read_text), ("forced", _read_forced)):
        try:
            readings.append(read(run, some, rollouts))
        except InputError as error:  # one outcome to train on, no thinking to close: noted, and the run goes on
            why[reader] = str(error)
    times = commitment(pd.concat(readings, ignore_index=True), some)
    seed, rows = run.study.seed, []
    for reader in ("probe", "text", "forced"):
        own = times[times["reader"] == reader]
        left = own["reason"][own["reason"] != ""].value_counts()
        about = why.get(reader, "") or _counts(left.to_dict())
        rows.append(_effect("commitment", "headline", commitment_time(times, reader, seed=seed), about))
    for first, second in (("probe", "text"), ("probe", "forced"), ("forced", "text")):
        gap, reasons = commitment_gap(times, first, second, seed=seed)
        about = why.get(first, "") or why.get(second, "") or _counts(reasons)
        rows.append(_effect("commitment", "headline", gap, about))
    return times, rows


def _read_text(run: RunFolder, some: list[Rollout], rollouts: dict[str, Rollout]) -> pd.DataFrame:
    """A text classifier, fitted on the training split."""
    labels = run.labels()
    train = labels[(labels["part"] == "train") & labels["outcome"].notna()]
    outcome = {str(i): bool(v) for i, v in zip(train["rollout"], train["outcome"], strict=True)}
    return text_readings(list(rollouts.values()), run.model().tokenizer, outcome, [r.id for r in some])


def _read_forced(run: RunFolder, some: list[Rollout], _: dict[str, Rollout]) -> pd.DataFrame:
    """The model's own answer where its thinking is closed early."""
    model, readout = run.model(), run.decision()
    with run.ticking("trace: thinking closed early"):
        return forced_readings(model, some, readout, Forcer(model.tokenizer), plan_tokens=run.study.batch_tokens)


def _counts(left: Mapping[str, int]) -> str:
    return "; ".join(f"{n} {reason}" for reason, n in left.items())


def _no_readings() -> pd.DataFrame:
    return pd.DataFrame({c: pd.Series(dtype=object) for c in ("rollout", "group", "reader", "place", "score")})
