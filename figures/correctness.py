"""Latent knowledge: the right answer read from a judge's states, beside its verdict."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from verdictscope.figures.style import FAINT, FOUND, MUTED, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import counts, interval, need, number, of_base

_COLUMNS = "variant kind condition name layer estimate low high n null_low null_high"
_WRONG = "right where the verdict is wrong"
_MIRROR = f"{_WRONG}, by a probe of the verdict"
_VIEW = f"{_WRONG}, by a probe of the uncued verdict"
_LEVEL = "right, with right and wrong verdicts weighed equally"
_STATED = "right as stated, orders averaged"
_SAYS, _MIRRORS, _VIEWS = "#D55E00", "#999999", "#0072B2"


def correctness(table: pd.DataFrame) -> Display:
    """Draw, by condition, how often a probe of the correct answer and the verdict are right (latent knowledge).

    Args:
        table: correctness.parquet; of several variants the model under study is drawn.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = "variant kind condition name layer estimate low high n null_low null_high"
        >>> row = ("", "test", "plain", "right", 2, 0.8, 0.7, 0.9, 40, 0.4, 0.6)
        >>> len(figures.correctness(pd.DataFrame([row], columns=columns.split())).axes)
        3
    """
    given = table
    need(table, "correctness", _COLUMNS)
    table = of_base(table)
    tested = table[table["kind"] != "layer"]
    names = list(dict.fromkeys(tested.loc[tested["name"] == "right", "condition"].astype(str)))
    with context():
        fig = sheet(WIDTH, 3.0, gap=0.05)
        axes = fig.subplots(1, 3, width_ratios=(1, 1, 0.95))
        for ax, title in zip(axes, ("a  All items", "b  Where it is wrong", "c  The same, by layer"), strict=True):
            ax.set_title(title)
        if not names:
            for ax in axes:
                ax.set_axis_off()
                notice(ax, "the table has no rows")
            return Display(fig, "No probe of the right answer was fitted.", given)
        _points(axes[0], tested, names, {"right": ("probe of the right answer", FOUND), _STATED: ("verdict", _SAYS)})
        _points(
            axes[1],
            tested,
            names,
            {
                _WRONG: ("probe of the right answer", FOUND),
                _VIEW: ("probe of the uncued verdict", _VIEWS),
                _MIRROR: ("probe of the verdict", _MIRRORS),
            },
        )
        axes[0].set_yticks(range(len(names)), names)
        axes[1].set_yticks(range(len(names)), [""] * len(names))
        panel = axes[2]
        condition = _pushed(table, names)
        rows = table[(table["kind"] == "layer") & (table["condition"] == condition) & table["estimate"].notna()]
        if not rows["name"].eq(_WRONG).any():
            panel.set_axis_off()
            notice(panel, "no validation item is judged wrongly")
        else:
            for name, colour, marker in ((_WRONG, FOUND, "o"), (_MIRROR, _MIRRORS, "s")):
                line = rows[rows["name"] == name].sort_values("layer")
                panel.fill_between(line["layer"], line["low"], line["high"], color=colour, alpha=0.12, linewidth=0)
                panel.plot(line["layer"], line["estimate"], color=colour, marker=marker, markersize=3.5)
            panel.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
            panel.set_ylim(-0.04, 1.04)
            panel.set_xlabel(f"layer ({condition}, validation)")
            panel.set_ylabel("share right")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        settle(fig)
    return Display(fig, _caption(table), given)


def _points(ax: Axes, tested: pd.DataFrame, names: list[str], shown: dict[str, tuple[str, str]]) -> None:
    for at, (name, (words, colour)) in enumerate(shown.items()):
        for y, condition in enumerate(names):
            rows = tested[(tested["condition"] == condition) & (tested["name"] == name) & tested["estimate"].notna()]
            if rows.empty:
                if not at:
                    ax.text(0.5, y, "no such item", ha="center", va="center", fontsize=7, color=MUTED)
                continue
            if pd.isna(rows["low"].iloc[0]):
                if not at:
                    ax.text(0.5, y, "one item group", ha="center", va="center", fontsize=7, color=MUTED)
                continue
            row, height = rows.iloc[0], y + 0.24 * (at - (len(shown) - 1) / 2)
            if pd.notna(row["null_low"]):
                ax.plot(
                    [row["null_low"], row["null_high"]],
                    [height, height],
                    color=FAINT,
                    linewidth=5,
                    solid_capstyle="butt",
                    zorder=1,
                )
            ax.plot([row["low"], row["high"]], [height, height], color=colour, linewidth=1.5, zorder=2)
            # the first condition in which a name has a number
            counted = tested[(tested["name"] == name) & tested["estimate"].notna()]
            there = set(counted["condition"].astype(str))
            ax.plot(
                row["estimate"],
                height,
                marker=("os", "o^s")[len(shown) > 2][at],
                color=colour,
                markersize=4,
                zorder=3,
                linestyle="none",
                label=words if y == next((y for y, condition in enumerate(names) if condition in there), -1) else None,
            )
    ax.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
    ax.set_xlim(-0.04, 1.04)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel("share right")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=1)


def _pushed(table: pd.DataFrame, names: list[str]) -> str:
    """The condition with most wrong verdicts."""
    rows = table[
        (table["kind"] != "layer")
        & (table["name"] == _WRONG)
        & table["condition"].isin(names)
        & (table["condition"] != "all cues")
    ]
    return str(rows.loc[rows["n"].astype(float).idxmax(), "condition"]) if len(rows) else names[0]


def _caption(table: pd.DataFrame) -> str:
    tested = table[(table["kind"] != "layer") & table["estimate"].notna()]
    if tested.empty:
        return "No probe of the right answer was fitted."
    text = [
        "Probe of the right answer, fitted on uncued verdicts and applied to new items of every condition. (a) Share "
        "of items right, beside the verdict averaged over both orders. (b) The same where that verdict is wrong; 0 for "
        "a probe that mirrors the verdict (squares)."
    ]
    pushed = _pushed(table, list(tested["condition"].unique()))
    for name, words in (
        (_WRONG, "right where the verdict is wrong"),
        (_LEVEL, "right and wrong verdicts weighed equally"),
    ):
        rows = tested[(tested["name"] == name) & (tested["condition"] == pushed)]
        if len(rows):
            row = rows.iloc[0]
            null = f"{number(row['null_low'])} to {number(row['null_high'])}"
            text.append(f"{pushed}, {words}: {interval(row)}, {counts([row['n']])}, permuted labels {null}.")
    text.append("(c) Validation items. Lines are 95 % intervals over item groups. Not shown: that the judge uses it.")
    return " ".join(text)
