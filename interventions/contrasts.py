"""From rollouts to items: what a judge's verdict owes to content, to position, or to a cue.

A verdict's log-odds of the answer shown first against the one shown second, x in the order AB and y in BA, have two
parts: ``(x - y) / 2`` turns round with the answers and is *content*; ``(x + y) / 2`` stays and is *position* (or
format). What a cue does is cued minus control, towards the side it names. All of these are weighted sums over an item's
rollouts, and so are their changes under an edit and their shares by head: one object applies to all three.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.interventions.attribution import Attribution
from verdictscope.interventions.effects import Effects
from verdictscope.judgments import Judged
from verdictscope.rollouts import Rollout


@dataclass(frozen=True)
class Contrast:
    """A weighted sum over rollouts, one per item.

    Attributes:
        name: of what it measures.
        items: ids.
        groups: resampling unit of every item.
        rollouts: per item the ids of its rollouts.
        weights: per item their weights.
    """

    name: str
    items: tuple[str, ...]
    groups: tuple[str, ...]
    rollouts: tuple[tuple[str, ...], ...]
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.items:
            raise InputError(f"no item has all the rollouts that {self.name} is made of: judge them in both orders")

    def __neg__(self) -> Contrast:
        """The same measured the other way round."""
        return replace(self, weights=tuple(tuple(-w for w in weights) for weights in self.weights))

    def among(self, items: Collection[str]) -> Contrast:
        """The same over some of its items.

        Raises:
            InputError: none of them is in it.
        """
        kept = [k for k, item in enumerate(self.items) if item in items]
        if not kept:
            raise InputError(f"none of the {len(items)} items asked for is in {self.name}")
        parts = ([column[k] for k in kept] for column in (self.items, self.groups, self.rollouts, self.weights))
        return Contrast(self.name, *(tuple(part) for part in parts))

    def of(self, values: Float[ndarray, "*any rollout"], rollouts: Sequence[str]) -> Float[ndarray, "*any item"]:
        """The sums, from values per rollout.

        Raises:
            InputError: a rollout is missing or occurs twice.
        """
        at = {name: i for i, name in enumerate(rollouts)}
        if len(at) != len(rollouts):
            raise InputError("a rollout has several values: read the verdict at one position")
        missing = next((r for rs in self.rollouts for r in rs if r not in at), None)
        if missing is not None:
            raise InputError(f"{self.name} needs rollout {missing}, which was not measured")
        mixed = np.zeros((len(rollouts), len(self.items)))
        for item, (names, weights) in enumerate(zip(self.rollouts, self.weights, strict=True)):
            for name, weight in zip(names, weights, strict=True):
                mixed[at[name], item] += weight
        return values @ mixed

    def effects(self, effects: Effects) -> Effects:
        """Effects on it, one row per item."""
        return replace(
            effects,
            rollouts=self.items,
            groups=self.groups,
            base=self.of(effects.base, effects.rollouts),
            edited=self.of(effects.edited, effects.rollouts),
        )

    def attribution(self, attribution: Attribution) -> Attribution:
        """What every component adds to it; the columns are items, the rows' ``rollout`` is the item."""
        names = list(attribution.rows["rollout"])
        return replace(
            attribution,
            readout=f"{self.name} part of {attribution.readout}",
            shares=self.of(attribution.shares, names),
            logit=self.of(attribution.logit, names),
            groups=self.groups,
            rows=pd.DataFrame({"rollout": self.items, "pos": -1}),
            sources=None,
        )


def order_contrasts(judged: Judged, run: int = 0) -> dict[str, Contrast]:
    """Content and position of items judged in both orders.

    Args:
        judged: verdicts of pairs.
        run: which repeat.

    Returns:
        ``position``: towards the answer shown first, every item. ``content``: towards the better answer, items with one
        (A or B) only.

    Raises:
        InputError: no item was read in both orders.
    """
    table = _read(judged, run)
    both = table.pivot(index="item", columns="order", values="rollout")
    if not {"AB", "BA"} <= set(both.columns):
        raise InputError("content and position take both orders: judge_items(..., orders=('AB', 'BA'))")
    both = both.dropna(subset=["AB", "BA"])
    facts = table.drop_duplicates("item").set_index("item").loc[both.index]
    sign = facts["label"].map({"A": 1.0, "B": -1.0})
    decided = sign.notna().to_numpy()

    def made(name: str, chosen: ndarray, weights: Sequence[tuple[float, float]]) -> Contrast:
        rows = both[chosen]
        return Contrast(
            name,
            tuple(rows.index),
            tuple(facts.loc[rows.index, "group"]),
            tuple(zip(rows["AB"], rows["BA"], strict=True)),
            tuple(weights),
        )

    every = np.ones(len(both), dtype=bool)
    return {
        "position": made("position", every, [(0.5, 0.5)] * len(both)),
        "content": made("content", decided, [(s / 2, -s / 2) for s in sign[decided]]),
    }


def cue_contrast(name: str, control: Judged, cued: Judged, targets: Mapping[str, str], run: int = 0) -> Contrast:
    """What a cue does to the verdict: cued minus control, towards the side it names, over the orders both were read in.

    Args:
        name: of the cue.
        control: verdicts under the control.
        cued: verdicts under the cue.
        targets: item to the side named, in the item's own frame (A or B).
        run: which repeat.
    """
    tables = [_read(j, run).set_index(["item", "order"]) for j in (control, cued)]
    shared = tables[0].index.intersection(tables[1].index)
    found: dict[str, tuple[list[str], list[float]]] = {}
    for item, order in shared:
        # x is the log-odds of the answer shown first: named first, the cue acts upwards.
        toward = 1.0 if order.startswith(targets[item]) else -1.0
        names, weights = found.setdefault(item, ([], []))
        names += [tables[1]["rollout"].loc[item, order], tables[0]["rollout"].loc[item, order]]
        weights += [toward, -toward]
    groups = tables[0].reset_index().drop_duplicates("item").set_index("item")["group"]
    return Contrast(
        name,
        tuple(found),
        tuple(groups.loc[list(found)]),
        tuple(tuple(names) for names, _ in found.values()),
        tuple(tuple(2 * w / len(weights) for w in weights) for _, weights in found.values()),
    )


def verdict_rollouts(*judged: Judged) -> list[Rollout]:
    """The prefixes of all verdicts that have a probability, ready for ``effects`` and ``attribute`` at ``last``."""
    return [rollout for each in judged for rollout in each.rollouts]


def _read(judged: Judged, run: int) -> pd.DataFrame:
    known = {rollout.id for rollout in judged.rollouts}
    table = judged.verdicts[judged.verdicts["run"] == run]
    return table[table["rollout"].isin(known)]
