"""The heat map two figures share: colours centred on a value, numbers where they fit, missing cells hatched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from verdictscope.figures.style import DIVERGING, FAINT, INK

# Below these a printed number cannot be read.
_MIN_WIDTH, _MIN_HEIGHT = 0.29, 0.135


def heat_map(ax: Axes, values: Float[np.ndarray, "y x"], centre: float, reach: float) -> AxesImage:
    """Draw values as colours, row 0 at the bottom."""
    rows, columns = values.shape
    ax.add_patch(
        Rectangle(
            (-0.5, -0.5), columns, rows, facecolor="#f6f6f6", edgecolor=FAINT, hatch="////", linewidth=0, zorder=0
        )
    )
    image = ax.imshow(
        np.ma.masked_invalid(values),
        origin="lower",
        aspect="auto",
        cmap=DIVERGING,
        norm=Normalize(centre - reach, centre + reach),
        interpolation="nearest",
        zorder=1,
    )
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    # White seams part the cells while they are large enough to have seams.
    if max(rows, columns) <= 40:
        ax.hlines(np.arange(rows - 1) + 0.5, -0.5, columns - 0.5, color="white", linewidth=0.6, zorder=2)
        ax.vlines(np.arange(columns - 1) + 0.5, -0.5, rows - 0.5, color="white", linewidth=0.6, zorder=2)
    return image


def fits(rows: int, columns: int, width: float, height: float) -> bool:
    """Whether numbers can be read in cells of a ``rows`` × ``columns`` map of this size in inches."""
    return width / columns >= _MIN_WIDTH and height / rows >= _MIN_HEIGHT


def write_values(
    ax: Axes, image: AxesImage, values: Float[np.ndarray, "y x"], form: Callable[[float], str], cell_height: float
) -> None:
    """Print each value in its cell, dark on light and light on dark."""
    size = min(7.0, cell_height * 72 * 0.55)
    light = image.to_rgba(values)[..., :3] @ (0.299, 0.587, 0.114)
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            ax.text(
                x,
                y,
                form(float(value)),
                ha="center",
                va="center",
                fontsize=size,
                zorder=3,
                color=INK if light[y, x] > 0.55 else "white",
                in_layout=False,
            )


def thinned(count: int, inches: float, spacing: float) -> list[int]:
    """Indices to label on an axis of ``count`` cells so that labels stand at least ``spacing`` inches apart."""
    steps = (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100)
    step = next((s for s in steps if inches / count * s >= spacing), 200)
    return list(range(0, count, step))


def outline(ax: Axes, x: int, y: int, width: int = 1, line: float = 1.5) -> None:
    """Frame ``width`` cells of one row, the first one's centre at (x, y), with a line of this many points."""
    ax.add_patch(
        Rectangle(
            (x - 0.5, y - 0.5),
            width,
            1.0,
            fill=False,
            edgecolor=INK,
            linewidth=line,
            joinstyle="miter",
            clip_on=False,
            zorder=4,
        )
    )


def colour_bar(ax: Axes, image: AxesImage, label: str) -> None:
    """A slim bar beside the map with its unit."""
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.045, pad=0.02, aspect=22)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=7)
    bar.set_label(label, fontsize=7.5)
