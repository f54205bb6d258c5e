"""Permutation schemes: which labels may change places, whether they can, and what p-value follows.

A null is made by giving the labels to other rows in every way that would have been as likely if they had nothing to do
with what was measured. Rows of one prompt are alike, so whole groups exchange their labels, or labels change places
within a group. Which of the two it must be depends on the design. Where every group holds the same labels (one true and
one false statement of each fact), exchanging them between groups gives the real labels back, and the "null" is the
observed number. So each scheme is checked before a number is made of it: how many relabelings there are, and how far
they lie from the real labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy import ndarray
from scipy.special import gammaln

from verdictscope.errors import InputError
from verdictscope.stats.bootstrap import Column
from verdictscope.stats.columns import group_names, same_order

Scheme = Literal["auto", "between", "within", "both", "rows"]
"""``between``: whole groups exchange their labels (as whole vectors, between groups of one size; where every group has
one label, between groups of any size). ``within``: labels change places inside each group; with one row of each label
these are sign flips. ``both``: one after the other. ``rows``: every row is a group of its own. ``auto``: chosen from
the design."""

FEWEST = 20
"""Relabelings needed for a p-value of .05."""
_STUCK, _MUCH = 0.9, 0.5  # agreement with the real labels beyond chance: nearly those labels; more than is needed
_ALIKE = 0.25  # agreement above which `auto` also permutes within groups


@dataclass(frozen=True, eq=False)
class Permutation:
    """Labels, and the places they may take.

    Attributes:
        scheme: ``between``, ``within``, ``both`` or ``rows``.
        labels: code of the real label of every row.
        classes: what the codes stand for.
        units: number of groups.
        relabelings: number of distinct relabelings, the real one among them (infinity beyond 1e300).
        kept: mean agreement of a relabeling with the real labels beyond that of shuffled rows: 0 where nothing of the
            real labels is left, 1 where the draws are the real labels. The p-value is right whatever it is; where it is
            large (few groups share a size) the range of the null lies near the real number and the test has less power.
        smallest_p: the least p-value that so many relabelings allow.
    """

    scheme: str
    labels: Int[ndarray, " row"]
    classes: tuple[Hashable, ...]
    units: int
    relabelings: float
    kept: float
    smallest_p: float
    _pools: list[list[ndarray]] = field(repr=False)
    _turned: Int[ndarray, " row"] | None = field(default=None, repr=False)

    def draw(self, rng: np.random.Generator) -> ndarray:
        """One relabeling, ``[row]``, in the classes of the real labels."""
        return np.asarray(self.classes)[self._draw(rng)]

    def draws(self, n: int, rng: np.random.Generator) -> ndarray:
        """Relabelings one after the other, ``[draw row]``."""
        if n < 1:
            raise InputError(f"{n} relabelings make no null: ask for at least 19, better 200")
        return np.asarray(self.classes)[np.stack([self._draw(rng) for _ in range(n)])]

    def _draw(self, rng: np.random.Generator) -> Int[ndarray, " row"]:
        labels = self.labels if self._turned is None else self.labels ^ self._turned
        out = labels.copy()
        if self.scheme != "within":
            for pool in self._exchanging:
                order = rng.permutation(len(pool))
                if isinstance(pool, ndarray):
                    out[pool] = labels[pool[order]]
                    continue
                first = labels[[unit[0] for unit in pool]][order]  # groups of one label each
                out[np.concatenate(pool)] = np.repeat(first, [len(unit) for unit in pool])
        if self.scheme in ("within", "both"):
            for at in self._inside:
                moved = rng.random(at.shape).argsort(axis=1)
                out[at] = np.take_along_axis(out[at], moved, axis=1)
        return out if self._turned is None else out ^ self._turned

    @cached_property
    def _exchanging(self) -> list[list[ndarray] | Int[ndarray, "unit row"]]:
        return [np.stack(pool) if len({len(unit) for unit in pool}) == 1 else pool for pool in self._pools]

    @cached_property
    def _inside(self) -> list[Int[ndarray, "unit row"]]:
        found: dict[int, list[ndarray]] = {}
        for pool in self._pools:
            for unit in pool:
                found.setdefault(len(unit), []).append(unit)
        return [np.stack(units) for size, units in sorted(found.items()) if size > 1]

    def __repr__(self) -> str:
        how = {
            "between": "exchanged between groups",
            "within": "permuted within groups",
            "both": "exchanged between groups of one size and permuted within them",
            "rows": "permuted",
        }
        return (
            f"Permutation: labels of {len(self.labels)} rows in {self.units} groups {how[self.scheme]}, "
            f"{self.relabelings:.3g} relabelings, {self.kept:.0%} of the real labels kept beyond chance"
        )


def permutation_of(
    labels: Column,
    groups: Column | None = None,
    *,
    strata: Column | None = None,
    scheme: Scheme = "auto",
    turned: Column | None = None,
    symmetric: bool = False,
    unit: str = "group",
) -> Permutation:
    """Choose the permutation scheme of a design, or check the one asked for.

    ``auto`` takes ``between`` where every group has one label; ``within`` where all groups of a stratum hold the same
    labels, several of them (matched groups); ``between`` where groups have one size and exchanging their label vectors
    moves the labels; else ``both``, which is right for any sizes and mixtures.
    """
    same_order(labels=labels, groups=groups, strata=strata, turned=turned)
    side = None if turned is None else np.asarray(turned).astype(int)
    design = _Design.of(labels, groups, strata, side, unit)
    if scheme not in ("auto", "between", "within", "both", "rows"):
        raise InputError(f"no permutation scheme {scheme!r}: there are auto, between, within, both, rows")
    if scheme == "rows" and design.longest > 1:
        raise InputError(f"rows of one {unit} are not independent: permute with scheme='{design.chosen()}'")
    wanted = design.chosen() if scheme == "auto" else scheme
    reason = design.refusal(wanted, symmetric)
    if reason:
        others = [s for s in ("between", "within", "both") if s != wanted and not design.refusal(s, symmetric)]
        best = design.chosen()
        named = best if best in others else others[0] if others else ""
        advice = f"use scheme={named!r}" if named else f"add {unit}s of either label"
        raise InputError(f"{reason}; {advice}")
    count = design.count(wanted)
    return Permutation(
        wanted,
        design.codes if side is None else design.codes ^ side,
        design.classes,
        len(design.units),
        count,
        design.kept(wanted),
        design.smallest(wanted, symmetric),
        design.pools(wanted),
        side,
    )


@dataclass(frozen=True, eq=False)
class _Design:
    """Label codes, and the rows of every group by stratum, both in sorted order."""

    codes: Int[ndarray, " row"]
    classes: tuple[Hashable, ...]
    strata: list[list[ndarray]]
    unit: str

    @classmethod
    def of(
        cls, labels: Column, groups: Column | None, strata: Column | None, side: ndarray | None, unit: str
    ) -> _Design:
        y = pd.Series(np.asarray(labels))
        g = np.arange(len(y)) if groups is None else group_names(groups, unit)
        s = np.zeros(len(y), int) if strata is None else np.asarray(strata, dtype=object).astype(str)
        for name, values in ((f"{unit}s", groups), ("strata", strata)):
            if values is not None and len(values) != len(y):
                raise InputError(f"{len(values)} {name} for {len(y)} labels")
        if strata is not None and pd.isna(np.asarray(strata, dtype=object)).any():
            raise InputError("a row has no stratum: it cannot be permuted")
        if y.isna().any():
            raise InputError(f"{int(y.isna().sum())} of {len(y)} labels are missing: drop these rows")
        codes, classes = pd.factorize(y, sort=True)
        if len(classes) < 2:
            raise InputError(f"all labels are {classes[0]}: nothing to permute" if len(y) else "no labels to permute")
        if side is not None:
            if len(classes) != 2 or side.shape != codes.shape:
                raise InputError("turned rows need two labels, and a truth for every row")
            codes = codes ^ side
        table = pd.DataFrame({"unit": g, "stratum": s})
        pairs = table.drop_duplicates()
        twice = pairs["unit"][pairs["unit"].duplicated()]
        if len(twice):
            raise InputError(f"{unit} {twice.iloc[0]!r} stands in two strata (two parts, or two values of `within`)")
        found = [
            [members.index.to_numpy() for _, members in pool.groupby("unit", sort=True)]
            for _, pool in table.groupby("stratum", sort=True)
        ]
        return cls(codes, tuple(np.asarray(classes).tolist()), found, unit)

    @cached_property
    def units(self) -> list[ndarray]:
        return [unit for pool in self.strata for unit in pool]

    @cached_property
    def longest(self) -> int:
        return max(map(len, self.units))

    @cached_property
    def one_class(self) -> bool:
        return all((self.codes[unit] == self.codes[unit[0]]).all() for unit in self.units)

    def chosen(self) -> Scheme:
        if self.longest == 1:
            return "rows"
        if self.one_class:
            return "between"
        if all(len({self._held(unit) for unit in pool}) == 1 for pool in self.strata):
            return "within"
        even = all(len({len(unit) for unit in pool}) == 1 for pool in self.strata)
        return "between" if even and self.kept("between") <= _ALIKE and self.count("between") >= FEWEST else "both"

    def pools(self, scheme: str) -> list[list[ndarray]]:
        """Groups that exchange: all of a stratum where each has one label, else those of one size."""
        if self.one_class or scheme == "within":
            return self.strata
        found = []
        for pool in self.strata:
            by_size: dict[int, list[ndarray]] = {}
            for unit in pool:
                by_size.setdefault(len(unit), []).append(unit)
            found += [by_size[size] for size in sorted(by_size)]
        return found

    def _held(self, unit: ndarray) -> tuple[int, ...]:
        return tuple(np.sort(self.codes[unit]).tolist())

    def _moving(self, unit: ndarray, scheme: str) -> tuple[int, ...]:
        """What of a group moves as one: its one label, its labels in order, or (both) whatever their order."""
        if self.one_class:
            return (int(self.codes[unit[0]]),)
        return self._held(unit) if scheme == "both" else tuple(self.codes[unit].tolist())

    def count(self, scheme: str) -> float:
        """Distinct relabelings, the real one among them."""
        log = 0.0
        for pool in self.pools(scheme):
            if scheme != "within":
                log += _log_orders(Counter(self._moving(unit, scheme) for unit in pool).values())
            if scheme in ("within", "both"):
                log += sum(_log_orders(np.bincount(self.codes[unit]).tolist()) for unit in pool)
        return float(np.rint(np.exp(log))) if log < 30 else float(np.exp(log)) if log < 690 else float("inf")

    def smallest(self, scheme: str, symmetric: bool) -> float:
        return min(1.0, (2 if symmetric and self._turns(scheme) else 1) / self.count(scheme))

    def _turns(self, scheme: str) -> bool:
        """Whether the labels with both classes exchanged are one of the relabelings."""
        if len(self.classes) != 2:
            return False
        for pool in self.pools(scheme):
            if scheme == "within":
                if any(2 * self.codes[unit].sum() != len(unit) for unit in pool):
                    return False
                continue
            held = Counter(self._moving(unit, scheme) for unit in pool)
            turned: Counter[tuple[int, ...]] = Counter()
            for labels, n in held.items():
                other = tuple(1 - v for v in labels)
                turned[tuple(sorted(other)) if scheme == "both" else other] += n
            if held != turned:
                return False
        return True

    def kept(self, scheme: str) -> float:
        """Agreement of relabelings with the real labels beyond that of rows shuffled within their strata."""
        n, classes = len(self.codes), len(self.classes)
        shuffled = sum(
            len(rows) * _chance(self.codes[rows], classes) for rows in (np.concatenate(pool) for pool in self.strata)
        )
        agree = 0.0
        for pool in self.pools(scheme):
            if scheme == "within":
                agree += sum(len(unit) * _chance(self.codes[unit], classes) for unit in pool)
            elif self.one_class:
                share = np.bincount([self.codes[unit[0]] for unit in pool], minlength=classes) / len(pool)
                agree += sum(len(unit) * share[self.codes[unit[0]]] for unit in pool)
            elif scheme == "both":
                rows = np.concatenate(pool)
                agree += len(rows) * _chance(self.codes[rows], classes)
            else:
                place = self.codes[np.stack(pool)]
                agree += sum(len(pool) * _chance(column, classes) for column in place.T)
        return float((agree - shuffled) / (n - shuffled)) if n - shuffled > 1e-9 else 1.0

    def refusal(self, scheme: str, symmetric: bool) -> str:
        """Why a scheme makes no null; empty where it does."""
        u = f"{self.unit}s"
        how = {
            "between": f"exchanging labels between {u}",
            "within": f"permuting labels within {u}",
            "both": f"permuting labels between and within {u}",
            "rows": "permuting rows",
        }[scheme]
        count, kept = self.count(scheme), self.kept(scheme)
        if count < 1.5:
            why = f"no {self.unit} holds two labels" if scheme == "within" else f"every {self.unit} holds the same ones"
            if scheme != "within" and len(self.units) == len(self.strata):
                why = f"there is one {self.unit} to a part or stratum"
            return f"{how} gives the real labels back ({why})"
        better = min([kept, *(self.kept(s) for s in ("between", "within", "both") if self.count(s) >= FEWEST)])
        if kept > _STUCK or kept > _MUCH > 2 * better:
            return f"{how} leaves the labels nearly as they are ({kept:.0%} kept beyond chance)"
        least = self.smallest(scheme, symmetric)
        if least > 1 / FEWEST:
            return f"{how} has {count:.0f} relabelings of {len(self.units)} {u}: no p can fall below {least:.2g}"
        return ""


def _log_orders(counts: Iterable[int]) -> float:
    """Log of the number of orders of things of which so many are alike."""
    n = np.array(list(counts), dtype=float)
    return float(gammaln(n.sum() + 1) - gammaln(n + 1).sum())


def _chance(codes: ndarray, classes: int) -> float:
    """Probability that two rows drawn with replacement agree."""
    share = np.bincount(codes, minlength=classes) / len(codes)
    return float((share**2).sum())
