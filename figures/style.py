"""One look for every figure, without touching matplotlib's global state, and files whose bytes do not change."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style as mpl_style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import AbstractPathEffect, withStroke

WIDTH = 6.75
"""Full text width of a two-column page, inches."""
DPI = 200
"""Of saved files; on screen a figure has half of it."""

INK = "#222222"
MUTED = "#6b6b6b"
FAINT = "#d9d9d9"
ZONE = "#eeeae2"

# Okabe and Ito's colours (jfly.uni-koeln.de/color): distinct under the common colour-vision deficiencies.
# Blue stands for refusing and vermilion for complying wherever the two meet.
CELL_COLOURS = {
    "harmful_complied": "#D55E00",
    "harmful_refused": "#0072B2",
    "harmless_complied": "#009E73",
    "harmless_refused": "#56B4E9",
    "unread": "#999999",
}
VARIANT_COLOURS = {
    "base": "#8a8a8a",
    "ablated": "#222222",
    "ablated_fixed": "#222222",
    "random": "#bdbdbd",
    "reference": "#8E4585",
}
FOUND = VARIANT_COLOURS["ablated"]
"""The found heads, in every figure."""
DIVERGING = "RdBu"
"""Blue lies above the centre, red below it, in every heat map."""

_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that every machine draws the same letters
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.3,
    "hatch.linewidth": 0.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # text stays text in the PDF: searchable, editable
    "svg.fonttype": "none",
    "svg.hashsalt": "verdictscope",  # ids of clip paths: the same in every file of one figure
}
_METADATA: dict[str, dict[str, Any]] = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


@contextmanager
def context() -> Iterator[None]:
    """matplotlib's defaults plus this style, for the block only, whatever the caller's own rc settings are."""
    with mpl_style.context(["default", _RC]):
        yield


def sheet(width: float, height: float, gap: float = 0.03) -> Figure:
    """A new empty figure with its own Agg canvas; call inside `context`."""
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.04, wspace=gap, hspace=0.02)
    fig = Figure(figsize=(width, height), dpi=DPI // 2, layout=layout)
    FigureCanvasAgg(fig)
    return fig


def settle(fig: Figure) -> None:
    """Lay the figure out and freeze it, so that showing it first does not change what is saved later."""
    engine = fig.get_layout_engine()
    if engine is not None:
        engine.execute(fig)
    fig.set_layout_engine("none")


@contextmanager
def panel(ax: Axes | None, width: float, height: float) -> Iterator[Axes]:
    """The caller's axes, or those of a new sheet of this size that is laid out at the end of the block."""
    if ax is not None:
        yield ax
        return
    with context():
        fig = sheet(width, height)
        yield fig.subplots()
        settle(fig)


def shown(ax: Axes, caption: str, table: pd.DataFrame) -> Display:
    """What `panel` drew, with its caption."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return Display(figure, caption, table)


def band(ax: Axes, x: Any, rows: pd.DataFrame, colour: str, alpha: float = 0.15, **line: Any) -> None:
    """A line of estimates with its interval as a band."""
    ax.fill_between(x, rows["low"], rows["high"], color=colour, alpha=alpha, linewidth=0, zorder=2)
    ax.plot(x, rows["estimate"], color=colour, **{"zorder": 3, **line})


def segments(ax: Axes, rows: pd.DataFrame, y: Any, **point: Any) -> None:
    """Estimates at heights y with their intervals as horizontal lines."""
    ends = np.vstack([rows["estimate"] - rows["low"], rows["high"] - rows["estimate"]]).astype(float)
    ends = np.nan_to_num(ends).clip(min=0)
    ax.errorbar(rows["estimate"].astype(float), y, xerr=ends, **{"fmt": "o", "markersize": 3.6, "zorder": 3, **point})


def notice(ax: Axes, text: str) -> None:
    """Say in a panel why it is empty."""
    ax.text(
        0.5,
        0.5,
        text,
        transform=ax.transAxes,
        ha="center",
        va="center",
        color=MUTED,
        fontsize=7.5,
        linespacing=1.4,
        zorder=6,
    )


def halo() -> list[AbstractPathEffect]:
    """A white rim that keeps letters readable where they cross lines."""
    return [withStroke(linewidth=2.0, foreground="white")]


def variant_colour(variant: str) -> str:
    """Colour of a variant; every ``random_i`` shares one."""
    return VARIANT_COLOURS.get("random" if variant.startswith("random") else variant, MUTED)


def cell_colour(cell: str) -> str:
    """Colour of a cell."""
    return CELL_COLOURS.get(cell, MUTED)


@dataclass(frozen=True, eq=False)
class Display:
    """A figure with its caption.

    Attributes:
        figure: the matplotlib figure; its axes can be changed like those of any other.
        caption: what is drawn, n, the interval, the null, and what the figure does not show.
        table: the table that was drawn.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> rows = [("test", "AUROC, tokens", 0.91, 0.86, 0.95, 60), ("permuted", "labels permuted", 0.5, 0.41, 0.6, 9)]
        >>> shown = figures.probe_test(pd.DataFrame(rows, columns=["kind", "name", "estimate", "low", "high", "n"]))
        >>> shown.figure.axes[0].get_xlabel()
        'AUROC'
    """

    figure: Figure
    caption: str
    table: pd.DataFrame = field(repr=False)

    @property
    def axes(self) -> list[Axes]:
        """The figure's axes."""
        return self.figure.axes

    def save(self, folder: str | Path, name: str, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
        """Write ``folder/name.FORMAT`` for every format; the same table gives the same bytes.

        Each file is written under a temporary name and renamed when whole.

        Args:
            folder: made if missing.
            name: file name without its ending.
            formats: of ``png`` (200 dpi), ``pdf``, ``svg``.

        Raises:
            ValueError: an unknown format.
        """
        if unknown := [f for f in formats if f not in _METADATA]:
            raise ValueError(f"format {unknown[0]!r}: choose from {', '.join(_METADATA)}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        with context():
            for ending in formats:
                path, part = folder / f"{name}.{ending}", folder / f".{name}.{ending}.part"
                self.figure.savefig(part, format=ending, dpi=DPI, metadata=_METADATA[ending])
                os.replace(part, path)
                paths.append(path)
        return paths

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        with context():
            self.figure.savefig(buffer, format="png", dpi=DPI, metadata=_METADATA["png"])
        return buffer.getvalue(), {"width": round(self.figure.get_figwidth() * 100)}
