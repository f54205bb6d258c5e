"""Mitigations of a judge's bias and their costs: edits of the model beside changes of the prompt."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from verdictscope.figures.style import FAINT, INK, MUTED, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import counts, interval, need

_COLUMNS = "mitigation kind thinking name estimate low high n unit"
_KINDS = {
    "none": ("no edit", INK),
    "ablate": ("heads ablated", "#0072B2"),
    "scale": ("heads scaled", "#56B4E9"),
    "erase": ("direction erased", "#009E73"),
    "steer": ("steered", "#8E4585"),
    "prompt": ("prompt changed", "#D55E00"),
}
_NAMED = 3  # mitigations whose numbers the caption repeats
_RATES = {
    "accuracy": ("accuracy", None),
    "consistency": ("same verdict\nin both orders", None),
    "first_preference": ("says first", 0.5),
}


def mitigations(table: pd.DataFrame, *, thinking: str = "off") -> Display:
    """Draw every mitigation as a row: rates above, the contrasts of the verdict's log-odds below.

    Args:
        table: the table mitigations.parquet.
        thinking: which verdicts, ``off`` or ``on``.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["mitigation", "kind", "thinking", "name", "estimate", "low", "high", "n", "unit"]
        >>> rows = [(m, m, "off", "accuracy", 0.7, 0.6, 0.8, 40, "rate") for m in ("none", "ablate")]
        >>> "Ablate: accuracy 0.70" in figures.mitigations(pd.DataFrame(rows, columns=columns)).caption
        True
    """
    mitigations = table
    need(mitigations, "mitigations", _COLUMNS)
    table = mitigations[mitigations["thinking"] == thinking]
    rates, nats = _panels(table)
    names = list(dict.fromkeys(table["mitigation"].astype(str)))
    with context():
        across = max(len(rates), len(nats), 1)
        fig = sheet(WIDTH, 0.75 + 2 * (0.55 + 0.17 * max(len(names), 3)), gap=0.02)
        axes = np.reshape(fig.subplots(2, across, sharey="row"), (2, across))
        for row, panels in zip(axes, (rates, nats), strict=True):
            for at, ax in enumerate(row):
                if at < len(panels):
                    _panel(ax, table, panels[at][0], panels[at][1], panels[at][2], names, at == 0)
                else:
                    ax.set_axis_off()
        if table.empty:
            notice(axes[0, 0], "the table has no rows")
        shown = [kind for kind in _KINDS if kind in set(table["kind"])]
        handles = [
            Line2D([], [], linestyle="none", marker="o", markersize=4, color=_KINDS[k][1], label=_KINDS[k][0])
            for k in shown
        ]
        if handles:
            fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.4)
        settle(fig)
    rates, nats = _panels(table)
    how = "without thinking" if thinking == "off" else "after the judge's own thinking, kept as written"
    text = [
        f"Verdicts on test items, both orders, {how}: rates above, contrasts (nats) below, with 95 % intervals over "
        f"items by group ({counts(table['n'])}). Dashed: no edit; solid: no bias."
    ]
    names = [p[0] for p in rates if p[0] == "accuracy"] + [p[0] for p in nats if p[0] != "content"]
    for mitigation, own in list(table.groupby("mitigation", sort=False))[:_NAMED]:
        rows = [(name, own[own["name"] == name]) for name in names]
        cells = [f"{name} {interval(row.iloc[0], signed=name != 'accuracy')}" for name, row in rows if len(row)]
        text.append(f"{str(mitigation).capitalize()}: {'; '.join(cells)}.")
    text.append("Edits were chosen on the other half. Not shown: what the judge would write under the edits.")
    return Display(fig, " ".join(text), mitigations)


Panel = tuple[str, str, float | None]


def _panels(table: pd.DataFrame) -> tuple[list[Panel], list[Panel]]:
    """(name, title, value without bias) of the rates and of the parts in nats."""
    names = list(dict.fromkeys(table["name"].astype(str)))
    rates: list[Panel] = [(name, *_RATES[name]) for name in _RATES if name in names]
    rates += [(n, f"follows\n{n.removeprefix('follows_')}", 0.5) for n in names if n.startswith("follows_")]
    parts = [n for n in names if (table.loc[table["name"] == n, "unit"] == "nats").all()]
    nats: list[Panel] = [(n, f"{n}\n(nats)", None if n == "content" else 0.0) for n in parts]
    return rates, nats


def _panel(
    ax: Axes, table: pd.DataFrame, name: str, title: str, ideal: float | None, names: list[str], first: bool
) -> None:
    ax.set_title(title, fontsize=7.6, fontweight="normal", loc="center")
    own = table[table["name"] == name].drop_duplicates("mitigation").set_index("mitigation")
    base = own[own["kind"] == "none"]
    if len(base):
        ax.axvline(float(base["estimate"].iloc[0]), color=MUTED, linewidth=0.6, linestyle=(0, (3, 2)), zorder=1)
    if ideal is not None:
        ax.axvline(ideal, color=INK, linewidth=0.7, zorder=1)
    for at, mitigation in enumerate(reversed(names)):
        if mitigation not in own.index:
            continue
        row = own.loc[mitigation]
        colour = _KINDS.get(str(row["kind"]), ("", INK))[1]
        value, low, high = (float(row[c]) for c in ("estimate", "low", "high"))
        if np.isfinite([low, high]).all():
            ax.plot([low, high], [at, at], color=colour, linewidth=1.0, zorder=3)
        ax.plot(value, at, marker="o", markersize=3.6, color=colour, zorder=4)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_yticks(range(len(names)), names[::-1])
    ax.tick_params(axis="y", length=0, labelleft=first, labelsize=6.8)
    ax.grid(axis="y", color=FAINT, linewidth=0.4)
    ax.margins(x=0.12)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=(1, 2, 5, 10)))
    if len(own) and (own["unit"] == "rate").all():
        low, high = ax.get_xlim()
        ax.set_xlim(max(low, -0.04), min(high, 1.04))
