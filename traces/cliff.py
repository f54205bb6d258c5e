"""The cliff: the drop of a score between the last thinking tokens and the last token before the answer.

Per rollout, plateau = median over the last m thinking tokens, final = last template token, drop = plateau - final. Both
ends are normalised at their own position (`Normaliser`); plateau positions at which complied and refused rollouts score
alike are left out, and with fewer than half of them left there is no normalised drop. The raw drop and the published
statistic (maximum minus final, which grows with the length of the thinking) are given for comparison.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import stats

from verdictscope.errors import InputError
from verdictscope.stats import Effect, draw_clusters, effects_frame, group_names, percentile_interval, ratio_interval
from verdictscope.traces.normaliser import Normaliser, Windows, windows

NORMALISED = ("normalised_plateau", "normalised_final", "normalised_drop")
RAW = ("raw_plateau", "raw_final", "raw_drop", "as_published")

_CHUNK = 4_000_000  # numbers of a [resample rollout m] block, 32 MB


@dataclass(frozen=True, eq=False)
class Cliff:
    """The cliff of one cell of rollouts."""

    name: str
    effects: dict[str, Effect]
    table: pd.DataFrame
    left_out: dict[str, int]
    reason: str
    _windows: Windows = field(repr=False)
    _normaliser: Normaliser = field(repr=False)

    @property
    def n_rollouts(self) -> int:
        """Rollouts measured."""
        return len(self._windows.rollout)

    def __getitem__(self, name: str) -> Effect:
        return self.effects[name]

    def to_frame(self) -> pd.DataFrame:
        """One row per effect."""
        return effects_frame(self.effects.values())

    def __repr__(self) -> str:
        lines = [f"Cliff of {self.name}: {self.n_rollouts} rollouts"]
        lines += [f"  left out: {n} {why}" for why, n in self.left_out.items()]
        lines += [f"  {self.reason}; the raw drop is description only"] if self.reason else []
        read = len(self._normaliser.plateau_columns)
        lines += [f"  plateau read at {read} of {self._normaliser.m} positions"] if read < self._normaliser.m else []
        return "\n".join([*lines, *(f"  {e}" for e in self.effects.values())])

    def _repr_html_(self) -> str:
        head = repr(self).split("\n  ")[0]
        note = f"<p>{self.reason}; the raw drop is description only.</p>" if self.reason else ""
        gone = ", ".join(f"{n} {why}" for why, n in self.left_out.items()) or "none"
        columns = ["name", "estimate", "low", "high", "n", "unit"]
        table = self.to_frame()[columns].to_html(index=False, float_format="{:.3f}".format)
        return f"<p><b>{head}</b>; left out: {gone}</p>{note}{table}"


def cliff(
    aligned: pd.DataFrame,
    normaliser: Normaliser,
    *,
    rollouts: Collection[str] | None = None,
    name: str = "cell",
    seed: int | None = None,
) -> Cliff:
    """Measure the cliff of a cell.

    Intervals resample the cell's prompt groups and the normaliser's training groups together. A control (the aligned
    reference model,
    the model with heads ablated) is measured by giving *its* scores with the *same* normaliser.

    Args:
        aligned: from `align`, one readout and layer; of the model under study or of a control.
        normaliser: fitted on the training part of the model under study.
        rollouts: ids of the cell, all by default; one of them without scores is an error.
        name: name of the cell.
        seed: seed of the cell's draws, the normaliser's by default.

    Returns:
        effects by name; NaN with the reason where a cell is empty or cannot be normalised.

    Raises:
        InputError: a group of the cell is among the groups the normaliser was fitted on.

    Example:
        >>> import pandas as pd
        >>> from verdictscope.traces.planted import planted_scores
        >>> complied, refused = planted_scores("c", 12, -1.0, -1.0), planted_scores("r", 12, 2.0, 2.0)
        >>> cells = set(complied["rollout"]), set(refused["rollout"])
        >>> normaliser = Normaliser.fit(pd.concat([complied, refused]), *cells, m=4)
        >>> cliff(planted_scores("x", 6, 2.0, -1.0), normaliser)["normalised_drop"].estimate
        1.0
    """
    if rollouts is not None:
        wanted = set(map(str, rollouts))
        absent = wanted - set(aligned["rollout"].astype(str))
        if absent:
            raise InputError(f"cell {name}: rollout {min(absent)!r} has no scores")
        aligned = aligned[aligned["rollout"].isin(wanted)]
    shared = sorted(set(group_names(aligned["group"])) & normaliser.groups)
    if shared:
        raise InputError(
            f"cell {name}: group {shared[0]!r} is one the normaliser was fitted on; measure rollouts of another split"
        )
    return measure(windows(aligned, normaliser.m), normaliser, name=name, seed=seed)


def measure(cut: Windows, normaliser: Normaliser, *, name: str = "cell", seed: int | None = None) -> Cliff:
    """`cliff` of windows that are cut already."""
    seed = normaliser.seed if seed is None else seed
    counts, n = _cell_counts(cut.group, normaliser.resamples, seed)
    # raw and normalised numbers of every measured rollout
    raw = np.median(cut.window, axis=1)
    high, low = np.full_like(raw, np.nan), np.full_like(raw, np.nan)
    c, gap = normaliser.table["complied"].to_numpy(), normaliser.table["gap"].to_numpy()
    if not normaliser.plateau_reason:
        at = normaliser.plateau_columns
        high = np.median(_normalised(cut.window[:, normaliser.plateau_tokens], c[at], gap[at]), axis=1)
    if not normaliser.final_reason:
        low = _normalised(cut.final, c[normaliser.final_column], gap[normaliser.final_column])
    point = pd.DataFrame(
        {
            "rollout": cut.rollout,
            "raw_plateau": raw,
            "raw_final": cut.final,
            "raw_drop": raw - cut.final,
            "maximum": cut.maximum,
            "as_published": cut.maximum - cut.final,
            "normalised_plateau": high,
            "normalised_final": low,
            "normalised_drop": high - low,
        }
    )
    effects = {}
    for quantity in RAW:
        values = point[quantity].to_numpy()
        if len(values):
            ends = percentile_interval(_mean_draws({quantity: values}, counts)[quantity], n)
            effects[quantity] = Effect(quantity, float(values.mean()), float(ends[0]), float(ends[1]), n, "logit", seed)
        else:
            effects[quantity] = Effect.missing(quantity, "logit", seed=seed)
    effects |= _normalised_effects(point, cut, normaliser, counts, effects["as_published"])
    table = cut.table.merge(point, on="rollout", how="left")
    reason = normaliser.reason if len(cut.rollout) else "cannot measure: no rollout of this cell has both ends"
    return Cliff(name, effects, table, cut.left_out, reason, cut, normaliser)


def drop_difference(first: Cliff, second: Cliff, *, name: str = "difference of normalised drops") -> Effect:
    """Normalised drop of one cell minus that of another; prompts and normaliser are resampled together.

    Args:
        first: a cell; prompts that both cells share are paired.
        second: the other, for example a control.
        name: of the effect.

    Raises:
        InputError: the two cells were measured with different normalisers.

    Example:
        >>> import pandas as pd
        >>> from verdictscope.traces.planted import planted_scores
        >>> complied, refused = planted_scores("c", 12, -1.0, -1.0), planted_scores("r", 12, 2.0, 2.0)
        >>> cells = set(complied["rollout"]), set(refused["rollout"])
        >>> normaliser = Normaliser.fit(pd.concat([complied, refused]), *cells, m=4)
        >>> found, control = (cliff(planted_scores("x", 6, 2.0, final), normaliser) for final in (-1.0, 2.0))
        >>> drop_difference(found, control).estimate
        1.0
    """
    normaliser = _common_normaliser(first, second)
    estimate = first["normalised_drop"].estimate - second["normalised_drop"].estimate
    n = min(first["normalised_drop"].n, second["normalised_drop"].n)
    if not np.isfinite(estimate):
        return Effect.missing(name, "normalised", n=n, seed=normaliser.seed)
    cells = first._windows, second._windows
    joint, _ = _cell_counts(np.concatenate([c.group for c in cells]), normaliser.resamples, normaliser.seed)
    split = len(cells[0].group)
    means = [
        _mean_draws(_normalised_draws(c, normaliser, w), w)["normalised_drop"]
        for c, w in zip(cells, (joint[:, :split], joint[:, split:]), strict=True)
    ]
    low, high = percentile_interval(means[0] - means[1], n)
    return Effect(name, estimate, float(low), float(high), n, "normalised", normaliser.seed)


def normaliser_variance(first: Cliff, second: Cliff, value: str = "normalised_drop") -> float:
    """What the normaliser's own error adds to the variance of a difference between two cells."""
    normaliser = _common_normaliser(first, second)
    if normaliser.reason:
        return np.nan
    means = []
    for cut in (first._windows, second._windows):
        once = np.ones((normaliser.resamples, len(cut.rollout)))
        means.append(_mean_draws(_normalised_draws(cut, normaliser, once), once)[value])
    n = normaliser.groups_by_kind
    low, high = np.nanquantile(means[0] - means[1], [0.025, 0.975])
    return float(((high - low) / (2 * stats.norm.isf(0.025))) ** 2 * n / (n - 1))


