"""What helps against a judge's bias and what it costs: edits inside the model beside changes of the prompt."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from verdictscope.figures.style import FAINT, INK, MUTED, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import counts, interval, need

_COLUMNS = "mitigation kind thinking name estimate low high n unit"
_KINDS = {
    "none": ("untouched", INK),
    "ablate": ("heads taken out", "#0072B2"),
    "scale": ("heads scaled", "#56B4E9"),
    "erase": ("direction erased", "#009E73"),
    "steer": ("steered", "#8E4585"),
    "prompt": ("asked otherwise", "#D55E00"),
}
_RATES = {
    "accuracy": ("accuracy", None),
    "consistency": ("same verdict\nin both orders", None),
    "first_preference": ("says first", 0.5),
}


def _draw(mitigations: pd.DataFrame, *, thinking: str = "off") -> Figure:
    """The figure."""
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
    return fig


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


def _caption(mitigations: pd.DataFrame, *, thinking: str = "off") -> str:
    """Text of the caption."""
    need(mitigations, "mitigations", _COLUMNS)
    table = mitigations[mitigations["thinking"] == thinking]
    rates, nats = _panels(table)
    how = "without thinking" if thinking == "off" else "behind the judge's own thinking, kept as it was written"
    text = [
        f"Verdicts on test items, both orders, {how}: rates above, parts of the verdict's log-odds below, with "
        f"95 % intervals over items drawn by group ({counts(table['n'])}). Dashed: untouched; solid: what a judge "
        "without the bias has."
    ]
    base = table[table["kind"] == "none"]
    for mitigation, own in table[table["kind"] != "none"].groupby("mitigation", sort=False):
        cells = []
        for name, *_ in [p for p in rates if p[0] == "accuracy"] + [p for p in nats if p[0] != "content"]:
            row = own[own["name"] == name]
            if len(row):
                cells.append(f"{name} {interval(row.iloc[0], signed=name != 'accuracy')}")
        text.append(f"{str(mitigation).capitalize()}: {'; '.join(cells)}.")
    if len(base):
        text.append(
            "Untouched: "
            + "; ".join(
                f"{name} {interval(row.iloc[0], signed=name != 'accuracy')}"
                for name, *_ in rates[:1] + nats
                if len(row := base[base["name"] == name])
            )
            + "."
        )
    if "about" in table.columns:
        about = table[table["about"].fillna("") != ""].drop_duplicates("mitigation")
        text += [f"{row['mitigation'].capitalize()}: {row['about']}." for _, row in about.iterrows()]
    text.append(
        "Heads, layers and step were chosen on the other half. Not shown: what the judge would write under the "
        "edits (the tokens are fixed), and whether the prompts of another wording would do the same."
    )
    return " ".join(text)


def mitigations(table: pd.DataFrame, *, thinking: str = "off") -> Display:
    """What helps against a judge's bias and what it costs: edits inside the model beside changes of the prompt."""
    return Display(_draw(table, thinking=thinking), _caption(table, thinking=thinking), table)
