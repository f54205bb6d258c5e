"""Shares of a readout, by layer and head: a bar per layer and kind of component, and a map of the heads."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verdictscope.figures.grid import colour_bar, fits, heat_map, thinned, write_values
from verdictscope.figures.style import FAINT, INK, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import counts, head_name, interval, need, number

_COLUMNS = "component layer head estimate low high n"
_KINDS = {"heads": "#0072B2", "MLP": "#E69F00", "other": "#999999"}
_KIND_OF = {"head": "heads", "mlp": "MLP"}
_CHECKS = ("logit", "residual")


def _draw(table: pd.DataFrame, name: str = "readout") -> Figure:
    """The figure."""
    need(table, "attribution", _COLUMNS)
    parts = table[~table["component"].isin(_CHECKS)]
    heads = parts[parts["component"] == "head"]
    with context():
        rows = max(1, parts["layer"].nunique())
        height = float(np.clip(1.2 + 0.26 * rows, 2.6, 5.0))
        fig = sheet(WIDTH, height, gap=0.06)
        left, right = fig.subplots(1, 2, width_ratios=(1, 1.3))
        left.set_title("a  Shares by layer")
        right.set_title("b  Shares of the heads")
        _bars(left, parts, name)
        _map(right, heads, name, height - 1.0)
        settle(fig)
    return fig


def _bars(ax: Axes, parts: pd.DataFrame, name: str) -> None:
    """Layers upwards, below them what belongs to none."""
    if parts.empty:
        notice(ax, "the table has no rows")
        return
    kind = parts["component"].map(_KIND_OF).fillna("other")
    label = parts["layer"].where(parts["layer"] >= 0, -1)
    sums = parts.assign(kind=kind, at=label).groupby(["at", "kind"])["estimate"].sum().unstack(fill_value=0.0)
    places = np.arange(len(sums))
    ax.axvline(0, color=FAINT, linewidth=0.7, zorder=0)
    shown = [k for k in _KINDS if k in sums]
    for i, k in enumerate(shown):
        ax.barh(places + (i - (len(shown) - 1) / 2) * 0.27, sums[k], height=0.25, color=_KINDS[k], label=k)
    names = ["embedding,\nbiases" if layer < 0 else str(int(layer)) for layer in sums.index]
    ticks = sorted({0, *thinned(len(names), 3.0, 0.16)}) if len(names) > 12 else list(range(len(names)))
    ax.set_yticks(ticks, [names[t] for t in ticks])
    ax.set_ylabel("layer")
    ax.set_xlabel(f"share of {name}", parse_math=False)
    ax.legend(loc="best", handlelength=1.0)


def _map(ax: Axes, heads: pd.DataFrame, name: str, high: float) -> None:
    if heads.empty:
        ax.set_axis_off()
        notice(ax, "no heads in the table")
        return
    first = int(heads["layer"].min())
    values = np.full((int(heads["layer"].max()) - first + 1, int(heads["head"].max()) + 1), np.nan)
    values[heads["layer"].astype(int) - first, heads["head"].astype(int)] = heads["estimate"].astype(float)
    reach = float(np.nanmax(np.abs(values))) or 1.0
    image = heat_map(ax, values, centre=0.0, reach=reach)
    rows, columns = values.shape
    if fits(rows, columns, 3.0, high):
        write_values(ax, image, values, lambda v: number(v, signed=True) if abs(v) >= 0.005 else "0", high / rows)
    for axis, count, inches, start in ((ax.yaxis, rows, high, first), (ax.xaxis, columns, 3.0, 0)):
        ticks = thinned(count, inches, 0.16)
        axis.set_ticks(ticks, [str(start + t) for t in ticks])
    ax.set_xlabel("head", color=INK)
    ax.set_ylabel("layer", color=INK)
    colour_bar(ax, image, "share")


def _caption(table: pd.DataFrame, name: str = "readout") -> str:
    """Text of the caption."""
    need(table, "attribution", _COLUMNS)
    told = table[table["component"] == "logit"]
    left = table[table["component"] == "residual"]
    heads = table[table["component"] == "head"].sort_values("estimate", key=np.abs, ascending=False)
    text = [f"Exact shares of {name} at the point of reading ({counts(table['n'])} prompt groups)."]
    if len(told):
        text.append(
            f"They sum to {interval(told.iloc[0], signed=True)}, less a residual of mean size "
            f"{abs(float(left['estimate'].iloc[0])):.0e}."
            if len(left)
            else ""
        )
    if len(heads):
        most = "; ".join(
            f"{head_name(r['layer'], r['head'])} {interval(r, signed=True)}" for _, r in heads.head(3).iterrows()
        )
        text.append(f"Largest heads (95 % intervals): {most}.")
    text.append(
        "Not shown: what a head does through later heads and MLPs; any direction has writers, a random one too."
    )
    return " ".join(t for t in text if t)


def attribution(table: pd.DataFrame, name: str = "readout") -> Display:
    """Shares of a readout, by layer and head: a bar per layer and kind of component, and a map of the heads."""
    return Display(_draw(table, name), _caption(table, name), table)
