"""How far judges agree with the labels, and how well their confidence is calibrated, by judge."""

from __future__ import annotations

import numpy as np
import pandas as pd

from verdictscope.figures.style import (
    FAINT,
    FOUND,
    INK,
    MUTED,
    WIDTH,
    Display,
    context,
    notice,
    segments,
    settle,
    sheet,
)
from verdictscope.figures.tables import interval, need

_TABLE = "judge part name estimate low high n missing"
_BINS = "judge part bin low high n confidence accuracy accuracy_low accuracy_high"
_PANELS = (
    ("a  Right", ("accuracy", "two_order_score", "consistent_accuracy", "accuracy_control", "accuracy_cued")),
    ("b  Beyond chance", ("kappa", "pi", "kappa_orders", "robust_rate")),
    ("c  Bias", ("position_bias", "preference_gap", "p_plus", "score_difference", "accuracy_change", "follow_change")),
)
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#8E4585", "#56B4E9", "#8a8a8a")
_WORDS = {
    "two_order_score": "two-order score",
    "consistent_accuracy": "right in both",
    "accuracy_control": "without cue",
    "accuracy_cued": "with cue",
    "kappa": "Cohen's κ",
    "pi": "Scott's π",
    "kappa_orders": "κ of the two orders",
    "robust_rate": "robust",
    "position_bias": "position bias",
    "preference_gap": "first minus second",
    "p_plus": "leniency P+",
    "score_difference": "score minus label's",
    "accuracy_change": "change by cue",
    "follow_change": "follows cue",
}
_MOST, _MOST_PANELS = 14, 4


def _of_part(table: pd.DataFrame, part: str | None) -> pd.DataFrame:
    """The rows of one part; the first by default."""
    return table if table.empty else table[table["part"] == (table["part"].iloc[0] if part is None else part)]


def agreement(table: pd.DataFrame, *, part: str | None = None) -> Display:
    """Draw accuracy, chance-corrected agreement and biases of judges, a row per judge.

    Args:
        table: metrics of judges (docs/formats.md), as ``JudgeMetrics.table`` holds them.
        part: which part of the log; the first by default.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["judge", "part", "name", "estimate", "low", "high", "n", "missing"]
        >>> table = pd.DataFrame([("mine", "all", "accuracy", 0.8, 0.7, 0.9, 50, 0)], columns=columns)
        >>> len(figures.agreement(table).axes)
        3
    """
    need(table, "judge metrics", _TABLE)
    rows = _of_part(table, part)
    judges = [j for j in dict.fromkeys(rows["judge"]) if j != "(panel)"][:_MOST]
    with context():
        fig = sheet(WIDTH, 1.1 + 0.24 * max(len(judges), 3))
        axes = fig.subplots(1, len(_PANELS), sharey=True)
        for ax, (title, names) in zip(axes, _PANELS, strict=True):
            ax.set_title(title, pad=13)
            drawn = [n for n in names if rows.loc[rows["name"] == n, "estimate"].notna().any()][:3]
            if not drawn:
                notice(ax, "not measured in this log")
                ax.set_xticks([])
            else:
                for k, name in enumerate(drawn):
                    own = rows[rows["name"] == name].drop_duplicates("judge").set_index("judge").reindex(judges)
                    y = np.arange(len(judges))[::-1] + (k - (len(drawn) - 1) / 2) * -0.22
                    segments(ax, own, y, markersize=3, linewidth=0.9, color=_COLOURS[k], label=_WORDS.get(name, name))
                for at in range(len(judges) - 1):
                    ax.axhline(at + 0.5, color=FAINT, linewidth=0.5, zorder=1)
                ax.axvline(0, color=INK, linewidth=0.6, linestyle=(0, (1, 2)), zorder=1)
                ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=1, labelcolor=MUTED, handlelength=1)
        axes[0].set_yticks(range(len(judges)), judges[::-1])
        axes[0].set_ylim(-0.6, max(len(judges), 1) - 0.4)
        settle(fig)
    first = rows[rows["name"].isin(["accuracy", "accuracy_control"])].head(_MOST).to_dict("records")
    each = [f"{r['judge']} {interval(r)} (n = {int(r['n'])}, {int(r['missing'])} missing)" for r in first]
    text = f"Metrics by judge, part {rows['part'].iloc[0]}; " if len(rows) else "No metrics; "
    text += "bars are 95 % intervals by bootstrap over groups. "
    text += f"Accuracy: {'; '.join(each)}. " if each else ""
    return Display(fig, text + "Not shown: whether the labels are right, and items that were left out.", table)


