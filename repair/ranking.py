"""Cliff-as-a-Judge: rank a pool of rollouts by how far the refusal score drops before the answer.

Rollouts whose thinking scores as refusal and whose answer does not are candidates for training. Cheaper rankings serve
as baselines: chance, a word list over the thinking, the lowest final score, the highest loss of the safe completion
and the plain outcome. Every row of the pool keeps its score, its rank and the reason why it was taken or not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy.special import expit, gammaln

from verdictscope.errors import InputError
from verdictscope.rollouts.prompts.duplicates import near_duplicates
from verdictscope.traces.aggregate import one_readout
from verdictscope.traces.normaliser import Normaliser, windows
from verdictscope.values import number, truths, whole_number

METHODS: Mapping[str, str] = {
    "normalised": "normalised plateau minus normalised final score",
    "length_adjusted": "expected maximum of m thinking tokens drawn at random, minus the final score",
    "published": "largest minus final score, both as probabilities (arXiv 2510.06036)",
    "final": "lowest final score",
    "loss": "highest loss of the safe completion after the own thinking",
    "rule": "the thinking holds a word of refusal",
    "complied": "the answer did not refuse",
    "random": "drawn at random",
}
"""What a pool can be ranked by; the first three are cliffs, the others are baselines."""

CLIFFS = ("normalised", "length_adjusted", "published")
SCORED = (*CLIFFS, "final")
"""Methods that need a probe's score at every token."""

WORDS = (
    *("refus", "declin", "turn down", "say no", "not help", "cannot help", "can't help", "should not", "shouldn't"),
    *("harmful", "illegal", "unethical", "dangerous", "unsafe", "not allowed", "against the rules", "policy"),
)
"""What the rule looks for in the thinking, case ignored."""


def pool_scores(aligned: pd.DataFrame, normaliser: Normaliser | None = None, *, m: int = 8) -> pd.DataFrame:
    """Every score of a rollout that a probe's trace gives.

    The length-adjusted score replaces the published maximum over the whole thinking by the expected maximum over m of
    its tokens drawn at random (rarefaction, Hurlbert 1971): a maximum over more tokens is larger by chance alone.

    Args:
        aligned: scores of every token, from `align`; one readout and layer.
        normaliser: what complying and refusing rollouts score; without them there is no normalised score.
        m: tokens of the plateau and of the drawn maximum, the normaliser' own where they are given.

    Returns:
        one row per rollout: ``rollout n_thinking note reason normalised length_adjusted published final``; scores are
        NaN where there is none, ``reason`` says why there is none at all, ``note`` what to know of a rollout that has.

    Raises:
        InputError: m is not positive, or a window was not scored in full.

    Example:
        >>> from verdictscope.traces.planted import planted_scores
        >>> pool_scores(planted_scores("x", 1, 2.0, -1.0), m=4)["published"].round(3).tolist()
        [0.612]
    """
    m = normaliser.m if normaliser is not None else m
    rows = one_readout(aligned)
    closed = rows.groupby("rollout", sort=True)["rel_think_end"].agg(lambda s: s.notna().any()).astype(bool)
    cut = rows.groupby("rollout", sort=True)["finish"].first().eq("length") & closed
    # An answer that was cut off is replaced anyway; what is read lies before it.
    rows = rows.assign(finish=rows["finish"].where(~rows["rollout"].map(cut).astype(bool), "stop"))
    every = windows(rows, 1)
    table = every.table.rename(columns={"reason": "why"})
    words = {"truncated": "thinking cut off", "fewer than 1 thinking tokens": "no thinking"}
    table["reason"] = table["why"].map(lambda why: words.get(why, why))
    table.loc[table["n_thinking"] == 0, "reason"] = "no thinking"
    table["note"] = np.where(table["rollout"].map(cut), "its answer was cut off", "")
    table = table[["rollout", "n_thinking", "note", "reason"]].set_index("rollout")
    name = every.rollout
    table.loc[name, "published"] = expit(every.maximum) - expit(every.final)
    table.loc[name, "final"] = every.final
    thinking = rows[rows["segment"].eq("thinking") & rows["rollout"].isin(name)]
    drawn = thinking.groupby("rollout")["score"].agg(lambda s: expected_maximum(s.to_numpy(dtype=float), m))
    table["length_adjusted"] = drawn.reindex(table.index) - table["final"]
    table["normalised"] = np.nan
    if normaliser is not None:
        windowed = windows(rows, m)
        table.loc[windowed.rollout, "normalised"] = _normalised(windowed.window, windowed.final, normaliser)
    order = ["n_thinking", "note", "reason", *SCORED]
    return table[order].astype(dict.fromkeys(SCORED, float)).reset_index()


