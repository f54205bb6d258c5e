"""Does a judge know better than it says: the right answer read from its states, beside the verdict it states."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from verdictscope.figures.style import FAINT, FOUND, MUTED, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import counts, interval, need, number

_COLUMNS = "variant kind condition name layer estimate low high n null_low null_high"
_WRONG = "right where the verdict is wrong"
_MIRROR = f"{_WRONG}, by a probe of the verdict"
_VIEW = f"{_WRONG}, by a probe of the uncued verdict"
_LEVEL = "right, with right and wrong verdicts weighed equally"
_STATED = "right as stated, orders averaged"
_SAYS, _MIRRORS, _VIEWS = "#D55E00", "#999999", "#0072B2"


def _draw(table: pd.DataFrame) -> Figure:
    """The figure."""
    need(table, "correctness", _COLUMNS)
    table = _own(table)
    told = table[table["kind"] != "layer"]
    names = list(dict.fromkeys(told.loc[told["name"] == "right", "condition"].astype(str)))
    with context():
        fig = sheet(WIDTH, 3.0, gap=0.05)
        axes = fig.subplots(1, 3, width_ratios=(1, 1, 0.95))
        for ax, title in zip(axes, ("a  All items", "b  Where it is wrong", "c  The same, by layer"), strict=True):
            ax.set_title(title)
        if not names:
            for ax in axes:
                ax.set_axis_off()
                notice(ax, "the table has no rows")
            return fig
        _points(axes[0], told, names, {"right": ("probe of the right answer", FOUND), _STATED: ("verdict", _SAYS)})
        _points(
            axes[1],
            told,
            names,
            {
                _WRONG: ("probe of the right answer", FOUND),
                _VIEW: ("probe of the uncued verdict", _VIEWS),
                _MIRROR: ("probe of the verdict", _MIRRORS),
            },
        )
        axes[0].set_yticks(range(len(names)), names)
        axes[1].set_yticks(range(len(names)), [""] * len(names))
        _by_layer(axes[2], table, names)
        settle(fig)
    return fig


def _own(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["variant"].isin(["", "base"])] if len(set(table["variant"])) > 1 else table


def _points(ax: Axes, told: pd.DataFrame, names: list[str], shown: dict[str, tuple[str, str]]) -> None:
    for at, (name, (words, colour)) in enumerate(shown.items()):
        for y, condition in enumerate(names):
            rows = told[(told["condition"] == condition) & (told["name"] == name) & told["estimate"].notna()]
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
            ax.plot(
                row["estimate"],
                height,
                marker=("os", "o^s")[len(shown) > 2][at],
                color=colour,
                markersize=4,
                zorder=3,
                linestyle="none",
                label=words if y == _seen(told, names, name) else None,
            )
    ax.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
    ax.set_xlim(-0.04, 1.04)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel("share right")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=1)


def _seen(told: pd.DataFrame, names: list[str], name: str) -> int:
    """The first condition in which a name has a number."""
    rows = told[(told["name"] == name) & told["estimate"].notna()]
    there = set(rows["condition"].astype(str))
    return next((y for y, condition in enumerate(names) if condition in there), -1)


def _pushed(table: pd.DataFrame, names: list[str]) -> str:
    """The condition with most wrong verdicts."""
    rows = table[
        (table["kind"] != "layer")
        & (table["name"] == _WRONG)
        & table["condition"].isin(names)
        & (table["condition"] != "all cues")
    ]
    return str(rows.loc[rows["n"].astype(float).idxmax(), "condition"]) if len(rows) else names[0]


def _by_layer(ax: Axes, table: pd.DataFrame, names: list[str]) -> None:
    condition = _pushed(table, names)
    rows = table[(table["kind"] == "layer") & (table["condition"] == condition) & table["estimate"].notna()]
    if not rows["name"].eq(_WRONG).any():
        ax.set_axis_off()
        notice(ax, "no validation item is judged wrongly")
        return
    for name, colour, marker in ((_WRONG, FOUND, "o"), (_MIRROR, _MIRRORS, "s")):
        line = rows[rows["name"] == name].sort_values("layer")
        ax.fill_between(line["layer"], line["low"], line["high"], color=colour, alpha=0.12, linewidth=0)
        ax.plot(line["layer"], line["estimate"], color=colour, marker=marker, markersize=3.5)
    ax.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
    ax.set_ylim(-0.04, 1.04)
    ax.set_xlabel(f"layer ({condition}, validation)")
    ax.set_ylabel("share right")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _caption(table: pd.DataFrame) -> str:
    """Text of the caption."""
    need(table, "correctness", _COLUMNS)
    table = _own(table)
    told = table[(table["kind"] != "layer") & table["estimate"].notna()]
    if told.empty:
        return "No probe of the right answer was fitted."
    text = [
        "Dots: a probe of which answer is right, fitted where nothing pushes the verdict and read on new items of "
        "every condition; its score turns round with the answers and needs no threshold. (a) Share of items it gets "
        "right, beside the judge's own verdict, averaged over the two orders. (b) The same where that verdict is "
        "wrong: 0 for a probe that only mirrors the verdict, as a probe of the verdict itself (squares) should; "
        "triangles: a probe of the verdict it gives without a cue, its own view."
    ]
    pushed = told[(told["name"] == _WRONG) & (told["condition"] == _pushed(table, list(told["condition"].unique())))]
    if len(pushed):
        row = pushed.iloc[0]
        text.append(
            f"In {row['condition']}: {interval(row)} right of {counts([row['n']])} wrong verdicts; pale bars "
            f"are refits with labels permuted between items ({number(row['null_low'])} to "
            f"{number(row['null_high'])})."
        )
    level = told[(told["name"] == _LEVEL) & (told["condition"] == _pushed(table, list(told["condition"].unique())))]
    if len(level):
        row = level.iloc[0]
        text.append(
            "What reads against the side a cue names is right on all of these, so the test is on right and "
            f"wrong verdicts weighed equally: {interval(row)}, permuted {number(row['null_low'])} to "
            f"{number(row['null_high'])}."
        )
    gaps = told[(told["name"] == "gap to stated, orders averaged")]
    if len(gaps):
        each = "; ".join(f"{r['condition']} {interval(r, signed=True)}" for r in gaps.to_dict("records"))
        text.append(f"Probe less verdict over all items, paired: {each}.")
    text.append(
        "(c) Validation items, on which the layer was chosen. Lines and bars are 95 % intervals over item "
        "groups. Not shown: that the judge could be brought to say what is read, or that it uses it."
    )
    return " ".join(text)


def correctness(table: pd.DataFrame) -> Display:
    """Does a judge know better than it says: the right answer read from its states, beside the verdict it states."""
    return Display(_draw(table), _caption(table), table)