def _common_normaliser(first: Cliff, second: Cliff) -> Normaliser:
    if not (second._normaliser is first._normaliser or second._normaliser.same_as(first._normaliser)):
        raise InputError("the two cliffs have different normalisers; measure both with the same one")
    return first._normaliser


def _cell_counts(groups: ndarray, resamples: int, seed: int) -> tuple[Int[ndarray, "resample rollout"], int]:
    """How often each rollout is drawn, and the number of groups."""
    if len(groups) == 0:
        return np.zeros((resamples, 0), dtype=int), 0
    # another stream than the normaliser', whose groups are others
    stream = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    drawn = draw_clusters(groups, resamples, stream)
    return drawn.counts[:, drawn.codes], drawn.n


def _normalised(values: Any, complied: Any, gap: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (values - complied) / gap


def _normalised_draws(
    cut: Windows, normaliser: Normaliser, counts: ndarray
) -> dict[str, Float[ndarray, "resample rollout"]]:
    """Normalised plateau, final and drop of every rollout under every resample of the normaliser."""
    complied, gap = normaliser.draws
    at, final = normaliser.plateau_columns, normaliser.final_column
    scores = cut.window[:, normaliser.plateau_tokens]
    high = np.full(counts.shape, np.nan)
    step = max(1, _CHUNK // max(1, scores.size))
    for i in range(0, len(counts) if at else 0, step):
        block = slice(i, i + step)
        high[block] = np.median(_normalised(scores, complied[block, None, at], gap[block, None, at]), axis=-1)
    low = _normalised(cut.final, complied[:, [final]], gap[:, [final]])
    return {"normalised_plateau": high, "normalised_final": low, "normalised_drop": high - low}


def _mean_draws(draws: dict[str, ndarray], counts: ndarray) -> dict[str, Float[ndarray, " resample"]]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return {k: (v * counts).sum(axis=1) / counts.sum(axis=1) for k, v in draws.items()}


def _normalised_effects(
    point: pd.DataFrame, cut: Windows, normaliser: Normaliser, counts: ndarray, published: Effect
) -> dict[str, Effect]:
    n, seed = published.n, published.seed
    out = {name: Effect.missing(name, "normalised", n=n, seed=seed) for name in NORMALISED}
    out["surviving_share"] = Effect.missing("surviving_share", "ratio", n=n, seed=seed)
    if not n or not point[list(NORMALISED)].notna().any(axis=None):
        return out
    means = _mean_draws(_normalised_draws(cut, normaliser, counts), counts)
    for name in NORMALISED:
        if point[name].notna().all():
            low, high = percentile_interval(means[name], n)
            out[name] = Effect(name, float(point[name].mean()), float(low), float(high), n, "normalised", seed)
    # a share of a drop that is not there would be a number without meaning
    if np.isfinite(out["normalised_drop"].estimate) and published.low > 0:
        gap = float(normaliser.table["gap"].iloc[normaliser.final_column])
        top = means["normalised_drop"] * normaliser.draws[1][:, normaliser.final_column]
        bottom = _mean_draws({"p": point["as_published"].to_numpy()}, counts)["p"]
        share = out["normalised_drop"].estimate * gap / published.estimate
        out["surviving_share"] = Effect("surviving_share", share, *ratio_interval(top, bottom, n), n, "ratio", seed)
    return out
