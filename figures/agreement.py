"""How far judges agree with the labels: accuracy, kappa and the order's or the leniency's side of it, by judge."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verdictscope.figures.style import FAINT, INK, MUTED, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import interval, need

_TABLE = "judge part name estimate low high n missing"
_PANELS = (
    ("a  Right", ("accuracy", "two_order_score", "consistent_accuracy", "accuracy_control", "accuracy_cued")),
    ("b  Beyond chance", ("kappa", "pi", "kappa_orders", "robust_rate")),
    ("c  Bias", ("position_bias", "preference_gap", "p_plus", "score_difference", "accuracy_change", "follow_change")),
)
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#8E4585", "#56B4E9", "#8a8a8a")
_WORDS = {
    "accuracy": "accuracy",
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
_MOST = 14


def _draw(table: pd.DataFrame, *, part: str | None = None) -> Figure:
    """The figure."""
    need(table, "judge figures", _TABLE)
    rows = _part(table, part)
    judges = [j for j in dict.fromkeys(rows["judge"]) if j != "(panel)"][:_MOST]
    with context():
        fig = sheet(WIDTH, 1.1 + 0.24 * max(len(judges), 3))
        axes = fig.subplots(1, len(_PANELS), sharey=True)
        for ax, (title, names) in zip(axes, _PANELS, strict=True):
            ax.set_title(title, pad=13)
            _dots(ax, rows, judges, names)
        axes[0].set_yticks(range(len(judges)), judges[::-1])
        axes[0].set_ylim(-0.6, max(len(judges), 1) - 0.4)
        settle(fig)
    return fig


def _part(table: pd.DataFrame, part: str | None) -> pd.DataFrame:
    if table.empty:
        return table
    return table[table["part"] == (table["part"].iloc[0] if part is None else part)]


def _dots(ax: Axes, rows: pd.DataFrame, judges: list[str], names: tuple[str, ...]) -> None:
    shown = [n for n in names if rows.loc[rows["name"] == n, "estimate"].notna().any()][:3]
    if not shown:
        notice(ax, "not measured in this log")
        ax.set_xticks([])
        return
    for k, name in enumerate(shown):
        own = rows[rows["name"] == name].drop_duplicates("judge").set_index("judge").reindex(judges)
        y = np.arange(len(judges))[::-1] + (k - (len(shown) - 1) / 2) * -0.22
        estimate, low, high = (own[c].to_numpy(dtype=float) for c in ("estimate", "low", "high"))
        bars = np.nan_to_num(np.stack([estimate - low, high - estimate]))
        ax.errorbar(
            estimate,
            y,
            xerr=np.clip(bars, 0, None),
            fmt="o",
            markersize=3,
            linewidth=0.9,
            color=_COLOURS[k],
            label=_WORDS[name],
            zorder=3,
        )
    for y in range(len(judges) - 1):
        ax.axhline(y + 0.5, color=FAINT, linewidth=0.5, zorder=1)
    ax.axvline(0, color=INK, linewidth=0.6, linestyle=(0, (1, 2)), zorder=1)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=1, labelcolor=MUTED, handlelength=1)


def _caption(table: pd.DataFrame, *, part: str | None = None) -> str:
    """Text of the caption."""
    need(table, "judge figures", _TABLE)
    rows = _part(table, part)
    first = rows[rows["name"].isin(["accuracy", "accuracy_control"])]
    told = [
        f"{row['judge']} {interval(row)} (n = {int(row['n'])}, {int(row['missing'])} missing)"
        for row in first.head(_MOST).to_dict("records")
    ]
    text = "No figures. "
    if len(rows):
        text = f"Figures by judge, part {rows['part'].iloc[0]}; bars are 95 % intervals by bootstrap over groups. "
    text += f"Accuracy: {'; '.join(told)}. " if told else ""
    return text + "Not shown: whether the labels are right, and how judges fare on items that were left out."


def agreement(table: pd.DataFrame, *, part: str | None = None) -> Display:
    """How far judges agree with the labels: accuracy, kappa and the order's or the leniency's side of it, by judge."""
    return Display(_draw(table, part=part), _caption(table, part=part), table)
