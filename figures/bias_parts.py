"""What moves a judge's verdict: its content, its position and its cues, the judge beside its reference."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verdictscope.figures.style import (
    FAINT,
    INK,
    MUTED,
    VARIANT_COLOURS,
    WIDTH,
    Display,
    context,
    notice,
    settle,
    sheet,
)
from verdictscope.figures.tables import counts, interval, need, number

_COLUMNS = "variant thinking name estimate low high n unit"
_FIRST = ("content", "position")
_VARIANTS = {"base": ("judge", INK, "o", INK), "reference": ("reference", VARIANT_COLOURS["reference"], "D", "white")}
_THINKING = {"off": "without thinking", "on": "after its own thinking"}


def _draw(table: pd.DataFrame) -> Figure:
    """The figure."""
    need(table, "bias_parts", _COLUMNS)
    names, ways = _names(table), _ways(table)
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
            axes[-1].legend(
                handles.values(),
                handles.keys(),
                loc="lower right",
                bbox_to_anchor=(1.0, 1.0),
                ncols=2,
                handlelength=1.2,
                borderaxespad=0.2,
            )
        settle(fig)
    return fig


def _names(table: pd.DataFrame) -> list[str]:
    """Content and position first, then cues as they come."""
    there = list(dict.fromkeys(table["name"]))
    return [n for n in _FIRST if n in there] + [n for n in there if n not in _FIRST]


def _ways(table: pd.DataFrame) -> list[str]:
    there = list(dict.fromkeys(table["thinking"]))
    return [w for w in _THINKING if w in there] + [w for w in there if w not in _THINKING]


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
        shift = (place - (len(variants) - 1) / 2) * 0.3
        y = own["name"].map(names.index) + shift
        ends = [(own["estimate"] - own["low"]).clip(lower=0), (own["high"] - own["estimate"]).clip(lower=0)]
        ax.errorbar(
            own["estimate"],
            y,
            xerr=ends,
            fmt=marker,
            color=colour,
            markerfacecolor=fill,
            markersize=4.2,
            markeredgewidth=1.0,
            elinewidth=1.2,
            capsize=0,
            label=label,
            zorder=3,
        )
        for at, (value, high) in zip(y, own[["estimate", "high"]].to_numpy(dtype=float), strict=True):
            ax.annotate(
                number(value, signed=True),
                (high, at),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=6.4,
                color=colour if variant == "reference" else MUTED,
            )


def _caption(table: pd.DataFrame) -> str:
    """Text of the caption."""
    need(table, "bias_parts", _COLUMNS)
    text = [
        "What a verdict's log-odds are made of: content (towards the better answer, it turns round when the answers "
        "change places), position (towards the answer shown first, it stays), and what each cue adds towards the side "
        "it names, over a sentence of the same make that says nothing; 0 is no influence. Lines are 95 % intervals "
        f"over groups of items, {counts(table['n'])}."
    ]
    for way in _ways(table):
        for variant, (label, *_) in _VARIANTS.items():
            rows = table[(table["thinking"] == way) & (table["variant"] == variant) & table["estimate"].notna()]
            told = ", ".join(f"{r['name']} {interval(r, signed=True)}" for _, r in rows.iterrows())
            if told:
                text.append(f"{label.capitalize()}, {_THINKING.get(way, way)}: {told}.")
    text.append(
        "Not shown: how often a verdict changes (a large part may leave every verdict as it is where content "
        "is larger), and which parts of the model make it so."
    )
    return " ".join(text)


def contrasts(table: pd.DataFrame) -> Display:
    """What moves a judge's verdict: its content, its position and its cues, the judge beside its reference."""
    return Display(_draw(table), _caption(table), table)