def reliability(calibration: pd.DataFrame, metrics: pd.DataFrame | None = None, *, part: str | None = None) -> Display:
    """Draw accuracy against confidence by bin, a panel per judge (the first four), with the number of verdicts below.

    Args:
        calibration: bins of judges (docs/formats.md).
        metrics: metrics of judges; gives the expected calibration error (ECE).
        part: which part of the log; the first by default.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["judge", "part", "bin", "low", "high", "n", "confidence"]
        >>> columns += ["accuracy", "accuracy_low", "accuracy_high"]
        >>> table = pd.DataFrame([("mine", "all", 0, 0.8, 0.9, 50, 0.85, 0.8, 0.7, 0.9)], columns=columns)
        >>> len(figures.reliability(table).axes)
        2
    """
    need(calibration, "calibration", _BINS)
    rows = _of_part(calibration, part)
    judges, each = list(dict.fromkeys(rows["judge"]))[:_MOST_PANELS], []
    with context():
        fig = sheet(WIDTH * (0.42 if len(judges) < 2 else 1.0), 2.9)
        axes = fig.subplots(2, max(len(judges), 1), sharex=True, squeeze=False, height_ratios=(3.2, 1))
        if not judges:
            notice(axes[0, 0], "no verdict of this log\nhas a probability")
            for ax in axes.ravel():
                ax.set_axis_off()
        for k, judge in enumerate(judges):
            own, error = rows[(rows["judge"] == judge) & (rows["n"] > 0)], _error(metrics, judge, rows["part"].iloc[0])
            panel = axes[0, k]
            strip = axes[1, k]
            panel.set_title(str(judge), pad=4)
            panel.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
            x, y = own["confidence"].to_numpy(dtype=float), own["accuracy"].to_numpy(dtype=float)
            ends = np.stack(
                [y - own["accuracy_low"].to_numpy(dtype=float), own["accuracy_high"].to_numpy(dtype=float) - y]
            )
            panel.vlines(x, np.minimum(x, y), np.maximum(x, y), color=FAINT, linewidth=3, zorder=1.5)
            panel.errorbar(
                x, y, yerr=np.clip(ends, 0, None), fmt="o-", markersize=3.2, linewidth=0.9, color=FOUND, zorder=3
            )
            panel.set_xlim(-0.03, 1.03)
            panel.set_ylim(-0.03, 1.03)
            if error:
                panel.text(0.03, 0.97, error, transform=panel.transAxes, va="top", fontsize=7, color=INK)
            strip.bar(
                own["low"], own["n"], width=own["high"] - own["low"], align="edge", color=FAINT, edgecolor="white"
            )
            strip.set_xlabel("probability of the verdict")
            each.append(f"{judge}: n = {int(own['n'].sum())}" + (f", {error}" if error else ""))
        if judges:
            axes[0, 0].set_ylabel("share right")
            axes[1, 0].set_ylabel("verdicts")
        settle(fig)
    text = (
        "Mean probability of the verdict against the share that is right, in ten equal-width bins "
        f"({'; '.join(each)}); whiskers are Wilson intervals that take verdicts as independent, the dotted line is "
        "perfect calibration, grey bars are the gap. Not shown: verdicts that could not be parsed or have no "
        "probability."
    )
    return Display(fig, text if each else "No verdict of this log has a probability.", calibration)


def _error(metrics: pd.DataFrame | None, judge: str, part: str) -> str:
    if metrics is None:
        return ""
    row = metrics[(metrics["judge"] == judge) & (metrics["part"] == part) & (metrics["name"] == "ece")]
    return f"ECE {interval(row.iloc[0])}" if len(row) and np.isfinite(row["estimate"].iloc[0]) else ""
