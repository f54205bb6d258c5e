"""A judge's verdict after every turn of debates: what turns round with the sides, and what stays."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from verdictscope.figures.style import FAINT, INK, Display, context, notice, settle, sheet
from verdictscope.figures.tables import counts, interval, need

_COLUMNS = "part readout turn estimate low high n n_missing"
_COLOURS = {"content": INK, "position": "#8a8a8a"}
_WORDS = {"content": "content: towards the right side", "position": "position: towards the side shown first"}


def _draw(curves: pd.DataFrame, *, readout: str = "verdict") -> Figure:
    """The figure."""
    need(curves, "curves", _COLUMNS)
    rows = curves[curves["readout"] == readout]
    with context():
        fig = sheet(4.2, 2.9)
        panel, strip = fig.subplots(2, 1, sharex=True, height_ratios=(5, 1))
        panel.axhline(0, color=FAINT, linewidth=0.9, zorder=0)
        for part in _COLOURS:
            _line(panel, strip, rows[(rows["part"] == part) & (rows["n"] > 0)].sort_values("turn"), part)
        if not (rows["n"] > 0).any():
            notice(panel, "no verdict was read in both orders")
        panel.set_ylabel("log-odds (nats)" if readout == "verdict" else f"{readout} score")
        strip.set_ylabel("n")
        strip.set_xlabel("turns heard (0: none)")
        strip.xaxis.set_major_locator(MaxNLocator(integer=True))
        most = max(int(rows["n"].max()) if len(rows) else 1, 1)
        strip.set_ylim(0, most * 1.25)
        strip.set_yticks([0, most])
        handles, labels = panel.get_legend_handles_labels()
        if handles:
            fig.legend(handles, labels, loc="outside upper left")
        settle(fig)
    return fig


def _line(panel: Axes, strip: Axes, rows: pd.DataFrame, part: str) -> None:
    if rows.empty:
        return
    colour = _COLOURS[part]
    panel.fill_between(rows["turn"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
    panel.plot(rows["turn"], rows["estimate"], color=colour, marker="o", markersize=3.2, label=_WORDS[part])
    strip.plot(rows["turn"], rows["n"], color=colour, marker="o", markersize=2.2, linewidth=0.8)


def _caption(curves: pd.DataFrame, *, readout: str = "verdict") -> str:
    """Text of the caption."""
    need(curves, "curves", _COLUMNS)
    rows = curves[(curves["readout"] == readout) & (curves["n"] > 0)]
    text = [
        "A judge's verdict if the debate ended after so many turns. Content turns round when the two sides change "
        "places in the prompt, position stays; 0 is the null of each. Bands are 95 % intervals over groups, "
        f"{counts(rows['n'])} debates by turn."
    ]
    for part in _COLOURS:
        own = rows[rows["part"] == part].sort_values("turn")
        if len(own):
            (first, last), (start, end) = (
                [interval(own.iloc[at], signed=True) for at in (0, -1)],
                [own["turn"].iloc[at] for at in (0, -1)],
            )
            text.append(f"{part.capitalize()}: {first} after {start} turns, {last} after {end}.")
    missing = int(curves.loc[curves["readout"] == readout, "n_missing"].max()) if len(curves) else 0
    if missing:
        text.append(f"Up to {missing} debates have no verdict in one of the orders at a turn, and are left out there.")
    text.append(
        "Not shown: that one turn made the difference, since later turns stand on earlier ones, and longer "
        "debates alone are left at the right."
    )
    return " ".join(text)


def debate(curves: pd.DataFrame, *, readout: str = "verdict") -> Display:
    """A judge's verdict after every turn of debates: what turns round with the sides, and what stays."""
    return Display(_draw(curves, readout=readout), _caption(curves, readout=readout), curves)
