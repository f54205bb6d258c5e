"""How often a judge is right, says first, changes with the order and follows a cue: rates from its verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from verdictscope.judgments.metrics.bias import order_measures
from verdictscope.judgments.metrics.measure import Measure, measured, share
from verdictscope.judgments.verdicts import known, paired, same
from verdictscope.stats import mean_effect
from verdictscope.study.folder import RunFolder
from verdictscope.study.tasks.judge.generate import CONTROL, PLAIN

KEYS = ["variant", "thinking", "condition"]
OF_ORDERS = ("first_preference", "consistency")


def verdict_rates(run: RunFolder) -> pd.DataFrame:
    """Rates of every variant, way of thinking and condition over all items: nothing was chosen on them.

    Returns:
        ``variant thinking condition name estimate low high n unit verdicts missing definition``; ``n`` counts groups.
    """
    table = run.table("verdicts")
    seed, tables = run.study.seed, []
    for keys, rows in table.groupby(KEYS, sort=False):
        pairs = paired(rows)
        orders = [m for m in order_measures(pairs, verdicts=("A", "B")) if m.name in OF_ORDERS]
        found = [measured(_measures(rows), rows["group"], seed=seed), measured(orders, pairs.group, seed=seed)]
        tables += [part.assign(**dict(zip(KEYS, keys, strict=True))) for part in found]
    made = pd.concat(tables, ignore_index=True).rename(columns={"n": "verdicts", "groups": "n"})
    made = pd.concat([made, pd.DataFrame(_pulls(table, seed))], ignore_index=True)
    columns = [*KEYS, "name", "estimate", "low", "high", "n", "unit", "verdicts", "missing", "definition"]
    return made.loc[made["verdicts"] > 0, columns].reset_index(drop=True)


def _measures(rows: pd.DataFrame) -> list[Measure]:
    verdict, label, shown, target = (_texts(rows[c]) for c in ("verdict", "label", "shown", "target"))
    decided, read = np.isin(label, ["A", "B"]), known(verdict)
    made = [
        share(
            "accuracy",
            same(verdict, label),
            decided,
            "says the better answer, of items that have one; unread is not right",
        ),
        share(
            "first_in_ties",
            shown == "first",
            read & (label == "tie"),
            "says the answer shown first, of verdicts read on items whose answers are equally good",
        ),
        share("unread", ~read, np.ones(len(rows), dtype=bool), "no verdict could be read"),
    ]
    if known(target).any():
        wrong = decided & known(target) & (target != label)
        made += [
            share(
                "follows",
                same(verdict, target),
                read & known(target),
                "says the side that the sentence names, of verdicts read",
            ),
            share(
                "accuracy_named_wrong",
                same(verdict, label),
                wrong,
                "says the better answer where the sentence names the worse one; unread is not right",
            ),
        ]
    return made


def _texts(column: pd.Series) -> np.ndarray:
    return np.array([v if isinstance(v, str) else None for v in column], dtype=object)


def _pulls(table: pd.DataFrame, seed: int) -> Iterator[dict[str, Any]]:
    """How far the control sentence draws the log-odds towards the side it names, over nothing said: a cue's floor."""
    tiny = np.finfo(float).tiny
    read = table[table["probability"].notna()]
    odds = np.log(np.maximum(read["p_first"], tiny)) - np.log(np.maximum(read["p_second"], tiny))
    read = read.assign(odds=odds)
    at = ["item", "order"]
    for (variant, thinking), rows in read.groupby(["variant", "thinking"], sort=False):
        plain, control = (rows[rows["condition"] == c].set_index(at) for c in (PLAIN, CONTROL))
        both = control.join(plain["odds"], on=at, rsuffix="_plain", how="inner").reset_index()
        if both.empty:
            continue
        # The log-odds are of the answer shown first: a sentence that names it acts upwards.
        toward = np.where([o.startswith(t) for o, t in zip(both["order"], both["target"], strict=True)], 1.0, -1.0)
        pull = both.assign(pull=toward * (both["odds"] - both["odds_plain"])).groupby("item", sort=False)
        found = mean_effect("pull", pull["pull"].mean(), pull["group"].first(), unit="nats", seed=seed)
        yield {
            "variant": variant,
            "thinking": thinking,
            "condition": CONTROL,
            "name": "pull",
            "estimate": found.estimate,
            "low": found.low,
            "high": found.high,
            "n": found.n,
            "unit": "nats",
            "verdicts": len(both),
            "missing": 0,
            "definition": "control sentence minus nothing said, towards the side it names",
        }
