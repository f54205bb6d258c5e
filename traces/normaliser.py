"""The normalised score: 0 is the mean of complied training rollouts at the same aligned position, 1 of refused ones.

A raw drop at the end of thinking is no evidence by itself, because every decision sharpens there. The normalised score
(s - c_t) / (r_t - c_t) compares a rollout with the means c_t of complied and r_t of refused rollouts at one position.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.stats import RESAMPLES, draw_clusters, group_names, percentile_interval
from verdictscope.traces.aggregate import WRITTEN
from verdictscope.traces.landmarks import one_readout
from verdictscope.values import truths

FINAL = "rel_answer"
WINDOW = "rel_think_end"

KINDS = ("complied", "refused")

_NUMBERS: dict[str, type] = {"rel": int, "n_complied": int, "n_refused": int}
_NUMBERS |= dict.fromkeys(("complied", "refused", "gap", "low", "high"), float)
_COLUMNS = ("on", "rel", "complied", "refused", "gap", "low", "high", "n_complied", "n_refused", "reason")


@dataclass(frozen=True, eq=False)
class Windows:
    """The last thinking tokens and the last template token of every rollout that has them."""

    table: pd.DataFrame
    window: Float[ndarray, "rollout m"]
    final: Float[ndarray, " rollout"]
    maximum: Float[ndarray, " rollout"]
    rollout: ndarray
    group: ndarray

    @property
    def left_out(self) -> dict[str, int]:
        """How many rollouts were left out, by reason."""
        reasons = self.table["reason"]
        return {str(k): int(v) for k, v in reasons[reasons != ""].value_counts(sort=False).items()}


def windows(aligned: pd.DataFrame, m: int) -> Windows:
    """Cut the windows; truncated rollouts and those with fewer than m thinking tokens are counted and left out."""
    if m < 1:
        raise InputError(f"m = {m}: the plateau needs at least one thinking token")
    rows = one_readout(aligned)
    each = rows.groupby("rollout", sort=True).agg(
        group=("group", "first"),
        finish=("finish", "first"),
        n_thinking=("n_thinking", "first"),
        closed=(WINDOW, lambda s: s.notna().any()),
    )
    short = f"fewer than {m} thinking tokens"
    each["reason"] = np.select(
        [each["finish"].eq("length"), ~each["closed"].astype(bool), each["n_thinking"] < m],
        ["truncated", "no end of thinking", short],
        "",
    )
    used = each.index[each["reason"] == ""]
    rows = rows[rows["rollout"].isin(used)]
    thinking = rows[rows["segment"].eq("thinking")]
    near = thinking[thinking[WINDOW].between(-m, -1).fillna(False).astype(bool)]
    last = rows[rows[FINAL].eq(-1).fillna(False).astype(bool)]
    cut = near.assign(at=near[WINDOW].astype(int)).pivot(index="rollout", columns="at", values="score")
    cut = cut.reindex(index=used, columns=range(-m, 0)).astype(float)
    final = last.set_index("rollout")["score"].reindex(used).astype(float)
    unscored = cut.isna().any(axis=1) | final.isna()
    if unscored.any():
        raise InputError(
            f"rollout {unscored.idxmax()!r}: its last {m} thinking tokens or last template token were not scored; "
            "score every position (positions='all')"
        )
    maximum = thinking.groupby("rollout")["score"].max().reindex(used).astype(float)
    table = each.reset_index()[["rollout", "group", "n_thinking", "reason"]]
    return Windows(
        table,
        cut.to_numpy(),
        final.to_numpy(),
        maximum.to_numpy(),
        used.to_numpy(dtype=object),
        group_names(each.loc[used, "group"]),
    )


@dataclass(frozen=True, eq=False)
class Normaliser:
    """Mean scores of complied and refused rollouts of the training split, by aligned position.

    Attributes:
        table: ``on rel complied refused gap low high n_complied n_refused reason``: low and high bound the gap
            refused - complied; reason says why a position cannot be normalised, empty where it can.
        m: number of last thinking tokens of the plateau.
        groups: prompt groups the normaliser rest on.
        resamples: bootstrap resamples.
        seed: seed of the draws.

    Example:
        >>> import pandas as pd
        >>> from verdictscope.traces.planted import planted_scores
        >>> complied, refused = planted_scores("c", 12, -1.0, -1.0), planted_scores("r", 12, 2.0, 2.0)
        >>> cells = set(complied["rollout"]), set(refused["rollout"])
        >>> normaliser = Normaliser.fit(pd.concat([complied, refused]), *cells, m=4)
        >>> float(normaliser.score(planted_scores("x", 1, 0.5, 0.5))["normalised"].iloc[0])
        0.5
    """

    table: pd.DataFrame
    m: int
    groups: frozenset[str]
    resamples: int
    seed: int
    _sums: Float[ndarray, "kind group position"] = field(repr=False)
    _counts: Float[ndarray, "kind group position"] = field(repr=False)
    _names: tuple[str, ...] = field(repr=False)

    @classmethod
    def fit(
        cls,
        aligned: pd.DataFrame,
        complied: Collection[str],
        refused: Collection[str],
        *,
        m: int = 8,
        window: tuple[int, int] = (-40, 8),
        min_rollouts: int = 10,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> Normaliser:
        """Fit the normaliser on rollouts of the training split.

        Args:
            aligned: from `align`, one readout and layer, of the model under study.
            complied: ids of harmless rollouts that were complied with: their mean becomes 0.
            refused: ids of refused rollouts: their mean becomes 1. `normaliser_rollouts` gives both.
            m: number of last thinking tokens of the plateau, fixed beforehand.
            window: positions around the end of thinking to normalise for curves; the last m are always among them.
            min_rollouts: fewest rollouts of each kind at a position.
            resamples: bootstrap resamples of the training groups.
            seed: seed of the draws.

        Raises:
            InputError: a rollout is of both kinds, or was not scored.
        """
        kinds = [frozenset(map(str, complied)), frozenset(map(str, refused))]
        if kinds[0] & kinds[1]:
            raise InputError(f"rollout {min(kinds[0] & kinds[1])!r} is given as complied and as refused")
        absent = (kinds[0] | kinds[1]) - set(aligned["rollout"].astype(str))
        if absent:
            raise InputError(f"rollout {min(absent)!r} of the normaliser has no scores; score the training split too")
        own = aligned[aligned["rollout"].isin(kinds[0] | kinds[1])]
        usable = set(windows(own, m).rollout)
        places = [(WINDOW, t) for t in range(min(window[0], -m), max(window[1], -1) + 1)] + [(FINAL, -1)]
        rows = _placed(own[own["rollout"].isin(usable)], places)
        names = tuple(sorted(set(group_names(rows["group"]))))
        sums, counts = np.zeros((2, len(names), len(places))), np.zeros((2, len(names), len(places)))
        kind = rows["rollout"].isin(kinds[1]).to_numpy(dtype=int)
        index = kind, np.searchsorted(names, group_names(rows["group"])), rows["place"].to_numpy(dtype=int)
        np.add.at(sums, index, rows["score"].to_numpy(dtype=float))
        np.add.at(counts, index, 1.0)
        table = _position_table(places, sums, counts, names, min_rollouts, resamples, seed)
        return cls(table, m, frozenset(names), resamples, seed, sums, counts, names)

    @cached_property
    def plateau_columns(self) -> list[int]:
        """Rows of ``table`` for those of the last m thinking tokens that can be normalised, earliest first."""
        at = self.table["rel"].between(-self.m, -1) & self.table["on"].eq(WINDOW) & self.table["reason"].eq("")
        return [int(i) for i in np.flatnonzero(at)]

    @property
    def plateau_tokens(self) -> list[int]:
        """The same tokens as places 0 to m - 1 in a rollout's window."""
        return [int(t) + self.m for t in self.table["rel"].iloc[self.plateau_columns]]

    @property
    def final_column(self) -> int:
        """Row of ``table`` for the last template token."""
        return len(self.table) - 1

    @property
    def plateau_reason(self) -> str:
        """Why the plateau cannot be normalised, empty if at least half of its m positions can."""
        at = self.table["rel"].between(-self.m, -1) & self.table["on"].eq(WINDOW)
        bad = self.table[at & self.table["reason"].ne("")]
        if 2 * len(bad) <= self.m:
            return ""
        last = bad.iloc[-1]
        return (
            f"cannot normalise the plateau: {len(bad)} of its {self.m} positions, such as {WINDOW} {last['rel']}: "
            f"{last['reason']}"
        )

    @property
    def final_reason(self) -> str:
        """Why the last template token cannot be normalised, empty if it can."""
        reason = self.table["reason"].iloc[self.final_column]
        return f"cannot normalise the final token: {reason}" if reason else ""

    @property
    def reason(self) -> str:
        """Why there is no normalised drop, empty where there is."""
        return "; ".join(r for r in (self.plateau_reason, self.final_reason) if r)

    @property
    def groups_by_kind(self) -> int:
        """Prompt groups of the kind that has fewer, over all positions."""
        return int((self._counts.sum(axis=2) > 0).sum(axis=1).min())

    @cached_property
    def draws(self) -> tuple[Float[ndarray, "resample position"], Float[ndarray, "resample position"]]:
        """Complied means and gaps in every resample of the training groups; the same for every cell measured."""
        return _resampled_means(self._sums, self._counts, self._names, self.resamples, self.seed)

    def score(self, aligned: pd.DataFrame) -> pd.DataFrame:
        """Add ``normalised``: (s - c_t) / (r_t - c_t), NaN at positions without a normaliser and from the answer on.

        The band `aggregate` draws around it takes the normaliser as known; `cliff` does not.
        """
        rows = one_readout(aligned)
        places = list(zip(self.table["on"], self.table["rel"], strict=True))
        at = _placed(rows, [p for p in places if p[0] == WINDOW])
        fine = self.table["reason"].eq("").to_numpy()
        column = at["place"].to_numpy(dtype=int)
        c, gap = self.table["complied"].to_numpy()[column], self.table["gap"].to_numpy()[column]
        normalised = np.where(fine[column], (at["score"].to_numpy(dtype=float) - c) / gap, np.nan)
        return aligned.assign(normalised=pd.Series(normalised, index=at.index).reindex(aligned.index))

    def to_frame(self) -> pd.DataFrame:
        """The table of positions."""
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers for JSON; `from_dict` gives the same normaliser, bit for bit."""
        rows = self.table.astype(object).where(self.table.notna(), None)
        return {
            "m": self.m,
            "resamples": self.resamples,
            "seed": self.seed,
            "groups": list(self._names),
            "sums": self._sums.tolist(),
            "counts": self._counts.astype(int).tolist(),
            "positions": {str(c): rows[c].tolist() for c in rows.columns},
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Normaliser:
        """A normaliser that `to_dict` wrote.

        Raises:
            InputError: an entry is missing or has the wrong shape.
        """
        try:
            table = pd.DataFrame({c: saved["positions"][c] for c in _COLUMNS}).astype(_NUMBERS)
            names, shape = tuple(map(str, saved["groups"])), (2, len(saved["groups"]), len(table))
            sums, counts = (np.array(saved[k], dtype=float).reshape(shape) for k in ("sums", "counts"))
            settings = int(saved["m"]), int(saved["resamples"]), int(saved["seed"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is no saved normaliser ({type(error).__name__}: {error}); fit it again") from error
        m, resamples, seed = settings
        return cls(table, m, frozenset(names), resamples, seed, sums, counts, names)

    def same_as(self, other: Normaliser) -> bool:
        """Whether two normalisers give the same numbers, for example one of them read from a file."""
        mine, its = self.__dict__, other.__dict__
        plain = all(mine[k] == its[k] for k in ("m", "resamples", "seed", "_names"))
        return plain and all(np.array_equal(mine[k], its[k]) for k in ("_sums", "_counts"))

    def __repr__(self) -> str:
        final = self.table.iloc[self.final_column]
        state = self.reason or f"{len(self.plateau_columns)} of {self.m} plateau positions and the final one fitted"
        return (
            f"Normaliser: {final['n_complied']} complied and {final['n_refused']} refused rollouts in "
            f"{len(self.groups)} groups; {state}"
        )


def normaliser_of(
    complied: Windows, refused: Windows, *, m: int, min_rollouts: int = 10, resamples: int = RESAMPLES, seed: int = 0
) -> Normaliser:
    """Normaliser of windows that are cut already, for the plateau and the final token alone."""
    places = [*((WINDOW, t) for t in range(-m, 0)), (FINAL, -1)]
    names = tuple(sorted({*map(str, complied.group), *map(str, refused.group)}))
    sums, counts = np.zeros((2, len(names), m + 1)), np.zeros((2, len(names), m + 1))
    for kind, cut in enumerate((complied, refused)):
        at = np.searchsorted(names, cut.group.astype(str))
        np.add.at(sums[kind], at, np.column_stack([cut.window, cut.final]))
        np.add.at(counts[kind], at, 1.0)
    table = _position_table(places, sums, counts, names, min_rollouts, resamples, seed)
    return Normaliser(table, m, frozenset(names), resamples, seed, sums, counts, names)


def normaliser_rollouts(
    labels: pd.DataFrame, part: str | Sequence[str] = "train"
) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of harmless-complied and of refused rollouts of a part (``labels``: ``rollout part harm refused``).

    A probe fitted on few prompts separates its own training rollouts too widely; then the validation split is better.
    """
    missing = [c for c in ("rollout", "part", "harm", "refused") if c not in labels.columns]
    if missing:
        raise InputError(f"labels lack {', '.join(missing)}")
    parts = [part] if isinstance(part, str) else list(part)
    if absent := [p for p in parts or [""] if p not in set(labels["part"])]:
        known = ", ".join(map(str, labels["part"].unique()))
        raise InputError(f"no rollout is of the part {absent[0]!r}: parts are {known}")
    rows = labels[labels["part"].isin(parts)]
    names = [f"rollout {name!r}" for name in rows["rollout"]]
    verdict, harm = truths(rows["refused"], "refused", names), truths(rows["harm"], "harm", names, gaps=False)
    refused = verdict.fillna(False).astype(bool)
    complied = ~verdict.fillna(True).astype(bool) & ~harm.astype(bool)
    return frozenset(rows["rollout"][complied].astype(str)), frozenset(rows["rollout"][refused].astype(str))