def expected_maximum(values: Float[ndarray, " token"], m: int) -> float:
    """Mean of the maximum over all subsets of ``m`` values; NaN with fewer than m."""
    n = len(values)
    if n < m:
        return math.nan
    rank = np.arange(m, n + 1)  # the i-th smallest is the maximum of C(i - 1, m - 1) of the C(n, m) subsets
    log = gammaln(rank) - gammaln(m) - gammaln(rank - m + 1) - (gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1))
    return float(np.sort(values)[m - 1 :] @ np.exp(log))


def _normalised(window: ndarray, final: ndarray, normaliser: Normaliser) -> Float[ndarray, " rollout"]:
    """Normalised drop of every rollout; NaN where the normaliser cannot be used."""
    if normaliser.reason or not len(window):
        return np.full(len(window), np.nan)
    complied, gap = normaliser.table["complied"].to_numpy(), normaliser.table["gap"].to_numpy()
    at, end = normaliser.plateau_columns, normaliser.final_column
    high = np.median((window[:, normaliser.plateau_tokens] - complied[at]) / gap[at], axis=1)
    return high - (final - complied[end]) / gap[end]


@dataclass(frozen=True)
class Budget:
    """How many rows to take: a number, or a share of the pool."""

    count: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if (self.count is None) == (self.share is None):
            raise InputError("a budget is a count or a share: give one of them")
        if self.count is not None:
            whole_number(self.count, "count", 1)
        if self.share is not None:
            number(self.share, "share", 0, 1, above=True)

    @classmethod
    def parse(cls, text: str | int | float) -> Budget:
        """Read ``200``, ``"1.7%"`` or a share between 0 and 1."""
        words = str(text).strip()
        try:
            percent = words.endswith("%")
            number = float(words.removesuffix("%"))
        except ValueError:
            raise InputError(f"budget {text!r} is no number: give 200, 1.7% or 0.017") from None
        if percent and 0 < number <= 100:
            return cls(share=number / 100)
        if not percent and 0 < number < 1:
            return cls(share=number)
        if not percent and 1 <= number < math.inf and number == int(number):
            return cls(count=int(number))
        raise InputError(f"budget {text!r} is no number of rows and no share: give 200, 1.7% or 0.017")

    def of(self, pool: int) -> int:
        """Rows of a pool of that size: at least one, a share rounded to the nearest."""
        return self.count if self.count is not None else max(1, round(float(self.share or 0) * pool))

    def __str__(self) -> str:
        return str(self.count) if self.count is not None else f"{100 * float(self.share or 0):g}%"


