"""Names beside points without names upon names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox, BboxBase

from verdictscope.figures.style import INK, halo

_MARK = 4.0  # pixels a point's mark reaches from its middle on the 100 dpi sheet
# Offsets tried, nearest and rightmost first; points.
_STEPS = [
    (r * dx, r * dy)
    for r in (5.0, 9.0, 14.0, 20.0, 28.0, 38.0)
    for dx, dy in ((1, 0.5), (1, -0.5), (-1, 0.5), (-1, -0.5), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
]


def place_labels(
    ax: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], avoid: Sequence[tuple[float, float]] = ()
) -> None:
    """Write each name near its point, where it covers fewest points, names and edges."""
    canvas = ax.figure.canvas
    if not isinstance(canvas, FigureCanvasAgg):
        raise TypeError("place_labels measures text on an Agg canvas: make the figure with style.sheet")
    renderer = canvas.get_renderer()
    others = ax.transData.transform(np.array([*points, *avoid], dtype=float).reshape(-1, 2))
    frame = ax.get_window_extent(renderer)
    taken: list[Bbox] = []
    for i, (point, name) in enumerate(zip(points, names, strict=True)):
        note = ax.annotate(
            name, point, xytext=(0, 0), textcoords="offset points", fontsize=7, zorder=6, path_effects=halo()
        )
        costs = [
            _cost(_move(note, step, renderer), others, i, taken, frame) + 0.02 * order
            for order, step in enumerate(_STEPS)
        ]
        best = _STEPS[int(np.argmin(costs))]
        taken.append(_move(note, best, renderer))
        if max(map(abs, best)) > 5:  # too far to be read as belonging to its point without a line
            ax.annotate(
                "",
                point,
                xytext=best,
                textcoords="offset points",
                zorder=5,
                arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2},
            )


def _move(note: Annotation, step: tuple[float, float], renderer: RendererBase) -> Bbox:
    """Put a name at an offset from its point; the box it then covers, in pixels."""
    dx, dy = step
    note.set_position(step)
    note.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
    note.set_verticalalignment("bottom" if dy > 0 else "top")
    return note.get_window_extent(renderer)


def _cost(box: Bbox, points: Float[np.ndarray, "point 2"], own: int, taken: list[Bbox], frame: BboxBase) -> float:
    """What a reader loses: covered marks, points nearer to the name than its own, crossed names, crossed edges."""
    across = np.maximum(np.maximum(box.x0 - points[:, 0], points[:, 0] - box.x1), 0)
    along = np.maximum(np.maximum(box.y0 - points[:, 1], points[:, 1] - box.y1), 0)
    distance = np.hypot(across, along)
    outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
    crossed = sum(box.overlaps(other) for other in taken)
    # The line to a far name counts as a name's crossing too.
    middle = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    line = points[own] + np.linspace(0, 1, 9)[:, None] * (middle - points[own])
    crossed += sum(other.contains(x, y) for other in taken for x, y in line)
    return float((distance < _MARK).sum() + 0.3 * min((distance < distance[own]).sum(), 5) + 4 * crossed + 6 * outside)
