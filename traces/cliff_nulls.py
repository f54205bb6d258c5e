"""What a drop at the end of thinking looks like where there is none.

Two nulls that keep neighbouring tokens together. *Exchange*: whole prompts trade places between two cells, so that a
difference of their drops can be called large. *Shift*: each rollout is turned around a circle by a random step, so that
"the end" lies at a token that is not one; turns that would put the seam inside the window are not drawn, since the seam
joins what never were neighbours. Permuting single tokens instead calls 38 % false cliffs where neighbours are
correlated by .5, and 65 % at .9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.stats import group_names, permutation_of, permutation_p
from verdictscope.traces.cliff import Cliff, normaliser_variance
from verdictscope.traces.landmarks import one_readout
from verdictscope.traces.normaliser import FINAL, WINDOW, windows

DRAWS = 999
_FEWEST = 20  # turns of all rollouts together, below which no p-value reaches .05


@dataclass(frozen=True, eq=False)
class CliffNull:
    """A drop with its null."""

    name: str
    kind: str
    estimate: float
    null: Float[ndarray, " draw"] = field(repr=False)
    p: float
    n: int
    left_out: dict[str, int]

    def to_row(self) -> dict[str, object]:
        """``name kind estimate null_mean null_low null_high p n``; low and high hold 95 % of the null."""
        low, high = np.quantile(self.null, [0.025, 0.975]) if self.null.size else (np.nan, np.nan)
        mean = float(self.null.mean()) if self.null.size else np.nan
        return {
            "name": self.name,
            "kind": self.kind,
            "estimate": self.estimate,
            "null_mean": mean,
            "null_low": float(low),
            "null_high": float(high),
            "p": self.p,
            "n": self.n,
        }


def exchange_null(
    first: Cliff, second: Cliff, *, value: str = "raw_drop", name: str = "", draws: int = DRAWS, seed: int = 0
) -> CliffNull:
    """Whether one cell falls further than another: whole prompts are exchanged between the two.

    Differences are compared in units of their own standard errors, so that cells that differ in spread or number of
    prompts do not pass for cells that differ in drop (Chung and Romano, Annals of Statistics 41, 2013). The error of
    the normaliser is the same for all prompts of a cell and does not cancel between cells that read at different
    levels;
    no exchange of prompts can show it (taken as known, normaliser of 40 prompts called 7 to 9 % false cliffs). The
    standard error of a normalised difference therefore holds the normaliser's share, from its own draws.

    Args:
        first: the cell in question.
        second: the other cell, whose prompts are others.
        value: the column of `Cliff.table` compared.
        name: what to call it.
        draws: exchanges drawn.
        seed: of the draws.

    Returns:
        NaN with an empty null where a cell has fewer than two prompts with a drop. The null is the studentised
        differences of the draws times the standard error of the real one, so it has the unit of the estimate.

    Raises:
        InputError: a prompt group stands in both cells, so that exchanging it says nothing; pair such cells with
            `drop_difference`. Or too few prompts for p = .05, or normalised drops of different normalisers.

    Example:
        >>> import pandas as pd
        >>> from verdictscope.traces import Normaliser, cliff
        >>> from verdictscope.traces.planted import planted_scores
        >>> complied, refused = planted_scores("c", 12, -1.0, -1.0), planted_scores("r", 12, 2.0, 2.0)
        >>> cells = set(complied["rollout"]), set(refused["rollout"])
        >>> normaliser = Normaliser.fit(pd.concat([complied, refused]), *cells, m=4)
        >>> falls, stays = (cliff(planted_scores(k, 6, 2.0, f), normaliser) for k, f in (("x", -1.0), ("y", 2.0)))
        >>> found = exchange_null(falls, stays, draws=99)
        >>> found.estimate, round(found.p, 2)
        (3.0, 0.02)
    """
    tables = first.table, second.table
    shared = set(group_names(tables[0]["group"])) & set(group_names(tables[1]["group"]))
    if shared:
        raise InputError(f"group {min(shared)!r} stands in both cells; compare them with drop_difference, which pairs")
    kept = [t[t[value].notna()] for t in tables]
    own = [t.groupby(group_names(t["group"]))[value].agg(["sum", "size"]) for t in kept]
    left_out = {"without a drop": int(sum(t[value].isna().sum() for t in tables))}
    total, count = (np.concatenate([o[c].to_numpy(dtype=float) for o in own]) for c in ("sum", "size"))
    if min(map(len, own)) < 2:
        return CliffNull(name, "exchange", np.nan, np.array([]), np.nan, len(total), left_out)
    label: Bool[ndarray, " group"] = np.repeat([True, False], [len(o) for o in own])
    permutation_of(label, unit="prompt")  # enough prompts for a p-value
    order = np.argsort(np.random.default_rng(seed).random((draws, len(label))), axis=1)
    chosen = np.concatenate([label[None], label[order]])
    parts = [_mean_and_variance(c.astype(float), total, count) for c in (chosen, ~chosen)]
    drop, error = parts[0][0] - parts[1][0], parts[0][1] + parts[1][1]
    error[0] += normaliser_variance(first, second, value) if value.startswith("normalised") else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        null = drop[1:] / np.sqrt(error[1:]) * np.sqrt(error[0])
    # Cells without spread: nothing to scale by.
    null = np.where(error[1:] > 0, null, drop[1:]) if error[0] > 0 else drop[1:]
    return CliffNull(
        name, "exchange", float(drop[0]), null, permutation_p(drop[0], null, "two-sided"), len(label), left_out
    )


def _mean_and_variance(
    chosen: Float[ndarray, "draw group"], total: Float[ndarray, " group"], count: Float[ndarray, " group"]
) -> tuple[Float[ndarray, " draw"], Float[ndarray, " draw"]]:
    """Mean over the rollouts of the chosen groups, and its variance over groups (that of a ratio of sums)."""
    n, rollouts = chosen.sum(axis=1), chosen @ count
    mean = (chosen @ total) / rollouts
    squares = chosen @ total**2 - 2 * mean * (chosen @ (total * count)) + mean**2 * (chosen @ count**2)
    return mean, np.maximum(squares, 0.0) / rollouts**2 * n / (n - 1)


def shift_null(aligned: pd.DataFrame, m: int, *, name: str = "", draws: int = DRAWS, seed: int = 0) -> CliffNull:
    """Whether the raw score falls at the end of thinking at all, more than it does anywhere else in the same rollouts.

    A raw drop that is real is no cliff yet: every decision sharpens at this point. The other cells are the controls
    for that.

    Args:
        aligned: from `align`, one readout and layer, every token from the start of thinking to the answer scored.
        m: number of last thinking tokens of the plateau.
        name: what to call it.
        draws: turns drawn.
        seed: of the draws.

    Raises:
        InputError: m is not positive, a window was not scored in full, or too few turns for p = .05.

    Example:
        >>> from verdictscope.traces.planted import planted_scores
        >>> shift_null(planted_scores("x", 6, 2.0, -1.0), m=2, draws=99).estimate
        3.0
    """
    cut = windows(aligned, m)
    left_out = dict(cut.left_out)
    rows = one_readout(aligned)
    rows = rows[rows["rollout"].isin(set(cut.rollout)) & (rows["segment"].isin(["thinking", "think_end"]))]
    rows = rows[(rows[FINAL] < 0).fillna(False).astype(bool)].sort_values(["rollout", "pos"])
    series, groups = [], set()
    for _, own in rows.groupby("rollout", sort=True):
        scores, closing = own["score"].to_numpy(dtype=float), int((own[WINDOW] >= 0).sum())
        if not np.isfinite(scores).all():
            left_out["tokens without a score"] = left_out.get("tokens without a score", 0) + 1
            continue
        series.append((scores, closing))
        groups.add(str(own["group"].iloc[0]))
    if not series:
        return CliffNull(name, "shift", np.nan, np.array([]), np.nan, 0, left_out)
    turns = np.prod([float(len(scores) - closing - m + 1) for scores, closing in series])
    if turns < _FEWEST:
        raise InputError(
            f"{len(series)} rollouts can be turned in {turns:.0f} ways: no p can reach .05; give longer thinking, more "
            f"rollouts or a shorter plateau than m={m}"
        )
    observed, drawn = turned(series, m, draws, np.random.default_rng(seed))
    return CliffNull(name, "shift", observed, drawn, permutation_p(observed, drawn, "two-sided"), len(groups), left_out)


def turned(
    series: Sequence[tuple[ndarray, int]], m: int, draws: int, rng: np.random.Generator
) -> tuple[float, Float[ndarray, " draw"]]:
    """Mean drop of series as they are, and with each turned by a random step, draw by draw."""
    observed, null = 0.0, np.zeros(draws)
    for scores, closing in series:
        drops = turned_drops(scores, m, closing)
        observed += float(drops[-1])
        null += drops[rng.integers(len(drops), size=draws)]
    return observed / len(series), null / len(series)


def turned_drops(scores: Float[ndarray, " token"], m: int, closing: int) -> Float[ndarray, " turn"]:
    """Median of m tokens minus the token ``closing`` after them, under every turn; the last is the real one."""
    plateau = np.median(np.lib.stride_tricks.sliding_window_view(scores[: len(scores) - closing], m), axis=1)
    return np.asarray(plateau - scores[m - 1 + closing :])
