"""How well refusing can be read, layer by layer and position by position."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from verdictscope.figures.grid import colour_bar, fits, heat_map, outline, thinned, write_values
from verdictscope.figures.style import MUTED, WIDTH, Display, context, notice, settle, sheet
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


def _draw(probe_map: pd.DataFrame, *, probe: pd.DataFrame | None = None) -> Figure:
    """The figure."""
    need(probe_map, "probe_map", _COLUMNS)
    layers, positions, values = _grid(probe_map)
    with context():
        width, height = _size(len(layers), len(positions))
        fig = sheet(width, height)
        ax = fig.subplots()
        if not values.size:
            ax.set_axis_off()
            notice(ax, "the table has no rows")
            return fig
        image = heat_map(ax, values, centre=0.5, reach=0.5)
        inner = width - 1.25, height - 1.0
        if fits(len(layers), len(positions), *inner):
            write_values(ax, image, values, _short, inner[1] / len(layers))
        _axes(ax, layers, positions, inner)
        chosen = _chosen(probe)
        if chosen in layers:
            row = layers.index(chosen)
            outline(ax, 0, row, width=len(positions))
            for label in ax.get_yticklabels():
                if label.get_text() == str(chosen):
                    label.set_fontweight("bold")
        ax.set_title(
            "" if chosen not in layers else f"framed: layer {chosen}, chosen on the validation part",
            fontsize=7.2,
            fontweight="normal",
            color=MUTED,
            pad=5,
        )
        colour_bar(ax, image, "AUROC (0.5 = chance)" if height > 2 else "AUROC")
        settle(fig)
    return fig


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


def _size(layers: int, positions: int) -> tuple[float, float]:
    width = min(WIDTH, max(3.3, 1.3 + 0.42 * positions))
    return width, min(5.6, max(1.5, 1.15 + 0.23 * layers))


def _short(value: float) -> str:
    """``.93``: an AUROC needs no leading zero."""
    return f"{value:.2f}".removeprefix("0")


def _axes(ax: Axes, layers: list[int], positions: pd.DataFrame, inner: tuple[float, float]) -> None:
    """Layers at the left, places within a segment below, each segment's name under a line as long as it is."""
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
    columns = _labelled(names, stretches, cell)
    ax.set_xticks(columns, [names[column] for column in columns])
    ends = [-1e9, -1e9]  # where the last word of each of two lines ended, inches
    for start, stop in stretches:
        word = _SEGMENTS.get(segments[start], segments[start])
        if len(word) * _LETTER > cell * (stop - start):
            word = word.replace(" ", "\n")
        middle, half = cell * (start + stop) / 2, max(map(len, word.split("\n"))) * _LETTER / 2
        line = 0 if middle - half > ends[0] else 1  # a narrow segment's word moves down, not onto its neighbour
        ends[line] = middle + half
        _bracket(ax, start, stop)
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


def _labelled(names: list[str], stretches: list[tuple[int, int]], cell: float) -> list[int]:
    """The columns whose place is written: evenly within each segment, none upon another."""
    columns: list[int] = []
    edge = -1e9
    for start, stop in stretches:
        width = (max(map(len, names[start:stop])) + 1) * _LETTER * 0.95
        step = next((s for s in (1, 2, 4, 8, 16, 32) if cell * s >= width), 64)
        for column in range(start, stop, step):
            half = len(names[column]) * _LETTER * 0.95 / 2
            if names[column] and column * cell - half > edge:
                columns.append(column)
                edge = column * cell + half + _LETTER / 2
    return columns


def _bracket(ax: Axes, start: int, stop: int) -> None:
    """A line under a segment's columns, and a wide seam before them in the map."""
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


def _chosen(probe: pd.DataFrame | None) -> int | None:
    if probe is None:
        return None
    need(probe, "probe", "layer chosen")
    rows = probe[truth(probe["chosen"])]
    return int(rows.iloc[0]["layer"]) if len(rows) else None


def _caption(probe_map: pd.DataFrame, probe: pd.DataFrame | None = None) -> str:
    """Text of the caption."""
    need(probe_map, "probe_map", _COLUMNS)
    layers, positions, values = _grid(probe_map)
    chosen = _chosen(probe)
    text = [
        f"How well each of {len(layers)} layers' probes tells refused from complied rollouts (AUROC, 0.5 is "
        f"chance) at {len(positions)} places along the rollout, on the validation part."
    ]
    at = probe_map[probe_map["layer"] == chosen].dropna(subset=["auroc"]) if chosen is not None else probe_map[:0]
    if len(at):
        low, high = at.loc[at["auroc"].idxmin()], at.loc[at["auroc"].idxmax()]
        text.append(
            f"The framed layer {chosen} was chosen on this same part; it runs from "
            f"{interval(low, 'auroc')} at {low['position']} to {interval(high, 'auroc')} at "
            f"{high['position']} (95 % intervals)."
        )
    measured = probe_map.dropna(subset=["auroc"])
    if len(measured):
        width = (measured["high"] - measured["low"]).max()
        text.append(f"Per cell {counts(measured['n'])}; the widest 95 % interval spans {number(width)}.")
    if np.isnan(values).any():
        text.append("Hatched cells were not measured.")
    text.append(
        "Not shown: whether the model uses what is read here. A probe at a layer sees no head above it, and "
        "since the layer was chosen on these rows, the number to report is the test part's."
    )
    return " ".join(text)


def probe_map(table: pd.DataFrame, probe: pd.DataFrame | None = None) -> Display:
    """How well refusing can be read, layer by layer and position by position."""
    return Display(_draw(table, probe=probe), _caption(table, probe), table)
