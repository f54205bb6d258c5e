"""Labels exchanged between prompts: all rollouts and token rows of a prompt move together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.rows import Rows, prompt_of


@dataclass(frozen=True)
class Exchange:
    """Units with their rollouts, in pools within which labels are exchanged.

    Attributes:
        label: the real label of every rollout.
        pools: per pool the rollouts of each of its units.
    """

    label: Int[ndarray, " rollout"]
    pools: list[list[ndarray]]  # units of one table may differ in size

    @classmethod
    def of(cls, rows: pd.DataFrame, checked: Rows, unit: str, within: Sequence[str]) -> Exchange:
        """The units of a table, one pool per part and value of the columns ``within``.

        Args:
            rows: the table; a ``prompt`` column, or ``PROMPT/SAMPLE`` rollout ids, name the prompts.
            checked: the same table, checked.
            unit: column of the unit that moves as one.
            within: columns within whose values labels are exchanged.

        Raises:
            InputError: a column is missing, or a unit stands in two pools.
        """
        missing = [c for c in within if c not in rows.columns]
        if unit not in rows.columns and unit != "prompt":
            missing.append(unit)
        if missing:
            raise InputError(f"rows lack {', '.join(missing)}; name columns of the table")
        _, first = np.unique(checked.rollout, return_index=True)
        names = rows[unit].iloc[first].astype(str) if unit in rows.columns else prompt_of(checked.rollout_ids)
        table = pd.DataFrame({"unit": np.asarray(names, dtype=object), "part": checked.part[first]})
        table["pool"] = table["part"]
        for column in within:
            table["pool"] += "|" + rows[column].iloc[first].astype(str).to_numpy()
        split = table.drop_duplicates(["unit", "pool"])["unit"]
        if split.duplicated().any():
            raise InputError(f"{unit} {split[split.duplicated()].iloc[0]!r} has two parts or two values of `within`")
        pools = [
            [members.index.to_numpy() for _, members in pool.groupby("unit", sort=True)]
            for _, pool in table.groupby("pool", sort=True)
        ]
        return cls(checked.label[first], pools)

    def permuted(self, rng: np.random.Generator) -> Int[ndarray, " rollout"]:
        """New labels by rollout: every unit takes over the labels of a random unit of its pool."""
        out = self.label.copy()
        for pool in self.pools:
            order = rng.permutation(len(pool))
            if len({len(unit) for unit in pool}) == 1:  # nothing to wind around: all units at once
                units = np.stack(pool)
                out[units] = self.label[units[order]]
                continue
            for taker, giver in zip(pool, order, strict=True):
                given = self.label[pool[giver]]
                if len(given) != len(taker):
                    given = np.resize(np.roll(given, -int(rng.integers(len(given)))), len(taker))
                out[taker] = given
        return out
