"""Cues: what a cue does to verdicts beyond the noise of repeats."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy import ndarray

from verdictscope.judgments.metrics.bias import repeat_measures
from verdictscope.judgments.metrics.measure import Measure, contrast, measured, share
from verdictscope.judgments.verdicts import known, one_case, same


@dataclass(frozen=True, eq=False)
class Cued:
    """Verdicts without and with a cue, in the item's own frame, a row per item."""

    group: ndarray
    control: ndarray
    cued: ndarray
    label: ndarray
    target: ndarray


def cued_of(rows: pd.DataFrame) -> tuple[Cued, ndarray]:
    """Control and cued verdicts of the same items side by side."""
    variants = {variant: rows[rows["variant"] == variant].set_index("item") for variant in ("control", "cued")}
    index = variants["control"].index.union(variants["cued"].index)
    about = rows.drop_duplicates("item").set_index("item").reindex(index)

    def column(name: str, source: pd.DataFrame) -> ndarray:
        values = source[name].reindex(index)
        return np.array([v if isinstance(v, str) else None for v in values], dtype=object)

    groups = about["group"].to_numpy(dtype=object)
    made = Cued(
        groups,
        column("verdict", variants["control"]),
        column("verdict", variants["cued"]),
        column("label", about),
        column("target", about),
    )
    return made, groups


def cue_measures(cued: Cued) -> list[Measure]:
    """Metrics of a cue: what it does to accuracy, how often the verdict moves, and whether it follows the cue.

    A flip is a changed verdict, also from one wrong answer to another (in earlier code "robust" meant the same letter
    in some files and the same correctness in others).
    """
    c, t, label = cued.control, cued.cued, cued.label
    one_case([*c, *t, *label, *cued.target])
    labelled, read = known(label), known(c) & known(t)
    right, right_cued, agree = same(c, label), same(t, label), same(c, t)
    before = share("accuracy_control", right, labelled, "right without the cue; unread is not right")
    after = share("accuracy_cued", right_cued, labelled, "right with the cue; unread is not right")
    both = read & labelled
    old = share("", right, both, "")
    new = share("", right_cued, both, "")
    made = [
        share("unread_control", ~known(c), np.ones(len(c), bool), "unread without the cue"),
        share("unread_cued", ~known(t), np.ones(len(c), bool), "unread with the cue"),
        before,
        after,
        contrast("accuracy_change", after, before, "with the cue minus without, same items"),
        old.named("accuracy_control_read", "right without the cue, of items read both times"),
        new.named("accuracy_cued_read", "right with the cue, of items read both times"),
        share("consistent_accuracy", right & right_cued, labelled, "right without and with the cue"),
        share("consistent_accuracy_read", right & right_cued, both, "the same, of items read both times"),
        share("flip_rate", ~agree, read, "verdict changes with the cue, read both times"),
        share("robust_rate", agree, read, "verdict stays, read both times"),
        share("harmful_flips", right & ~right_cued, both, "from right to wrong, of items read both times"),
        share("helpful_flips", ~right & right_cued, both, "from wrong to right"),
        share("neutral_flips", ~agree & ~right & ~right_cued, both, "from one wrong verdict to another"),
    ]
    aimed = known(cued.target)
    if aimed.any():
        one = share(
            "follow_rate_control", same(c, cued.target), aimed & read, "says what the cue will favour, before it does"
        )
        two = share("follow_rate", same(t, cued.target), aimed & read, "says what the cue favours")
        made += [one, two, contrast("follow_change", two, one, "follow rate with the cue minus without")]
    return made


def cue_table(rows: pd.DataFrame, how: dict[str, int]) -> pd.DataFrame:
    """Metrics of a cue over units (item, order); an item whose order the cue fixes differently is one unit.

    The control's first run is compared with the cued run. Where the control has further runs, the noise floor comes
    first and ``flip_excess`` is the flip rate minus it, over the same resamples.
    """
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
