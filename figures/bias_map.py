"""What taking out every head and MLP alone does to content, position and each cue."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from verdictscope.figures.grid import colour_bar, fits, heat_map, outline, thinned, write_values
from verdictscope.figures.style import INK, MUTED, WIDTH, context, notice, settle, sheet
from verdictscope.figures.tables import Heads, counts, head_name, interval, need, number, pairs, truth

_COLUMNS = "contrast size component layer head estimate low high n declared found"
_WORDS = {"content": "towards the better answer", "position": "towards the answer shown first"}
_NAMED = 6  # more names than this are counted, not listed


def draw(heads: pd.DataFrame, *, variant: str = "base", planted: Heads | None = None) -> Figure:
    """The figure."""
    need(heads, "bias_heads", _COLUMNS)
    table = _of_variant(heads, variant)
    names = list(dict.fromkeys(table["contrast"].astype(str)))
    with context():
        columns = min(2, max(1, len(names)))
        rows = max(1, -(-len(names) // columns))
        layers = max(1, table["layer"].nunique())
        high = float(np.clip(0.23 * layers, 1.2, 3.2))
        fig = sheet(WIDTH, 0.5 + rows * (high + 0.62), gap=0.06)
        axes = np.atleast_1d(fig.subplots(rows, columns)).ravel()
        for at, (ax, name) in enumerate(zip(axes, names, strict=False)):
            _map(ax, table[table["contrast"] == name], name, "abcdefghij"[at % 10], high, columns, planted)
        for ax in axes[len(names) :]:
            ax.set_axis_off()
        if not names:
            notice(axes[0], "the table has no rows")
        _legend(fig, table, planted)
        settle(fig)
    return fig


def _of_variant(heads: pd.DataFrame, variant: str) -> pd.DataFrame:
    table = heads[heads["variant"] == variant] if "variant" in heads.columns else heads
    table = table.dropna(subset=["layer"]).astype({"layer": int, "head": int})
    return table.assign(found=truth(table["found"]), declared=truth(table["declared"]))


def _map(
    ax: Axes, table: pd.DataFrame, name: str, letter: str, high: float, columns: int, planted: Heads | None
) -> None:
    size = table["size"].iloc[0]
    ax.set_title(f"{letter}  {name.capitalize()}: {number(size, signed=True)} nats in all", pad=11)
    ax.text(
        0,
        1.01,
        _WORDS.get(name, "towards the answer the cue names"),
        transform=ax.transAxes,
        fontsize=6.8,
        color=MUTED,
        va="bottom",
    )
    values, first = _grid(table)
    n_heads = values.shape[1] - 2
    own = values[:, :n_heads]  # an early MLP feeds everything: on its scale no head would be seen
    reach = float(np.nanmax(np.abs(own))) if np.isfinite(own).any() else 1.0
    # Nor should what is smaller than the smallest effect that counts look strong.
    reach = max(reach, float(table["delta"].max())) if "delta" in table and table["delta"].notna().any() else reach
    image = heat_map(ax, np.delete(values, n_heads, axis=1), centre=0.0, reach=reach or 1.0)
    width = (WIDTH - 1.2) / columns - 0.75
    rows = values.shape[0]
    if fits(rows, n_heads + 1, width, high):
        write_values(ax, image, np.delete(values, n_heads, axis=1), _text, high / rows)
    ax.axvline(n_heads - 0.5, color="white", linewidth=4, zorder=2.5)
    ticks = thinned(n_heads, width * n_heads / (n_heads + 1), 0.16)
    ax.set_xticks([*ticks, n_heads], [*(str(tick) for tick in ticks), "MLP"])
    layers = thinned(rows, high, 0.16)
    ax.set_yticks(layers, [str(first + layer) for layer in layers])
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    for row in table[table["found"] & (table["component"] == "head")].itertuples():
        outline(ax, row.head, row.layer - first, line=1.6 if n_heads <= 16 else 1.0)
    for row in table[table["declared"]].itertuples():
        at = row.head if row.component == "head" else n_heads
        ax.plot(
            at - 0.36,
            row.layer - first + 0.3,
            marker="o",
            markersize=3.8,
            color=INK,
            zorder=5,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
    for layer, head in pairs(planted) if planted is not None else []:
        ax.plot(
            head + 0.36,
            layer - first + 0.3,
            marker="o",
            markersize=3.2,
            markerfacecolor="white",
            markeredgecolor=INK,
            markeredgewidth=0.8,
            zorder=5,
        )
    colour_bar(ax, image, "nats less" if columns > 1 else "nats less without it")


def _grid(table: pd.DataFrame) -> tuple[Float[np.ndarray, "layer column"], int]:
    """Effects by layer and head; the last column is the MLP's, the one before it stays empty."""
    first = int(table["layer"].min())
    heads = table[table["component"] == "head"]
    n_heads = int(heads["head"].max()) + 1 if len(heads) else 1
    values = np.full((int(table["layer"].max()) - first + 1, n_heads + 2), np.nan)
    values[heads["layer"] - first, heads["head"]] = heads["estimate"].astype(float)
    mlps = table[table["component"] == "mlp"]
    values[mlps["layer"] - first, n_heads + 1] = mlps["estimate"].astype(float)
    return values, first


