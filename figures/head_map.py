"""Every head's exact effect on the refusal log-odds, beside what each writes to the readout directly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from verdictscope.figures import bias_map
from verdictscope.figures.grid import colour_bar, fits, heat_map, outline, thinned, write_values
from verdictscope.figures.labels import place_labels
from verdictscope.figures.style import FAINT, FOUND, INK, MUTED, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import Heads, counts, head_name, interval, need, pairs, truth

_COLUMNS = "layer head effect low high n attribution_log_odds attribution_probe rank found"
_NAMED = 6  # more names than this cover one another
_PLANTED: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markerfacecolor": "white",
    "markeredgecolor": INK,
    "markeredgewidth": 0.9,
}
_READOUTS = {"attribution_log_odds": "refusal log-odds (nats)", "attribution_probe": "probe logit"}


def _refusal_map(heads: pd.DataFrame, *, planted: Heads | None = None) -> Figure:
    """One contrast (refusal): the map, and effect against direct attribution."""
    need(heads, "heads", _COLUMNS)
    table = _sorted(heads)
    truth_heads = pairs(planted) if planted is not None else None
    with context():
        height = float(np.clip(1.15 + 0.32 * table["layer"].nunique(), 2.6, 3.3))
        fig = sheet(WIDTH, height, gap=0.06)
        left, right = fig.subplots(1, 2, width_ratios=(1.4, 1))
        left.set_title("a  Effect of zeroing each head alone")
        right.set_title("b  Direct write against effect")
        if table.empty:
            for ax in (left, right):
                ax.set_axis_off()
                notice(ax, "the table has no rows")
            return fig
        _map(left, table, truth_heads, height - 1.0)
        _scatter(right, table, truth_heads)
        _legend(fig, table, truth_heads)
        settle(fig)
        _name_heads(right, table, truth_heads)
    return fig


def _sorted(heads: pd.DataFrame) -> pd.DataFrame:
    table = heads.dropna(subset=["layer", "head"]).astype({"layer": int, "head": int})
    table = table[table["head"] >= 0]  # whole sublayers are in the table, not in the map
    return table.drop_duplicates(["layer", "head"]).assign(found=truth(table["found"])).sort_values("rank")


def _map(ax: Axes, table: pd.DataFrame, planted: list[tuple[int, int]] | None, high: float) -> None:
    """The map, ``high`` inches without what stands around it."""
    values, first = _grid(table)
    reach = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
    image = heat_map(ax, values, centre=0.0, reach=reach or 1.0)
    rows, columns = values.shape
    inner = 2.75, high
    written = fits(rows, columns, *inner)
    if written:
        digits = 1 if reach >= 1 else 2
        write_values(ax, image, values, lambda value: _signed(value, digits), inner[1] / rows)
    for axis, count, inches, start in ((ax.yaxis, rows, inner[1], first), (ax.xaxis, columns, inner[0], 0)):
        ticks = thinned(count, inches, 0.16)
        axis.set_ticks(ticks, [str(start + tick) for tick in ticks])
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    for row in table[table["found"]].itertuples():
        outline(ax, row.head, row.layer - first, line=1.5 if columns <= 16 else 1.0)
    for layer, head in planted or []:
        # In the corner where a number fills the middle.
        x, y = (head + 0.36, layer - first + 0.32) if written else (head, layer - first)
        ax.plot(x, y, markersize=3.4 if columns <= 16 else 2.4, zorder=5, clip_on=False, **_PLANTED)
    colour_bar(ax, image, "change of refusal log-odds (nats)")


def _grid(table: pd.DataFrame) -> tuple[Float[np.ndarray, "layer head"], int]:
    """Effects from the first to the last layer of the table, NaN where a layer has no head to zero."""
    first = int(table["layer"].min())
    values = np.full((int(table["layer"].max()) - first + 1, int(table["head"].max()) + 1), np.nan)
    values[table["layer"] - first, table["head"]] = table["effect"].astype(float)
    return values, first


def _signed(value: float, digits: int) -> str:
    """As few letters as a cell holds, and no sign before what rounds to nothing."""
    text = f"{value:+.{digits}f}" if abs(value) < 9.95 else f"{value:+.0f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def _attribution(table: pd.DataFrame) -> str | None:
    """The attribution to draw: to the log-odds where that readout has a linear form, else to the probe."""
    return next((name for name in _READOUTS if table[name].astype(float).notna().any()), None)


def _scatter(ax: Axes, table: pd.DataFrame, planted: list[tuple[int, int]] | None) -> None:
    name = _attribution(table)
    ax.set_ylabel("effect of zeroing (nats)")
    if name is None:
        notice(ax, "no direct attribution\nin the table")
        ax.set(xticks=[], yticks=[])
        return
    ax.axhline(0, color=FAINT, linewidth=0.7, zorder=0)
    ax.axvline(0, color=FAINT, linewidth=0.7, zorder=0)
    _points(ax, table[~table["found"]], name, "o", "#9a9a9a", many=len(table) > 150)
    _points(ax, table[table["found"]], name, "s", FOUND)
    known = table[_among(table, planted)]
    ax.plot(known[name].astype(float), known["effect"].astype(float), markersize=3.0, zorder=5, **_PLANTED)
    ax.set_xlabel(f"direct share of {_READOUTS[name]}")
    ax.locator_params(nbins=5)
    ax.margins(0.12)
    if name == "attribution_log_odds":
        _direct_line(ax)


def _points(ax: Axes, rows: pd.DataFrame, name: str, marker: str, colour: str, many: bool = False) -> None:
    """Heads as points with their intervals; of a thousand small ones the intervals would hide the points."""
    x, y = rows[name].astype(float), rows["effect"].astype(float)
    whiskers = np.vstack([y - rows["low"].astype(float), rows["high"].astype(float) - y]).clip(0)
    ax.errorbar(
        x,
        y,
        yerr=None if many else whiskers,
        fmt=marker,
        color=colour,
        elinewidth=0.7,
        markersize=2.0 if many else 3.2 if marker == "o" else 5.0,
        alpha=0.6 if many else 1.0,
        markeredgecolor="none" if many else "white",
        markeredgewidth=0.4,
        zorder=3 + (marker == "s"),
    )


def _among(table: pd.DataFrame, planted: Sequence[tuple[int, int]] | None) -> pd.Series:
    """Which rows are planted heads."""
    known = set(planted or [])
    return pd.Series(
        [pair in known for pair in zip(table["layer"], table["head"], strict=True)], index=table.index, dtype=bool
    )


def _direct_line(ax: Axes) -> None:
    """Where a head would stand if zeroing it took away what it writes and nothing else: effect = −share."""
    limits = ax.get_xlim(), ax.get_ylim()
    ends = np.array(limits[0])
    ax.plot(ends, -ends, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
    ax.set(xlim=limits[0], ylim=limits[1])


def _named(table: pd.DataFrame, planted: list[tuple[int, int]] | None) -> pd.DataFrame:
    """The heads to name: those found, then those planted and missed, strongest first, up to six."""
    rows = table[table["found"] | _among(table, planted)]
    rows = rows if len(rows) else table.head(3)
    return rows.sort_values(["found", "rank"], ascending=[False, True]).head(_NAMED)


def _name_heads(ax: Axes, table: pd.DataFrame, planted: list[tuple[int, int]] | None) -> None:
    name = _attribution(table)
    if name is None:
        return
    points = table[[name, "effect"]].astype(float).dropna()
    rows = _named(table.loc[points.index], planted)
    spots = [(float(x), float(y)) for x, y in points.loc[rows.index].to_numpy()]
    place_labels(
        ax,
        spots,
        [head_name(row.layer, row.head) for row in rows.itertuples()],
        [(float(x), float(y)) for x, y in points.drop(rows.index).to_numpy()],
    )


def _legend(fig: Figure, table: pd.DataFrame, planted: Sequence[tuple[int, int]] | None) -> None:
    handles: list[Line2D] = []
    if table["found"].any():
        handles.append(
            Line2D([], [], linestyle="none", marker="s", markersize=6.0, color=FOUND, label="found (framed in a)")
        )
    if planted:
        handles.append(Line2D([], [], markersize=3.6, label="planted", **_PLANTED))
    if _attribution(table) == "attribution_log_odds":
        handles.append(
            Line2D(
                [], [], color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)), label="direct path alone: effect = −share"
            )
        )
    if handles:
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.8)


def _refusal_caption(heads: pd.DataFrame, planted: Heads | None = None) -> str:
    """Text of the caption."""
    need(heads, "heads", _COLUMNS)
    table = _sorted(heads)
    text = [
        f"Change of the refusal log-odds (nats) when one head alone is zeroed, for all {len(table)} heads, on "
        f"the reporting half ({counts(table['n'])}); above 0 the head holds refusing back."
    ]
    found = table[table["found"]]
    if len(found):
        shown = "; ".join(
            f"{head_name(row['layer'], row['head'])} {interval(row, 'effect', signed=True)}"
            for _, row in found.head(_NAMED).iterrows()
        )
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        text.append(f"Found heads (ranked on the other half; 95 % intervals): {shown}{more}.")
    else:
        text.append("No head was found.")
    if planted is not None:
        known = pairs(planted)
        hits = sum(pair in set(zip(found["layer"], found["head"], strict=True)) for pair in known)
        text.append(
            f"Open dots mark the planted heads, known from how the model was made: {hits} of {len(known)} found."
        )
    name = _attribution(table)
    if name is not None:
        text.append(
            f"(b) The same effects, whiskers their 95 % intervals, against each head's exact share of the "
            f"{_READOUTS[name].removesuffix(' (nats)')} at the point of reading."
        )
    text.append(
        "Not shown: heads that stand in for one another (zeroing one alone then does little), and what a "
        "share that is written directly does further down: attribution is no effect."
    )
    return " ".join(text)


def head_map(
    table: pd.DataFrame, *, planted: Heads | None = None, variant: str = "base", left_out: str | None = None
) -> Display:
    """Every head's exact effect on the refusal log-odds, beside what each writes to the readout directly."""
    if "contrast" in table.columns:
        figure = bias_map.draw(table, variant=variant, planted=planted)
        return Display(figure, bias_map.caption(table, variant=variant, planted=planted, left_out=left_out), table)
    return Display(_refusal_map(table, planted=planted), _refusal_caption(table, planted), table)
