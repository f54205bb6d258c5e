"""Probes fitted at one place and read at another: a map of AUROCs, each judged against its own null."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verdictscope.figures.grid import colour_bar, fits, heat_map, outline, write_values
from verdictscope.figures.style import INK, MUTED, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import counts, interval, need, number

_COLUMNS = "fit read kind auroc low high n n_fit null_low null_high"
_LETTER = 0.06  # inches a letter takes at the size of the names beside the map


def _draw(table: pd.DataFrame, *, over: str = "") -> Figure:
    """The figure."""
    need(table, "transfer", _COLUMNS)
    fit, read, values = _grid(table)
    with context():
        names = max((len(name) for name in fit), default=1) * _LETTER
        below = max((len(name) for name in read), default=1) * _LETTER
        width = min(WIDTH, max(3.2, names + 1.2 + 0.45 * len(read)))
        height = min(7.5, max(1.8, below + 0.95 + 0.27 * len(fit)))
        fig = sheet(width, height)
        ax = fig.subplots()
        if not values.size:
            ax.set_axis_off()
            notice(ax, "the table has no rows")
            return fig
        image = heat_map(ax, values, centre=0.5, reach=0.5)
        inner = width - names - 1.0, height - below - 0.6
        if fits(len(fit), len(read), *inner):
            write_values(ax, image, values, _short, inner[1] / len(fit))
        _marks(ax, table, fit, read)
        ax.set_xticks(range(len(read)), read, rotation=90 if below > 0.42 else 0)
        ax.set_yticks(range(len(fit)), fit)
        ax.set_xlabel(f"read at {over}".rstrip() if over else "read at")
        ax.set_ylabel(f"fitted at {over}".rstrip() if over else "fitted at")
        words = "framed: where it was fitted; dot: not above its null"
        ax.set_title(
            words if inner[0] > 2.9 else words.replace("; ", "\n"),
            fontsize=7.2,
            fontweight="normal",
            color=MUTED,
            pad=5,
        )
        colour_bar(ax, image, "AUROC (0.5 = chance)" if height > 2.4 else "AUROC")
        settle(fig)
    return fig


def _grid(table: pd.DataFrame) -> tuple[list[str], list[str], Float[np.ndarray, "fit read"]]:
    """Places in the order of the table, the first fitted at the top, and the AUROCs, NaN where none is."""
    fit = list(dict.fromkeys(_fitted(table)))[::-1]
    read = list(dict.fromkeys(table["read"].astype(str)))
    values = np.full((len(fit), len(read)), np.nan)
    for name, row in zip(_fitted(table), table.to_dict("records"), strict=True):
        values[fit.index(name), read.index(str(row["read"]))] = row["auroc"]
    return fit, read, values


def _fitted(table: pd.DataFrame) -> list[str]:
    """Where each cell was fitted. Probes that leave one set out stand in one row: each is read at what it left out."""
    return [
        str(fit) if kind != "left out" else "all others" for fit, kind in zip(table["fit"], table["kind"], strict=True)
    ]


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _bar(table: pd.DataFrame) -> pd.Series:
    """What each cell has to exceed: chance, and every relabelling of its own null."""
    return table["null_high"].astype(float).fillna(0.5).clip(lower=0.5)


def _marks(ax: Axes, table: pd.DataFrame, fit: list[str], read: list[str]) -> None:
    low = (table["low"].astype(float) <= _bar(table)) & table["auroc"].notna()
    for name, row, unclear in zip(_fitted(table), table.to_dict("records"), low, strict=True):
        x, y = read.index(str(row["read"])), fit.index(name)
        if row["kind"] == "within":
            outline(ax, x, y, line=0.9)
        if unclear:
            ax.plot(x + 0.36, y + 0.3, marker="o", markersize=2.2, color=INK, linestyle="none", zorder=5)


def _caption(table: pd.DataFrame, over: str = "place") -> str:
    """Text of the caption."""
    need(table, "transfer", _COLUMNS)
    text = [
        f"AUROC (0.5 is chance) of a probe fitted at one {over} (training part) and read at another (test part); "
        "framed cells are read where they were fitted."
    ]
    filled = table.dropna(subset=["auroc"])
    moved = filled[filled["kind"] != "within"]
    if moved.empty:
        text.append("No cell could be filled away from where the probe was fitted.")
    else:
        over_bar = moved["low"].astype(float) - _bar(moved)  # missing where too few groups allow no interval
        text.append(
            f"{int((over_bar > 0).sum())} of {len(moved)} transfers lie, 95 % interval and all, above 0.5 and "
            "above every relabelling of their own null"
        )
        if over_bar.notna().any():
            low = moved.loc[over_bar.idxmin()]
            text[-1] += f"; the weakest, fitted at {low['fit']} and read at {low['read']}, is {interval(low, 'auroc')}"
        text[-1] += "."
    if len(filled):
        spread = (filled["high"] - filled["low"]).max()
        text.append(
            f"Per cell {counts(filled['n'])} prompt groups read, {counts(filled['n_fit'])} rollouts fitted on; "
            f"the widest 95 % interval spans {number(spread)}."
        )
        if filled["null_high"].notna().any():
            text.append(
                "With labels exchanged between prompts the same fits read "
                f"{number(filled['null_low'].min())} to {number(filled['null_high'].max())} over all cells."
            )
    if len(filled) < len(table):
        text.append(f"{len(table) - len(filled)} hatched cells could not be filled, for want of a class.")
    text.append(
        "Not shown: that the direction means the same in both places (an AUROC is blind to shift and scale), "
        "or that the model uses it."
    )
    return " ".join(text)


def transfer(table: pd.DataFrame, *, over: str = "") -> Display:
    """Probes fitted at one place and read at another: a map of AUROCs, each judged against its own null."""
    return Display(_draw(table, over=over), _caption(table, over or "position"), table)