def _text(value: float) -> str:
    text = f"{value:+.1f}" if abs(value) < 9.95 else f"{value:+.0f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def _legend(fig: Figure, table: pd.DataFrame, planted: Heads | None) -> None:
    handles: list[Line2D | Patch] = []
    if table["found"].any():
        handles.append(Patch(facecolor="white", edgecolor=INK, linewidth=1.4, label="found on the other half"))
    if table["declared"].any():
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker="o",
                markersize=3.4,
                color=INK,
                label="carries the bias: beyond delta, content spared",
            )
        )
    if planted is not None:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker="o",
                markersize=3.6,
                markerfacecolor="white",
                markeredgecolor=INK,
                label="planted",
            )
        )
    if handles:
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.8)


def caption(
    heads: pd.DataFrame, *, variant: str = "base", planted: Heads | None = None, left_out: str | None = None
) -> str:
    """Text of the caption."""
    need(heads, "bias_heads", _COLUMNS)
    table = _of_variant(heads, variant)
    deltas = table["delta"].dropna() if "delta" in table.columns else pd.Series(dtype=float)
    delta = f"{number(deltas.iloc[0])} nats" if len(deltas) else "delta"
    text = [
        "Each cell: how much smaller a part of the verdict's log-odds is with one head (right column: an MLP) zeroed "
        f"alone, on the reporting half ({counts(table['n'])}); blue: smaller, red: larger. The colours end at the "
        "strongest head, or at the smallest effect that counts where that is more."
    ]
    for name in [n for n in dict.fromkeys(table["contrast"].astype(str)) if n != "content"]:
        own = table[table["contrast"] == name]
        found = own[own["found"]].sort_values("estimate", ascending=False)
        shown = "; ".join(
            f"{head_name(row['layer'], row['head'])} {interval(row, signed=True)}"
            for _, row in found.head(_NAMED).iterrows()
        )
        declared = int(own["declared"].sum())
        text.append(
            f"{name.capitalize()}: framed {shown or 'none'} (ranked on the other half, 95 % intervals); "
            f"{declared} part{'' if declared == 1 else 's'} declared."
        )
    text.append(
        f"Declared (black dot): the bias itself lies beyond {delta}, is smaller by more than that without the "
        "part (sign-flip max-T over all parts, family-wise error 0.05), and content loses less."
    )
    if planted is not None:
        text.append("Open dots: planted, known from how the model was made.")
    if left_out:
        text.append(f"Left out: {left_out}.")
    text.append("Not shown: parts that stand in for one another (each is taken out alone), and why a part acts.")
    return " ".join(text)
