"""What a judge's verdict is made of when it may think for so many tokens."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verdictscope.figures.style import FAINT, MUTED, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import counts, interval, need

_COLUMNS = "variant condition toward part step allowed estimate low high n ended"
_PARTS = ("content", "position")
_COLOURS = ("#222222", "#8a8a8a", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def _draw(table: pd.DataFrame) -> Figure:
    """The figure."""
    need(table, "forced_lengths", _COLUMNS)
    rows = _parts(table)
    variants = [variant for variant in ("base", "reference") if variant in set(rows["variant"])] or ["base"]
    names = _names(rows)
    with context():
        fig = sheet(WIDTH, 3.1, gap=0.05)
        axes = fig.subplots(2, len(variants), sharex=True, sharey="row", height_ratios=(5, 1), squeeze=False)
        for at, variant in enumerate(variants):
            panel, strip = axes[0, at], axes[1, at]
            panel.set_title(
                {"base": "judge", "reference": "reference"}[variant]
                if len(variants) == 1
                else f"{'ab'[at]}  {'Judge' if variant == 'base' else 'Reference'}"
            )
            _panel(panel, strip, rows[rows["variant"] == variant], names)
        axes[0, 0].set_ylabel("log-odds of the verdict (nats)")
        axes[1, 0].set_ylabel("ended\nby itself")
        handles = {label: line for ax in axes[0] for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        if handles:
            fig.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=len(handles))
        settle(fig)
    return fig


def _parts(table: pd.DataFrame) -> pd.DataFrame:
    """The parts themselves, without content under cues."""
    return table[table["part"].isin(_PARTS) & table["condition"].eq("plain") | ~table["part"].isin(_PARTS)]


def _names(rows: pd.DataFrame) -> list[str]:
    there = list(dict.fromkeys(rows["part"]))
    return [p for p in _PARTS if p in there] + [p for p in there if p not in _PARTS]


def _panel(panel: Axes, strip: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    panel.axhline(0, color=FAINT, linewidth=0.9, zorder=0)
    if not rows["estimate"].notna().any():
        notice(panel, "nothing was read")
        return
    steps = rows.drop_duplicates("step").sort_values("step")
    labels = ["own end" if pd.isna(n) else f"{int(n):,}" for n in steps["allowed"]]
    for at, name in enumerate(names):
        own = rows[(rows["part"] == name) & (rows["n"] > 0)].sort_values("step")
        x = own["step"].to_numpy(dtype=float) + (at - (len(names) - 1) / 2) * 0.07
        ends = [(own["estimate"] - own["low"]).clip(lower=0), (own["high"] - own["estimate"]).clip(lower=0)]
        panel.errorbar(
            x,
            own["estimate"],
            yerr=ends,
            color=_COLOURS[at % len(_COLOURS)],
            marker="o",
            markersize=3.2,
            elinewidth=1.0,
            linewidth=1.3,
            label=name,
            zorder=3,
        )
    ended = rows[rows["condition"] == "plain"].drop_duplicates("step").sort_values("step")
    strip.bar(ended["step"], ended["ended"], color="#bdbdbd", width=0.6)
    for step, share in zip(ended["step"], ended["ended"], strict=True):
        strip.annotate(
            f"{share:.0%}",
            (step, share),
            xytext=(0, 1),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=6.2,
            color=MUTED,
        )
    strip.set_ylim(0, 1.55)
    strip.set_yticks([0, 1], ["0", "1"])
    strip.set_xticks(steps["step"], labels)
    strip.set_xlabel("thinking tokens allowed")


def _caption(table: pd.DataFrame) -> str:
    """Text of the caption."""
    need(table, "forced_lengths", _COLUMNS)
    rows = _parts(table)
    text = [
        "Parts of the verdict's log-odds (nats) when the judge's own thinking is closed after so many tokens; thinking "
        "that had ended by then is left as it is (the strips tell its share among plain verdicts). Content is towards "
        "the better answer, position towards the one shown first, a cue's part towards the answer it names, over a "
        "sentence that says nothing; 0 is no influence. Bars are 95 % intervals over groups, "
        f"{counts(rows['n'])} items."
    ]
    for name in _names(rows):
        own = rows[(rows["variant"] == "base") & (rows["part"] == name) & (rows["n"] > 0)].sort_values("step")
        if len(own):
            first, last = own.iloc[0], own.iloc[-1]
            start, end = (interval(row, signed=True) for row in (first, last))
            before = "" if pd.isna(first["allowed"]) else f"{start} after {first['allowed']} tokens, "
            text.append(f"{name.capitalize()}: {before}{end} at the own end.")
    left = int(rows["n_missing"].max()) if "n_missing" in rows and len(rows) else 0
    if left:
        text.append(f"Up to {left} items lack a verdict at a length and are left out there.")
    text.append("Not shown: what the judge would think if it knew how little room it has; the same thinking is cut.")
    return " ".join(text)


def forced_lengths(table: pd.DataFrame) -> Display:
    """What a judge's verdict is made of when it may think for so many tokens."""
    return Display(_draw(table), _caption(table), table)
