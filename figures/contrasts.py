"""A judge's contrasts (content, position, cues): their sizes, judge beside reference model."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from verdictscope.figures.style import (
    FAINT,
    INK,
    MUTED,
    VARIANT_COLOURS,
    WIDTH,
    Display,
    context,
    notice,
    segments,
    settle,
    sheet,
)
from verdictscope.figures.tables import counts, interval, need, number

_COLUMNS = "variant thinking name estimate low high n unit"
_FIRST = ("content", "position")
_REFERENCE = VARIANT_COLOURS["reference"]
_VARIANTS = {"base": ("judge", INK, "o", INK), "reference": ("reference model", _REFERENCE, "D", "white")}
_THINKING = {"off": "without thinking", "on": "after its own thinking"}


def contrasts(table: pd.DataFrame) -> Display:
    """Draw every contrast of the verdict's log-odds with its interval, without thinking and after it.

    Args:
        table: the table bias_parts.parquet.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["variant", "thinking", "name", "estimate", "low", "high", "n", "unit"]
        >>> table = pd.DataFrame([("base", "off", "content", 2.0, 1.5, 2.5, 40, "nats")], columns=columns)
        >>> "Judge, without thinking: content +2.00" in figures.contrasts(table).caption
        True
    """
    need(table, "bias_parts", _COLUMNS)
    names = [n for n in _FIRST if n in set(table["name"])]
    names += [n for n in dict.fromkeys(table["name"]) if n not in _FIRST]
    ways = [w for w in _THINKING if w in set(table["thinking"])]
    ways += [w for w in dict.fromkeys(table["thinking"]) if w not in _THINKING]
    with context():
        fig = sheet(WIDTH, 1.15 + 0.36 * max(len(names), 2), gap=0.05)
        axes = fig.subplots(1, max(len(ways), 1), sharex=True, sharey=True, squeeze=False)[0]
        for at, (ax, way) in enumerate(zip(axes, ways or [""], strict=True)):
            ax.set_title(f"{'ab'[at] if len(ways) > 1 else ''}  {_THINKING.get(way, way)}".strip())
            _panel(ax, table[table["thinking"] == way], names)
        axes[0].set_yticks(range(len(names)), names)
        if names:
            axes[0].set_ylim(len(names) - 0.45, -0.65)
            axes[0].margins(x=0.14)
        handles = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        if handles:
            fig.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=2, handlelength=1.2)
        settle(fig)
    text = [
        "Contrasts of the verdict's log-odds: content (towards the better answer), position (towards the answer shown "
        "first), and each cue (towards the answer it names, above a length-matched control sentence); the null is 0. "
        f"Lines are 95 % intervals over groups of items, {counts(table['n'])}."
    ]
    for way in ways[:1]:
        for variant, (label, *_) in _VARIANTS.items():
            rows = table[(table["thinking"] == way) & (table["variant"] == variant) & table["estimate"].notna()]
            each = ", ".join(f"{r['name']} {interval(r, signed=True)}" for _, r in rows.iterrows())
            if each:
                text.append(f"{label.capitalize()}, {_THINKING.get(way, way)}: {each}.")
    return Display(
        fig, " ".join([*text, "Not shown: how often a verdict changes, and which components cause it."]), table
    )


def _panel(ax: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    ax.axvline(0, color=FAINT, linewidth=0.9, zorder=0)
    ax.set_xlabel("log-odds of the verdict (nats)")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    variants = [a for a in _VARIANTS if a in set(rows["variant"])]
    if rows["estimate"].notna().sum() == 0:
        notice(ax, "nothing was measured")
        return
    for place, variant in enumerate(variants):
        label, colour, marker, fill = _VARIANTS[variant]
        own = rows[(rows["variant"] == variant) & rows["estimate"].notna()]
        y = own["name"].map(names.index) + (place - (len(variants) - 1) / 2) * 0.3
        look: dict[str, Any] = {
            "fmt": marker,
            "color": colour,
            "markerfacecolor": fill,
            "markersize": 4.2,
            "elinewidth": 1.2,
        }
        segments(ax, own, y, label=label, **look)
        for at, (value, high) in zip(y, own[["estimate", "high"]].to_numpy(dtype=float), strict=True):
            beside: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 6.4}
            text = number(value, signed=True)
            ax.annotate(text, (high, at), color=colour if variant == "reference" else MUTED, **beside)
