"""Contrasts: weighted sums over rollouts, one number per item.

A study's decision is compared between rollouts by contrasts. A refusal study has one, the mean over target requests. A
judge's log-odds of the answer shown first against the one shown second, x in the order AB and y in BA, have an
order-antisymmetric component ``(x - y) / 2`` (*content*, signed towards the better answer) and an order-symmetric one
``(x + y) / 2`` (*position*); the effect of a cue is cued minus control, signed towards the answer the cue names. The
same weights apply to a score at any token, to the change under an edit and to the direct logit attribution of a head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.judgments.judging import Judged
from verdictscope.rollouts import Rollout

CONTENT = "content"
POSITION = "position"

CONTRAST_COLUMNS = ("contrast", "item", "group", "rollout", "weight")

Values = TypeVar("Values", ndarray, pd.Series)


@dataclass(frozen=True)
class Contrast:
    """A weighted sum over rollouts, one per item.

    Attributes:
        name: of the quantity it measures.
        items: ids.
        groups: resampling unit of every item.
        rollouts: per item the ids of its rollouts.
        weights: per item their weights.

    Example:
        >>> import numpy as np
        >>> position = Contrast("position", ("q1",), ("q1",), (("q1/AB", "q1/BA"),), ((0.5, 0.5),))
        >>> position.of(np.array([1.0, 2.0]), ["q1/AB", "q1/BA"])
        array([1.5])
    """

    name: str
    items: tuple[str, ...]
    groups: tuple[str, ...]
    rollouts: tuple[tuple[str, ...], ...]
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.items:
            raise InputError(f"no item has all the rollouts that contrast {self.name!r} needs: judge both orders")

    def __neg__(self) -> Contrast:
        """The contrast with the opposite sign."""
        return replace(self, weights=tuple(tuple(-w for w in weights) for weights in self.weights))

    def among(self, items: Collection[str]) -> Contrast:
        """The contrast over some of its items.

        Raises:
            InputError: none of them is in it.
        """
        kept = [k for k, item in enumerate(self.items) if item in items]
        if not kept:
            raise InputError(f"none of the {len(items)} items asked for is in contrast {self.name!r}")
        own: list[Any] = [tuple(c[k] for k in kept) for c in (self.items, self.groups, self.rollouts, self.weights)]
        return Contrast(self.name, *own)

    def of(self, values: Float[ndarray, "*any rollout"], rollouts: Sequence[str]) -> Float[ndarray, "*any item"]:
        """The sums, from values per rollout.

        Args:
            values: the last axis is the rollouts.
            rollouts: their ids, in order.

        Raises:
            InputError: a rollout is missing or occurs twice.
        """
        at = {name: i for i, name in enumerate(rollouts)}
        if len(at) != len(rollouts):
            raise InputError("a rollout has several values: read the decision at one position")
        missing = next((r for rs in self.rollouts for r in rs if r not in at), None)
        if missing is not None:
            raise InputError(f"contrast {self.name!r} needs rollout {missing}, which was not measured")
        matrix = np.zeros((len(rollouts), len(self.items)))
        for item, (names, weights) in enumerate(zip(self.rollouts, self.weights, strict=True)):
            for name, weight in zip(names, weights, strict=True):
                matrix[at[name], item] += weight
        return values @ matrix

    def to_frame(self) -> pd.DataFrame:
        """``contrast item group rollout weight``, one row per item and rollout."""
        rows = [
            (self.name, item, group, name, weight)
            for item, group, names, weights in zip(self.items, self.groups, self.rollouts, self.weights, strict=True)
            for name, weight in zip(names, weights, strict=True)
        ]
        return pd.DataFrame(rows, columns=list(CONTRAST_COLUMNS))


def mean_contrast(rollouts: Iterable[Rollout], name: str = "mean") -> Contrast:
    """The mean over rollouts: every rollout is an item of its own, with weight one.

    Args:
        rollouts: for example the target requests that were complied with.
        name: of the contrast.

    Raises:
        InputError: there are no rollouts.

    Example:
        >>> from verdictscope.rollouts import Rollout, Span
        >>> mean_contrast([Rollout("r0", "prompt 0", (5, 6), (Span("user", 0, 2),), 2)]).weights
        ((1.0,),)
    """
    rollouts = list(rollouts)
    if not rollouts:
        raise InputError("a contrast needs at least one rollout")
    ids = tuple(r.id for r in rollouts)
    return Contrast(name, ids, tuple(r.group for r in rollouts), tuple((i,) for i in ids), ((1.0,),) * len(ids))


def split_orders(ab: Values, ba: Values) -> tuple[Values, Values]:
    """The order-antisymmetric and the order-symmetric component of values of the orders AB and BA.

    Args:
        ab: scores or hidden states in the order AB.
        ba: the same items in the order BA.

    Returns:
        ``(ab - ba) / 2``, the content (of scores: towards the answer A), and ``(ab + ba) / 2``, the position.

    Example:
        >>> import numpy as np
        >>> split_orders(np.array([3.0]), np.array([-1.0]))
        (array([2.]), array([1.]))
    """
    return (ab - ba) / 2, (ab + ba) / 2


def order_contrasts(verdicts: Judged | pd.DataFrame, run: int = 0) -> dict[str, Contrast]:
    """Content and position of items judged in both orders.

    Args:
        verdicts: of pairs; of a `Judged` the verdicts that have a probability, of a table (``item group order run label
            rollout``) every row.
        run: which repeat.

    Returns:
        ``position``: towards the answer shown first, every item. ``content``: towards the better answer, items with one
        (label A or B); left out where no item has one.

    Raises:
        InputError: columns are missing, or no item was judged in both orders.

    Example:
        >>> import pandas as pd
        >>> rows = [("q", "q", "AB", 0, "A", "q/AB"), ("q", "q", "BA", 0, "A", "q/BA")]
        >>> table = pd.DataFrame(rows, columns=["item", "group", "order", "run", "label", "rollout"])
        >>> order_contrasts(table)["content"].weights
        ((0.5, -0.5),)
    """
    table = _one_run(verdicts, run)
    both = table.pivot(index="item", columns="order", values="rollout").reindex(columns=["AB", "BA"]).dropna()
    if both.empty:
        raise InputError("content and position take both orders: judge(..., orders=('AB', 'BA'))")
    facts = table.drop_duplicates("item").set_index("item").loc[both.index]
    sign = facts["label"].map({"A": 1.0, "B": -1.0}).astype(float)

    def contrast(name: str, rows: pd.DataFrame, weights: Iterable[tuple[float, float]]) -> Contrast:
        groups = tuple(facts.loc[rows.index, "group"])
        return Contrast(
            name, tuple(rows.index), groups, tuple(zip(rows["AB"], rows["BA"], strict=True)), tuple(weights)
        )

    found = {POSITION: contrast(POSITION, both, [(0.5, 0.5)] * len(both))}
    if sign.notna().any():
        found[CONTENT] = contrast(CONTENT, both[sign.notna()], [(s / 2, -s / 2) for s in sign.dropna()])
    return found


def cue_contrast(
    name: str, control: Judged | pd.DataFrame, cued: Judged | pd.DataFrame, targets: Mapping[str, str], run: int = 0
) -> Contrast:
    """The effect of a cue: cued minus control, towards the answer it names, mean over the orders judged under both.

    Args:
        name: of the cue.
        control: verdicts under the control, as for `order_contrasts`; rollout ids differ from those of ``cued``.
        cued: verdicts under the cue.
        targets: item to the answer named, in the item's own frame (A or B); items without one are left out.
        run: which repeat.

    Raises:
        InputError: columns are missing, or no item was judged under both in one order.

    Example:
        >>> import pandas as pd
        >>> columns = ["item", "group", "order", "run", "label", "rollout"]
        >>> plain = pd.DataFrame([("q", "q", "AB", 0, "A", "plain/q")], columns=columns)
        >>> crowd = plain.assign(rollout="crowd/q")
        >>> cue_contrast("crowd", plain, crowd, {"q": "B"}).weights
        ((-1.0, 1.0),)
    """
    tables = [_one_run(verdicts, run).set_index(["item", "order"]) for verdicts in (control, cued)]
    found: dict[str, tuple[list[str], list[float]]] = {}
    for item, order in tables[0].index.intersection(tables[1].index):
        if item not in targets:
            continue
        # The log-odds are those of the answer shown first: where the cue names it, the cue raises them.
        toward = 1.0 if order.startswith(targets[item]) else -1.0
        names, weights = found.setdefault(item, ([], []))
        names += [tables[1]["rollout"].loc[item, order], tables[0]["rollout"].loc[item, order]]
        weights += [toward, -toward]
    if not found:
        raise InputError(f"no item was judged under both cue {name!r} and its control: judge the same items under both")
    groups = tables[0].reset_index().drop_duplicates("item").set_index("item")["group"]
    return Contrast(
        name,
        tuple(found),
        tuple(groups.loc[list(found)]),
        tuple(tuple(names) for names, _ in found.values()),
        tuple(tuple(2 * w / len(weights) for w in weights) for _, weights in found.values()),
    )


def _one_run(verdicts: Judged | pd.DataFrame, run: int) -> pd.DataFrame:
    table = verdicts.verdicts if isinstance(verdicts, Judged) else verdicts
    missing = [c for c in ("item", "group", "order", "run", "label", "rollout") if c not in table]
    if missing:
        raise InputError(f"the verdicts lack {', '.join(missing)}; give the table of judge")
    table = table[(table["run"] == run) & table["order"].isin(["AB", "BA"])]
    return table[table["rollout"].isin({r.id for r in verdicts.rollouts})] if isinstance(verdicts, Judged) else table
