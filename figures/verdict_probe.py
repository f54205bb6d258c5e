"""What a judge says, read from its states: by layer and place, and the one test number among its nulls."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from verdictscope.figures.style import FOUND, INK, MUTED, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import counts, interval, need, number, p_text

_COLUMNS = "variant place kind name layer estimate low high n p"
_PLACES = {"last": "at the verdict", "think_end[0]": "first closing token", "think_end[-1]": "last closing token"}
_LINES = ("#222222", "#0072B2", "#009E73", "#D55E00")
_KINDS = {"test": FOUND, "part": "#8E4585", "baseline": INK, "permuted": MUTED, "control": MUTED}
_NAMES = {
    "AUROC, tokens": "the probe",
    "part that turns": "as shown: part that turns",
    "part that stays": "as shown: part that stays",
    "both parts": "as shown: both parts",
    "fitted to what stays": "as shown: fitted to what stays",
    "verdicts permuted between items": "verdicts permuted",
}


def _draw(table: pd.DataFrame) -> Figure:
    """The figure."""
    need(table, "verdict_probe", _COLUMNS)
    table = _own(table)
    first = table[table["place"] == _first(table)] if len(table) else table
    shown = pd.concat([first[first["kind"] == kind] for kind in _KINDS]) if len(first) else first
    with context():
        fig = sheet(WIDTH, max(2.3, 1.05 + 0.185 * len(shown)), gap=0.06)
        left, right = fig.subplots(1, 2, width_ratios=(1, 1.05))
        left.set_title("a  By layer (validation items)")
        right.set_title("b  On new items, at the verdict")
        if table.empty:
            for ax in (left, right):
                ax.set_axis_off()
                notice(ax, "the table has no rows")
            return fig
        _layers(left, table)
        _among(right, shown)
        settle(fig)
    return fig


def _own(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["variant"].isin(["", "base"])] if len(set(table["variant"])) > 1 else table


def _first(table: pd.DataFrame) -> str:
    return str(table["place"].iloc[0])


def _layers(ax: Axes, table: pd.DataFrame) -> None:
    for colour, (place, rows) in zip(
        _LINES, table[table["kind"] == "layer"].groupby("place", sort=False), strict=False
    ):
        rows = rows.sort_values("layer")
        ax.fill_between(rows["layer"], rows["low"], rows["high"], color=colour, alpha=0.09, linewidth=0)
        ax.plot(
            rows["layer"],
            rows["estimate"],
            color=colour,
            marker="o",
            markersize=3,
            label=_PLACES.get(str(place), str(place)),
        )
        test = table[(table["place"] == place) & (table["kind"] == "test")]
        at = rows[rows["layer"].isin(test["layer"])]
        ax.plot(
            at["layer"],
            at["estimate"],
            linestyle="none",
            marker="o",
            markersize=6.5,
            markerfacecolor="none",
            markeredgecolor=colour,
        )
    ax.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
    ax.set_ylim(min(0.4, ax.get_ylim()[0]), 1.03)
    ax.set_xlabel("layer (ring: chosen)")
    ax.set_ylabel("AUROC (0.5 = chance)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    ax.legend(loc="lower right")


def _among(ax: Axes, rows: pd.DataFrame) -> None:
    known = rows[rows["estimate"].notna()]
    for y, row in enumerate(known.itertuples()):
        colour = _KINDS[str(row.kind)]
        ax.plot([row.low, row.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
        ax.plot(row.estimate, y, marker="o", color=colour, markersize=3.8)
    ax.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(known)), [_NAMES.get(str(name), str(name)) for name in known["name"]])
    ax.invert_yaxis()
    ax.set_xlim(min(0.4, float(known["low"].min()) - 0.03), 1.03)
    ax.set_xlabel("AUROC\n(grey: range over draws; else 95 % interval)")


def _caption(table: pd.DataFrame) -> str:
    """Text of the caption."""
    need(table, "verdict_probe", _COLUMNS)
    table = _own(table)
    if not (table["kind"] == "test").any():
        return "No probe of the verdict was fitted."
    first = table[table["place"] == _first(table)]
    test = first[first["kind"] == "test"].iloc[0]
    text = [
        "AUROC (0.5 is chance) of linear probes of what the judge says, fitted to half the difference of its states in "
        "the two orders: exchanging the answers turns the score round exactly, so that a preference for a place cannot "
        "feed it. (a) Validation items by layer, bands two standard errors; the ringed layer was chosen there. "
        f"(b) The chosen probe on new items: {interval(test)}, {counts([test['n']])} item groups."
    ]
    null = first[first["kind"] == "permuted"]
    if len(null):
        text.append(
            f"With verdicts permuted between items and the choice made anew, refits read "
            f"{number(null['low'].iloc[0])} to {number(null['high'].iloc[0])} ({p_text(test['p'])})."
        )
    turns, stays = (
        first[(first["kind"] == "part") & (first["name"] == name)]
        for name in ("part that turns", "fitted to what stays")
    )
    if len(turns) and len(stays) and stays["estimate"].notna().all():
        text.append(
            "Which side wins as shown, over all items, those included whose verdict the order changes: the "
            f"part that turns with the answers reads it with {interval(turns.iloc[0])}, a probe fitted to the "
            f"part that stays (position) with {interval(stays.iloc[0])}."
        )
    others = [
        f"{_PLACES.get(str(r['place']), r['place'])} {interval(r)}"
        for r in table[(table["kind"] == "test") & (table["place"] != _first(table))].to_dict("records")
    ]
    if others:
        text.append(f"Elsewhere: {'; '.join(others)}.")
    text.append("Not shown: that the judge uses what is read, or that what it says is right.")
    return " ".join(text)


def verdict_probe(table: pd.DataFrame) -> Display:
    """What a judge says, read from its states: by layer and place, and the one test number among its nulls."""
    return Display(_draw(table), _caption(table), table)