@dataclass(frozen=True, eq=False)
class PoolRanking:
    """A pool in the order of one score."""

    table: pd.DataFrame
    method: str
    budget: str
    asked: int
    seed: int
    tied: int
    edge: int

    @property
    def chosen(self) -> pd.DataFrame:
        """The rows taken, best first."""
        return self.table[self.table["chosen"]].reset_index(drop=True)

    @property
    def left_out(self) -> dict[str, int]:
        """Rows that could not be ranked, by reason (a duplicate's without the name of its first)."""
        reasons = self.table.loc[self.table["rank"] == 0, "reason"]
        reasons = reasons.str.replace("^duplicate of .*", "duplicate", regex=True)
        return {str(k): int(v) for k, v in reasons.value_counts(sort=False).items()}

    def counts(self) -> dict[str, Any]:
        """Everything a reader must know about who is in and who is not."""
        ranked = self.table["rank"] > 0
        notes = self.table.loc[ranked & self.table["note"].ne(""), "note"].value_counts(sort=False)
        return {
            "pool": len(self.table),
            "ranked": int(ranked.sum()),
            "chosen": int(self.table["chosen"].sum()),
            "asked": self.asked,
            "tied": self.tied,
            "tied_at_the_edge": self.edge,
            "left_out": self.left_out,
            "notes": {str(k): int(v) for k, v in notes.items()},
        }

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def __repr__(self) -> str:
        n = self.counts()
        lines = [f"PoolRanking by {self.method} ({METHODS[self.method]}), seed {self.seed}"]
        lines.append(f"  {n['chosen']} of {n['ranked']} ranked rows taken, pool of {n['pool']}, budget {self.budget}")
        if n["chosen"] < self.asked:
            lines.append(f"  the budget asks for {self.asked}: the pool has no more")
        lines += [f"  left out: {k} {why}" for why, k in n["left_out"].items()]
        lines += [f"  ranked, but {why}: {k}" for why, k in n["notes"].items()]
        if self.edge > 1:
            lines.append(f"  {self.edge} rows share the score of the last one taken: which were taken is chance")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        shown = [c for c in ("id", "group", "score", "rank", "chosen", "reason") if c in self.table]
        return f"<pre>{self!r}</pre>" + self.table[shown].head(20).to_html(index=False)


def rank_pool(
    pool: pd.DataFrame,
    by: str = "normalised",
    *,
    budget: str | int | float = "1.7%",
    seed: int = 0,
    duplicates: float | int = 0.7,
    words: Sequence[str] = WORDS,
) -> PoolRanking:
    """Rank a pool by misalignment and mark the rows a budget takes.

    The result depends on the rows, the method and the seed, not on the rows' order: equal scores are put in an order
    drawn from seed and id.

    Args:
        pool: ``id user thinking reason`` and what the method needs: a column of its name (`pool_scores`, and ``loss``),
            or ``refused`` for ``complied``. A row with a ``reason`` is left out for it. Further columns are kept.
        by: one of `METHODS`.
        budget: rows to take, or a share of the pool (every row counts, also those left out).
        seed: seed of random ranks and of ties.
        duplicates: least Jaccard index of two requests' 5-grams that makes them duplicates (see `near_duplicates`); of
            those the best ranked stays. 1 drops equal ones alone.
        words: what the rule looks for.

    Raises:
        InputError: an unknown method, a missing column, an id that occurs twice, a bad budget, or no row to rank.

    Example:
        >>> rows = [("a", "how to x", 0.4, ""), ("b", "why is y", 1.2, "")]
        >>> pool = pd.DataFrame(rows, columns=["id", "user", "published", "reason"])
        >>> rank_pool(pool, "published", budget=1).chosen["id"].tolist()
        ['b']
    """
    amount = Budget.parse(budget)
    table = _checked(pool, by, duplicates)
    table["method"], table["score"] = by, _scores(table, by, seed, words)
    table.loc[table["score"].isna() & table["reason"].eq(""), "reason"] = _unscored(by)
    table["order"] = [_draw(seed, name) for name in table["id"]]
    table = table.sort_values(["score", "order"], ascending=[False, True], kind="stable", ignore_index=True)
    _drop_duplicates(table, duplicates)
    ranked = table["reason"].eq("")
    if not ranked.any():
        why = table["reason"].value_counts().index[0]
        raise InputError(f"no row of the pool can be ranked by {by}: the most frequent reason is {why!r}")
    table["rank"] = np.where(ranked, ranked.cumsum(), 0)
    asked = amount.of(len(table))
    table["chosen"] = ranked & (table["rank"] <= asked)
    place = " of " + str(int(ranked.sum()))
    why = [f"{by} {s:.4g}, rank {r}{place}" for s, r in zip(table["score"], table["rank"], strict=True)]
    why = [w if c else f"{w}: beyond the budget" for w, c in zip(why, table["chosen"], strict=True)]
    table["reason"] = np.where(ranked, why, table["reason"])
    scores = table.loc[ranked, "score"]
    last = table.loc[table["chosen"], "score"].iloc[-1]
    table = table.sort_values(["rank", "id"], key=lambda c: c.replace(0, len(table) + 1) if c.name == "rank" else c)
    return PoolRanking(
        table.drop(columns="order").reset_index(drop=True),
        by,
        str(amount),
        asked,
        seed,
        int(scores.duplicated(keep=False).sum()),
        int(scores.eq(last).sum()),
    )


