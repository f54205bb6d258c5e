"""A probe's test AUROC beside its nulls and baselines, one line each."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from verdictscope.figures.style import FOUND, INK, MUTED, WIDTH, Display, panel
from verdictscope.figures.tables import counts, interval, need

_COLOURS = {"test": FOUND, "permuted": MUTED, "control": MUTED, "baseline": INK}


def probe_test(table: pd.DataFrame, *, ax: Axes | None = None) -> Display:
    """Draw AUROCs with their intervals (test, baselines) or ranges over draws (permuted labels, controls).

    Args:
        table: ``kind name estimate low high n``, as ``ProbeResult.to_frame`` and ``probe_nulls.parquet`` have them.
        ax: axes to draw on; by default those of a new figure.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> rows = [("test", "AUROC, tokens", 0.91, 0.86, 0.95, 60), ("permuted", "labels permuted", 0.5, 0.41, 0.6, 9)]
        >>> table = pd.DataFrame(rows, columns=["kind", "name", "estimate", "low", "high", "n"])
        >>> figures.probe_test(table).caption.split(":")[0]
        'AUROC on new prompts (0.5 is chance)'
    """
    need(table, "probe", "kind name estimate low high n")
    with panel(ax, WIDTH, 0.6 + 0.24 * len(table)) as axes:
        for y, row in enumerate(table.itertuples()):
            colour = _COLOURS.get(str(row.kind), MUTED)
            axes.plot([row.low, row.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
            axes.plot(row.estimate, y, marker="o", color=colour, markersize=4)
        axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(table)), [f"{row.name} (n = {row.n})" for row in table.itertuples(index=False)])
        axes.invert_yaxis()
        axes.set_xlabel("AUROC")
    test = table[table["kind"] == "test"]
    shown = f": {interval(test.iloc[0], 'estimate')}, {counts(test['n'][:1])}" if len(test) else ""
    text = (
        f"AUROC on new prompts (0.5 is chance){shown}. Lines of the test and of baselines are 95 % intervals over "
        "prompt groups; grey lines are the ranges over draws of permuted labels and control tasks. Not shown: whether "
        "the model uses what the probe reads."
    )
    return Display(axes.figure, text, table)
