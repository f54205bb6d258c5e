"""Probe AUROC by layer and position."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from verdictscope.figures.grid import colour_bar, fits, heat_map, outline, thinned, write_values
from verdictscope.figures.style import MUTED, WIDTH, Display, notice, panel
from verdictscope.figures.style import shown as display
from verdictscope.figures.tables import counts, interval, need, number, truth

_COLUMNS = "layer position segment order auroc low high n"
_SEGMENTS = {
    "think_end": "closing tokens",
    "user": "request",
    "template": "template",
    "answer": "answer",
    "thinking": "thinking",
    "system": "system",
    "verdict": "verdict",
}
_BRACKET = 15  # points below the map
_LETTER = 0.062  # inches a letter takes at the size of the words under the map


def probe_map(table: pd.DataFrame, probe: pd.DataFrame | None = None, *, ax: Axes | None = None) -> Display:
    """Draw the AUROC of each layer's probe at each position class, 0.5 (chance) in white.

    Args:
        table: the table probe_map.parquet.
        probe: the table probe.parquet; its selected layer is framed.
        ax: axes to draw on; by default those of a new figure.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["layer", "position", "segment", "order", "auroc", "low", "high", "n"]
        >>> rows = [(layer, "think_end 1", "think_end", 0, 0.8, 0.7, 0.9, 40) for layer in range(3)]
        >>> figures.probe_map(pd.DataFrame(rows, columns=columns)).axes[0].get_ylabel()
        'layer'
    """
    need(table, "probe_map", _COLUMNS)
    layers, positions, values = _grid(table)
    width = min(WIDTH, max(3.3, 1.3 + 0.42 * len(positions)))
    height = min(5.6, max(1.5, 1.15 + 0.23 * len(layers)))
    chosen = _chosen(probe)
    with panel(ax, width, height) as axes:
        if not values.size:
            axes.set_axis_off()
            notice(axes, "the table has no rows")
        else:
            image = heat_map(axes, values, centre=0.5, reach=0.5)
            inner = width - 1.25, height - 1.0
            if fits(len(layers), len(positions), *inner):
                write_values(axes, image, values, _short, inner[1] / len(layers))
            _axes(axes, layers, positions, inner)
            if chosen in layers:
                outline(axes, 0, layers.index(chosen), width=len(positions))
                for label in axes.get_yticklabels():
                    if label.get_text() == str(chosen):
                        label.set_fontweight("bold")
                words = f"framed: layer {chosen}, selected on the validation split"
                axes.set_title(words, fontsize=7.2, fontweight="normal", color=MUTED, pad=5)
            colour_bar(axes, image, "AUROC (0.5 = chance)" if height > 2 else "AUROC")
    text = [
        f"AUROC (0.5 is chance) of refused against complied rollouts for probes of {len(layers)} layers at "
        f"{len(positions)} positions along the rollout, on the validation split."
    ]
    at = table[table["layer"] == chosen].dropna(subset=["auroc"]) if chosen is not None else table[:0]
    if len(at):
        low, high = at.loc[at["auroc"].idxmin()], at.loc[at["auroc"].idxmax()]
        text.append(
            f"The framed layer {chosen}, selected here, runs from {interval(low, 'auroc')} at {low['position']} to "
            f"{interval(high, 'auroc')} at {high['position']} (95 % intervals)."
        )
    measured = table.dropna(subset=["auroc"])
    if len(measured):
        width = (measured["high"] - measured["low"]).max()
        text.append(f"Per cell {counts(measured['n'])}; the widest 95 % interval spans {number(width)}; hatched: none.")
    text.append("Not shown: whether the model uses what is read; the number to report is the test split's.")
    return display(axes, " ".join(text), table)


def _grid(probe_map: pd.DataFrame) -> tuple[list[int], pd.DataFrame, Float[np.ndarray, "layer position"]]:
    """Layers in order, position classes in their order along the rollout, and the AUROCs, NaN where none is."""
    table = probe_map.dropna(subset=["layer", "order"])
    positions = table.drop_duplicates("position").sort_values("order", kind="stable")
    positions = positions[["position", "segment"]].reset_index(drop=True)
    layers = sorted({int(layer) for layer in table["layer"]})
    if not layers:
        return [], positions, np.empty((0, 0))
    first = table.drop_duplicates(["layer", "position"])
    values = first.pivot(index="layer", columns="position", values="auroc")
    values = values.reindex(index=layers, columns=positions["position"])
    return layers, positions, values.to_numpy(dtype=float)


def _short(value: float) -> str:
    """``.93``: an AUROC needs no leading zero."""
    return f"{value:.2f}".removeprefix("0")


def _axes(ax: Axes, layers: list[int], positions: pd.DataFrame, inner: tuple[float, float]) -> None:
    """Layers at the left, places within a segment below, each segment's name under a line of its length."""
    rows = thinned(len(layers), inner[1], 0.14)
    ax.set_yticks(rows, [str(layers[row]) for row in rows])
    ax.set_ylabel("layer")
    segments = [str(segment) for segment in positions["segment"]]
    names = [
        str(name).removeprefix(segment).strip() for name, segment in zip(positions["position"], segments, strict=True)
    ]
    cell = inner[0] / len(names)
    starts = [0, *(i for i in range(1, len(segments)) if segments[i] != segments[i - 1]), len(segments)]
    stretches = list(zip(starts, starts[1:], strict=False))
    # the columns whose place is written: evenly within each segment, none upon another
    shown: list[int] = []
    edge = -1e9
    for start, stop in stretches:
        width = (max(map(len, names[start:stop])) + 1) * _LETTER * 0.95
        step = next((s for s in (1, 2, 4, 8, 16, 32) if cell * s >= width), 64)
        for column in range(start, stop, step):
            reach = len(names[column]) * _LETTER * 0.95 / 2
            if names[column] and column * cell - reach > edge:
                shown.append(column)
                edge = column * cell + reach + _LETTER / 2
    ax.set_xticks(shown, [names[column] for column in shown])
    ends = [-1e9, -1e9]  # where the last word of each of two lines ended, inches
    for start, stop in stretches:
        word = _SEGMENTS.get(segments[start], segments[start])
        if len(word) * _LETTER > cell * (stop - start):
            word = word.replace(" ", "\n")
        middle, half = cell * (start + stop) / 2, max(map(len, word.split("\n"))) * _LETTER / 2
        line = 0 if middle - half > ends[0] else 1  # a narrow segment's word moves down, not onto its neighbour
        ends[line] = middle + half
        # a line under a segment's columns, and a wide seam before them in the map
        below = ScaledTranslation(0, -_BRACKET / 72, ax.figure.dpi_scale_trans)
        ax.plot(
            [start - 0.42, stop - 0.58],
            [0, 0],
            color=MUTED,
            linewidth=0.8,
            clip_on=False,
            transform=ax.get_xaxis_transform() + below,
        )
        if start:
            ax.axvline(start - 0.5, color="white", linewidth=2.6, zorder=2.5)
        ax.annotate(
            word,
            ((start + stop - 1) / 2, 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -_BRACKET - 2 - 10 * line),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.4,
            linespacing=1.05,
            annotation_clip=False,
        )


def _chosen(probe: pd.DataFrame | None) -> int | None:
    if probe is None:
        return None
    need(probe, "probe", "layer chosen")
    rows = probe[truth(probe["chosen"])]
    return int(rows.iloc[0]["layer"]) if len(rows) else None