def _placed(rows: pd.DataFrame, places: list[tuple[str, Any]]) -> pd.DataFrame:
    """Rows at one of the places, with ``place`` the place's index; none from the answer on or of the prompt."""
    before = rows[(rows[FINAL] < 0).fillna(False).astype(bool) & rows["score"].notna()]
    parts = []
    for on, of in ((WINDOW, before[before["segment"].isin(WRITTEN)]), (FINAL, before)):
        index = {int(t): i for i, (o, t) in enumerate(places) if o == on}
        place = of[on].map(index).astype(float).fillna(-1).astype(int)
        parts.append(of.assign(place=place)[place >= 0])
    return pd.concat(parts)


def _resampled_means(
    sums: ndarray, counts: ndarray, names: tuple[str, ...], resamples: int, seed: int
) -> tuple[ndarray, ndarray]:
    drawn = draw_clusters(np.array(names, dtype=object), resamples, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        complied, refused = ((drawn.counts @ sums[k]) / (drawn.counts @ counts[k]) for k in (0, 1))
    return complied, refused - complied


def _position_table(
    places: list[tuple[str, int]],
    sums: ndarray,
    counts: ndarray,
    names: tuple[str, ...],
    min_rollouts: int,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    n = counts.sum(axis=1).astype(int)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.sum(axis=1) / n
    low = high = np.full(len(places), np.nan)
    if names:
        gaps = _resampled_means(sums, counts, names, resamples, seed)[1]
        low, high = percentile_interval(gaps, (counts > 0).sum(axis=1).min(axis=0))
    few = n < min_rollouts
    unclear: Bool[ndarray, " position"] = ~((low > 0) | (high < 0))
    reasons = []
    for i in range(len(places)):
        short = [f"{n[k, i]} {KINDS[k]} rollouts, {min_rollouts} are needed" for k in (0, 1) if few[k, i]]
        alike = f"refused and complied score alike (gap {mean[1, i] - mean[0, i]:.2f} [{low[i]:.2f}, {high[i]:.2f}])"
        reasons.append(" and ".join(short) if short else alike if unclear[i] else "")
    return pd.DataFrame(
        {
            "on": [p[0] for p in places],
            "rel": [p[1] for p in places],
            "complied": mean[0],
            "refused": mean[1],
            "gap": mean[1] - mean[0],
            "low": low,
            "high": high,
            "n_complied": n[0],
            "n_refused": n[1],
            "reason": reasons,
        }
    )
