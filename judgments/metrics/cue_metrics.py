"""Figures of a cue study: what a cue does beyond the noise of repeats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from verdictscope.errors import InputError
from verdictscope.judgments.metrics.bias import cue_measures, cued_of, repeat_measures
from verdictscope.judgments.metrics.measure import Measure, contrast, measured
from verdictscope.judgments.metrics.summary import CALIBRATION, JudgeMetrics, framed
from verdictscope.judgments.verdicts import check_verdicts, one_vocabulary
from verdictscope.stats import RESAMPLES
from verdictscope.values import whole_number


def cue_metrics(table: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> JudgeMetrics:
    """Figures of a cue study: what a cue does beyond the noise of repeats, by judge, cue and side.

    A unit is an item in an order: the control's first run against the cued run. Where the control has further runs, the
    noise floor stands first and ``flip_excess`` is the flip rate minus it, over the same resamples.
    """
    if "variant" not in table:
        raise InputError("the table has no column variant: it needs control and cued verdicts of the same items")
    whole_number(resamples, "resamples"), whole_number(seed, "seed")
    rows = check_verdicts(table, key=[])
    one_vocabulary(rows["verdict"], rows["label"])
    absent_variants = {"control", "cued"} - set(rows["variant"])
    if absent_variants:
        raise InputError(f"the table has no {' and no '.join(sorted(absent_variants))} verdicts: a cue needs both")
    how = {"resamples": resamples, "seed": seed}
    made = []
    if "part" not in rows:
        rows["part"] = "cue"
    for (judge, cue), own in rows.groupby(["judge", "part"], sort=False):
        sides = [str(s) for s in dict.fromkeys(own["toward"]) if isinstance(s, str)] if "toward" in own else []
        for part, chosen in [(str(cue), own), *((f"{cue}, toward the {s}", _side(own, s)) for s in sides)]:
            made.append(framed(part, str(judge), _cue_study(chosen, how)))
    counts = {
        "rows": len(table),
        "items": int(rows["item"].nunique()),
        "groups": int(rows["group"].nunique()),
        "verdicts": len(rows),
        "problems": {},
        "status": {str(k): int(v) for k, v in rows["status"].value_counts().items()},
    }
    problems = pd.DataFrame(columns=["row", "id", "kind", "used", "detail"])
    return JudgeMetrics(
        pd.concat(made, ignore_index=True),
        counts,
        problems,
        pd.DataFrame(columns=list(CALIBRATION)),
        (),
        {"log": "cues", **how},
    )


def _side(own: pd.DataFrame, side: str) -> pd.DataFrame:
    """The units whose cue speaks for one side, their control runs with them."""
    units = own.loc[(own["toward"] == side) & (own["variant"] == "cued"), "item"]
    return own[own["item"].isin(set(units))]


def _cue_study(rows: pd.DataFrame, how: dict[str, int]) -> pd.DataFrame:
    """A study's figures over (item, order); an item whose order the cue fixes differently is one unit."""
    rows = rows[rows["variant"].isin(["control", "cued"])].sort_values(["item", "order", "run"], kind="stable")
    orders = rows.groupby(["item", "variant"])["order"].agg(frozenset).unstack("variant")
    moved = set(orders.index[(orders["control"] != orders["cued"]).to_numpy()])
    unit = [i if i in moved else f"{i} {o}" for i, o in zip(rows["item"], rows["order"], strict=True)]
    rows = rows.assign(item=unit)
    if "target" not in rows:
        rows["target"] = None
    first = rows[rows["run"] == rows.groupby(["item", "variant"])["run"].transform("min")]
    first = first.drop_duplicates(["item", "variant"])
    cued, groups = cued_of(first)
    measures = cue_measures(cued)
    control = rows[rows["variant"] == "control"]
    floor, prompts = repeat_measures(control.assign(order=""))
    if floor[0].parts is None or not floor[0].used.any():
        return pd.concat([measured(floor[:1], prompts, **how), measured(measures, groups, **how)], ignore_index=True)
    # the floor's units are the control's, in the order of their names, as the others'
    noise = dict(zip(sorted(set(control["item"])), range(len(prompts)), strict=True))
    at = [noise.get(i) for i in sorted(set(first["item"]))]
    aligned = [_aligned(m, at) for m in floor]
    flips = next(m for m in measures if m.name == "flip_rate")
    words = "flip rate with the cue minus the rate at which two runs of the control differ"
    return measured([*aligned, contrast("flip_excess", flips, aligned[0], words), *measures], groups, **how)


def _aligned(measure: Measure, at: list[int | None]) -> Measure:
    """A measure's units in another order; a unit it does not have is missing."""
    assert measure.parts is not None
    parts = np.stack([np.zeros(measure.parts.shape[1]) if k is None else measure.parts[k] for k in at])
    used = np.array([k is not None and bool(measure.used[k]) for k in at])
    return replace(measure, parts=parts, used=used)
