"""The reliability diagram: how sure a judge is against how often it is right."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verdictscope.figures.style import FAINT, FOUND, INK, MUTED, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import interval, need

_TABLE = "judge part bin low high n confidence accuracy accuracy_low accuracy_high"
_MOST = 4


def _draw(calibration: pd.DataFrame, figures: pd.DataFrame | None = None, *, part: str | None = None) -> Figure:
    """The figure."""
    need(calibration, "calibration", _TABLE)
    rows = _part(calibration, part)
    judges = list(dict.fromkeys(rows["judge"]))[:_MOST]
    with context():
        fig = sheet(WIDTH * (0.42 if len(judges) < 2 else 1.0), 2.9)
        axes = fig.subplots(2, max(len(judges), 1), sharex=True, squeeze=False, height_ratios=(3.2, 1))
        if not judges:
            notice(axes[0, 0], "no verdict of this log\nhas a probability")
            for ax in axes.ravel():
                ax.set_axis_off()
        for k, judge in enumerate(judges):
            own = rows[(rows["judge"] == judge) & (rows["n"] > 0)]
            _accuracy(axes[0, k], own, str(judge), _error(figures, judge, rows["part"].iloc[0]))
            _counts(axes[1, k], own)
        if judges:
            axes[0, 0].set_ylabel("share right")
            axes[1, 0].set_ylabel("verdicts")
        settle(fig)
    return fig


def _part(table: pd.DataFrame, part: str | None) -> pd.DataFrame:
    if table.empty:
        return table
    return table[table["part"] == (table["part"].iloc[0] if part is None else part)]


def _error(figures: pd.DataFrame | None, judge: str, part: str) -> str:
    if figures is None:
        return ""
    row = figures[(figures["judge"] == judge) & (figures["part"] == part) & (figures["name"] == "ece")]
    return f"ECE {interval(row.iloc[0])}" if len(row) and np.isfinite(row["estimate"].iloc[0]) else ""


def _accuracy(ax: Axes, own: pd.DataFrame, judge: str, error: str) -> None:
    ax.set_title(judge, pad=4)
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
    x, y = own["confidence"].to_numpy(dtype=float), own["accuracy"].to_numpy(dtype=float)
    bars = np.stack([y - own["accuracy_low"].to_numpy(dtype=float), own["accuracy_high"].to_numpy(dtype=float) - y])
    ax.vlines(x, np.minimum(x, y), np.maximum(x, y), color=FAINT, linewidth=3, zorder=1.5)
    ax.errorbar(x, y, yerr=np.clip(bars, 0, None), fmt="o-", markersize=3.2, linewidth=0.9, color=FOUND, zorder=3)
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(-0.03, 1.03)
    if error:
        ax.text(0.03, 0.97, error, transform=ax.transAxes, va="top", fontsize=7, color=INK)


def _counts(ax: Axes, own: pd.DataFrame) -> None:
    ax.bar(own["low"], own["n"], width=own["high"] - own["low"], align="edge", color=FAINT, edgecolor="white")
    ax.set_xlabel("probability of the verdict")


def _caption(calibration: pd.DataFrame, figures: pd.DataFrame | None = None, *, part: str | None = None) -> str:
    """Text of the caption."""
    need(calibration, "calibration", _TABLE)
    rows = _part(calibration, part)
    if rows.empty:
        return "No verdict of this log has a probability, so there is nothing to calibrate."
    told = []
    for judge, own in list(rows.groupby("judge", sort=False))[:_MOST]:
        error = _error(figures, str(judge), str(rows["part"].iloc[0]))
        told.append(f"{judge}: n = {int(own['n'].sum())}" + (f", {error}" if error else ""))
    return (
        "Mean probability of the verdict against the share that is right, in ten equal-width bins "
        f"({'; '.join(told)}); whiskers are Wilson intervals that take verdicts as independent, the dotted line is "
        "perfect calibration, grey bars the gap to it. Not shown: verdicts that could not be read or have no "
        "probability."
    )


def reliability(calibration: pd.DataFrame, metrics: pd.DataFrame | None = None, *, part: str | None = None) -> Display:
    """The reliability diagram: how sure a judge is against how often it is right."""
    return Display(_draw(calibration, metrics, part=part), _caption(calibration, metrics, part=part), calibration)