def _checked(pool: pd.DataFrame, by: str, duplicates: float | int) -> pd.DataFrame:
    if by not in METHODS:
        raise InputError(f"no way {by!r} to rank a pool: there are {', '.join(METHODS)}")
    if not 0 < duplicates <= 1:
        raise InputError(f"duplicates is {duplicates}: give a Jaccard index above 0 and at most 1")
    needs = {"rule": ["thinking"], "complied": ["refused"], "random": []}.get(by, [by])
    missing = [c for c in ("id", "user", "reason", *needs) if c not in pool.columns]
    if missing:
        raise InputError(f"the pool has no column {missing[0]!r}: ranking by {by} needs it")
    again = pool["id"][pool["id"].astype(str).duplicated()]
    if len(again):
        raise InputError(f"pool id {str(again.iloc[0])!r} occurs twice: make ids unique")
    if pool.empty:
        raise InputError("the pool holds no rows")
    note = pool["note"].fillna("") if "note" in pool else ""
    reason = pool["reason"].fillna("").astype(str)
    return pool.assign(id=pool["id"].astype(str), reason=reason, note=note).reset_index(drop=True)


def _scores(table: pd.DataFrame, by: str, seed: int, words: Sequence[str]) -> pd.Series:
    """Larger is more misaligned."""
    if by == "random":
        return pd.Series([_draw(seed + 1, name) for name in table["id"]])
    if by == "rule":
        found = [mentions(text, words) for text in table["thinking"]]
        return pd.Series(found, dtype=float)
    if by == "complied":
        names = [f"pool id {name!r}" for name in table["id"]]
        return 1 - truths(table["refused"], "refused", names).astype("Float64").astype(float)
    score = pd.to_numeric(table[by]).astype(float)
    return -score if by == "final" else score


def mentions(text: Any, words: Sequence[str] = WORDS) -> bool:
    """Whether one of the words stands in a text, case ignored; a missing text has none."""
    folded = text.casefold() if isinstance(text, str) else ""
    return any(word.casefold() in folded for word in words)


def _unscored(by: str) -> str:
    reasons = {
        "complied": "its answer could not be read",
        "normalised": "too little thinking, or no normaliser, for a score",
    }
    return reasons.get(by, f"no {by} score" if by != "length_adjusted" else "too little thinking for a score")


def _draw(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on seed and id alone."""
    word = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(word[:7], "big") / 2**56


def _drop_duplicates(table: pd.DataFrame, threshold: float | int) -> None:
    """Mark, best first, every rankable row whose request repeats that of a better one that stays."""
    open_rows = table[table["reason"].eq("")]
    systems = open_rows["system"].fillna("").astype(str) if "system" in table else pd.Series("", open_rows.index)
    column = table.columns.get_loc("reason")
    for _, rows in open_rows.groupby(systems, sort=True):
        pairs = near_duplicates(rows["user"].astype(str).to_list(), float(threshold))
        repeats: dict[int, int] = {}
        for b, found in pairs.sort_values("b", kind="stable").groupby("b"):
            # an exact copy goes with its first; a near one stays where that one went
            firsts = [
                repeats.get(a, a)
                for a, exact in zip(found["a"], found["exact"], strict=True)
                if exact or a not in repeats
            ]
            if firsts:
                repeats[int(b)] = int(firsts[0])
        for b, a in repeats.items():
            table.iloc[rows.index[b], column] = f"duplicate of {rows['id'].iloc[a]}"
