"""A probe's test number among its nulls and baselines, one line each."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from verdictscope.figures.style import FOUND, INK, MUTED, WIDTH, context, settle, sheet
from verdictscope.figures.tables import need

_COLOURS = {"test": FOUND, "permuted": MUTED, "control": MUTED, "baseline": INK}


def protocol_figure(table: pd.DataFrame) -> Figure:
    """Draw AUROCs with their intervals (tests and baselines) or ranges over draws (permuted labels, controls).

    Args:
        table: ``kind name estimate low high n``, as ``ProtocolResult.to_frame`` and ``probe_nulls.parquet`` have them.

    Raises:
        ValueError: if a column is missing.
    """
    need(table, "protocol", "kind name estimate low high n")
    with context():
        fig = sheet(WIDTH, 0.6 + 0.24 * len(table))
        ax = fig.subplots()
        for y, row in enumerate(table.itertuples()):
            colour = _COLOURS.get(str(row.kind), MUTED)
            ax.plot([row.low, row.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
            ax.plot(row.estimate, y, marker="o", color=colour, markersize=4)
        ax.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
        ax.set_yticks(range(len(table)), [f"{row.name} (n = {row.n})" for row in table.itertuples(index=False)])
        ax.invert_yaxis()
        ax.set_xlabel("AUROC on new prompts; bars are 95 % intervals, grey ones ranges over draws")
        settle(fig)
    return fig
