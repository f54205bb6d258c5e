"""Hidden states where a judge's verdicts are read, and the frame in which a pair's two orders are one item.

An item shown in the orders AB and BA gives two states. Half their difference turns its sign when the answers are
exchanged: it holds *content*. Half their sum is unchanged: it holds *position* (and format, and the question). A
score that is linear in the first half alone, without an offset, is antisymmetric by construction: exchanging the sides
negates it exactly, and no preference for a place can enter it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from verdictscope.activations import BatchPlan, Model, Site, forward
from verdictscope.errors import InputError
from verdictscope.judgments import Judged
from verdictscope.judgments.contrasts import split_orders
from verdictscope.probes.rows import to_array
from verdictscope.probes.selection import ReadLayer
from verdictscope.probes.splits import split_groups

COLUMNS = ("rollout", "item", "group", "condition", "order", "label", "verdict", "shown", "log_odds")
"""Columns of the rows of :class:`VerdictStates`."""


@dataclass(frozen=True, eq=False)
class VerdictStates:
    """One state per verdict."""

    rows: pd.DataFrame
    layers: tuple[int, ...]
    read: ReadLayer
    site: str = "resid_post"
    positions: str = "last"

    def __post_init__(self) -> None:
        missing = [c for c in COLUMNS if c not in self.rows.columns]
        if missing:
            raise InputError(f"rows of verdicts lack {', '.join(missing)}")
        if not len(self.rows) or not self.layers:
            raise InputError("there is no verdict, or no layer, to read states at")
        if self.rows.duplicated(["item", "condition", "order"]).any():
            raise InputError("an item has several verdicts in one order and condition: take one run of the judge")

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions in the order of the rows."""
        return tuple(dict.fromkeys(self.rows["condition"]))

    def pairs(self, *conditions: str) -> Pairs:
        """Items read in both orders, a line per item and condition."""
        wanted = conditions or self.conditions
        unknown = [c for c in wanted if c not in self.conditions]
        if unknown:
            raise InputError(f"no verdict in condition {unknown[0]!r}: there are {', '.join(self.conditions)}")
        rows = self.rows.reset_index(drop=True)
        at = rows[rows["condition"].isin(wanted)].reset_index()
        both = at.pivot(index=["condition", "item"], columns="order", values="index")
        if not {"AB", "BA"} <= set(both.columns):
            raise InputError("an antisymmetric probe takes both orders: judge(..., orders=('AB', 'BA'))")
        both = both.dropna(subset=["AB", "BA"]).astype(int)
        if not len(both):
            raise InputError("an antisymmetric probe takes both orders, and no item was read in both")
        both = pd.concat([both.loc[[c]] for c in wanted if c in both.index.get_level_values(0)])
        ab, ba = rows.loc[both["AB"]].reset_index(drop=True), rows.loc[both["BA"]].reset_index(drop=True)
        content, position = split_orders(ab["log_odds"], ba["log_odds"])
        table = ab[["condition", "item", "group", "label"]].assign(
            agreed=ab["verdict"].where(ab["verdict"] == ba["verdict"], None),
            verdict_ab=ab["verdict"],
            verdict_ba=ba["verdict"],
            content=content,
            position=position,
        )
        return Pairs(table, both["AB"].to_numpy(), both["BA"].to_numpy(), self.read, len(rows))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Items in both orders.

    Attributes:
        table: per pair ``condition item group label agreed verdict_ab verdict_ba content position``: ``agreed`` is the
            verdict of both orders, missing where the order changed it; ``content`` the verdict's log-odds for A
            averaged over the orders, ``position`` for the answer shown first, nats.
        ab: row of the order AB.
        ba: row of the order BA.
        read: states of all rows by layer.
        n: number of those rows.
    """

    table: pd.DataFrame
    ab: Int[ndarray, " pair"]
    ba: Int[ndarray, " pair"]
    read: ReadLayer
    n: int

    def __len__(self) -> int:
        return len(self.table)

    def where(self, keep: Sequence[bool] | ndarray | pd.Series) -> Pairs:
        """The pairs to keep."""
        keep = np.asarray(keep, dtype=bool)
        return Pairs(self.table[keep].reset_index(drop=True), self.ab[keep], self.ba[keep], self.read, self.n)

    def states(self, layer: int) -> tuple[Float[ndarray, "pair d"], Float[ndarray, "pair d"]]:
        """States in the orders AB and BA."""
        X = to_array(self.read(layer), self.n, layer)
        return X[self.ab], X[self.ba]

    def content(self, layer: int) -> Float[ndarray, "pair d"]:
        """Half the difference AB less BA: towards A."""
        return split_orders(*self.states(layer))[0]

    def position(self, layer: int) -> Float[ndarray, "pair d"]:
        """Half the sum: what the order does not turn."""
        return split_orders(*self.states(layer))[1]

    def mirrored(self, layer: int) -> Float[ndarray, "two_pairs d"]:
        """Every pair seen from both sides: `content`, then the same negated; rows as :func:`mirrored_rows`."""
        half = self.content(layer)
        return np.concatenate([half, -half])


def mirrored_rows(pairs: Pairs, label: Any, part: Mapping[str, str]) -> pd.DataFrame:
    """The table for a probe in the antisymmetric frame: each pair twice, unchanged and with its sides exchanged.

    On such rows the offset of a fit vanishes, a constant score has AUROC 1/2, and every null of the room applies: a
    unit's two rows move together.
    """
    table, y = pairs.table, np.asarray(label, dtype=int)
    missing = sorted(set(table["item"]) - set(part))
    if missing:
        raise InputError(f"item {missing[0]!r} has no split: name train, validation or test for every item")
    name = table["condition"] + "/" + table["item"]
    made = [
        pd.DataFrame(
            {
                "rollout": name + end,
                "prompt": table["item"],
                "group": table["group"],
                "label": value,
                "part": table["item"].map(dict(part)),
                "condition": table["condition"],
                "turned": end == "/BA",
            }
        )
        for end, value in (("/AB", y), ("/BA", 1 - y))
    ]
    return pd.concat(made, ignore_index=True)


def item_parts(states: VerdictStates, seed: int = 0) -> dict[str, str]:
    """A split of the items by group, stratified by label, where the caller has none."""
    items = states.rows.drop_duplicates("item")
    split = split_groups(items["group"], items["label"].astype(str), seed=seed)
    return dict(zip(items["item"], split.loc[items["group"].astype(str)], strict=True))


def verdict_states(
    model: Model | Any,
    judged: Mapping[str, Judged],
    *,
    positions: str = "last",
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    run: int = 0,
    plan: BatchPlan | None = None,
    progress: Any = None,
) -> VerdictStates:
    """Read hidden states where verdicts are about to be given.

    Args:
        model: the judge.
        judged: condition -> its verdicts (`judge`); rollout ids must differ between conditions (`Judged.named`).
        positions: one token of each prefix: ``last`` (the token before the verdict's first), ``think_end[0]``, …
        site: where in the model.
        layers: layers to keep; all by default.
        run: which repeat.
        plan: which rollouts share a batch.
        progress: called with tokens done and in all.

    Returns:
        states of the model's own dtype, all layers in memory: rows x layers x d numbers.

    Raises:
        InputError: a rollout has no such position or several, ids repeat, or what `forward` raises.

    Example:
        >>> from verdictscope import judge, load_model
        >>> from verdictscope.judgments import load_items
        >>> from verdictscope.sources import locate
        >>> model = load_model("organism:judge")
        >>> items = load_items(locate("organism:judge/items.csv"), "pairs", limit=2).items
        >>> judged = judge(model, items, locate("organism:judge/format.toml"))
        >>> states = verdict_states(model, {"plain": judged})
        >>> states.rows[["order", "verdict"]].shape
        (4, 2)
    """
    tables, rollouts = [], []
    for condition, each in judged.items():
        table = each.verdicts[each.verdicts["run"] == run].assign(condition=condition)
        known = {r.id for r in each.rollouts}
        tables.append(table[table["rollout"].isin(known)])
        wanted = set(tables[-1]["rollout"])
        rollouts += [r for r in each.rollouts if r.id in wanted]
    if not rollouts:
        raise InputError("no verdict has a prefix to read: judge items first")
    where = Site(site, None if layers is None else tuple(layers)) @ positions
    result = forward(model, rollouts, read=[where], plan=plan, progress=progress)
    found, values = result.rows[where], result.values[where]
    if list(found["rollout"]) != [r.id for r in rollouts]:
        raise InputError(f"positions {positions!r} must name one token of every rollout: take last or SEGMENT[0]")
    numbers = where.site.at(model.n_layers)
    rows = pd.concat(tables).set_index("rollout").loc[found["rollout"]].reset_index()
    p = [np.maximum(rows[f"p_{side}"].to_numpy(dtype=float), 1e-300) for side in ("first", "second")]
    rows["log_odds"] = np.log(p[0]) - np.log(p[1])
    place = {layer: i for i, layer in enumerate(numbers)}
    return VerdictStates(rows[list(COLUMNS)], tuple(numbers), lambda layer: values[place[layer]], site, positions)
