"""A judge's contrasts as curves: after every turn of a debate, and by the thinking tokens it may use."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from verdictscope.figures.style import FAINT, INK, MUTED, WIDTH, Display, band, context, notice, settle, sheet
from verdictscope.figures.tables import counts, interval, need

_CURVES = "part readout turn estimate low high n n_missing"
_LENGTHS = "variant condition toward part step allowed estimate low high n ended"
_PARTS = ("content", "position")
_COLOURS = ("#222222", "#8a8a8a", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DEBATE = {
    "content": (INK, "content: towards the right side"),
    "position": ("#8a8a8a", "position: towards the side shown first"),
}


def debate(curves: pd.DataFrame, *, readout: str = "verdict") -> Display:
    """Draw content and position of the verdict by turn with their intervals, and n below.

    Args:
        curves: from ``DebateTraces.curves()``.
        readout: whose scores.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["part", "readout", "turn", "estimate", "low", "high", "n", "n_missing"]
        >>> rows = [("content", "verdict", turn, 0.5 * turn, 0.1, 1.5, 8, 0) for turn in range(3)]
        >>> len(figures.debate(pd.DataFrame(rows, columns=columns)).axes)
        2
    """
    need(curves, "curves", _CURVES)
    rows = curves[curves["readout"] == readout]
    read = rows[rows["n"] > 0]
    text = [
        "The verdict if the debate ended after so many turns. Content changes sign when the two sides change places in "
        "the prompt, position does not; the null of both is 0. Bands are 95 % intervals over groups, "
        f"{counts(read['n'])} debates by turn."
    ]
    with context():
        fig = sheet(4.2, 2.9)
        top, strip = fig.subplots(2, 1, sharex=True, height_ratios=(5, 1))
        top.axhline(0, color=FAINT, linewidth=0.9, zorder=0)
        for part, (colour, label) in _DEBATE.items():
            own = read[read["part"] == part].sort_values("turn")
            if own.empty:
                continue
            band(top, own["turn"], own, colour, marker="o", markersize=3.2, label=label)
            strip.plot(own["turn"], own["n"], color=colour, marker="o", markersize=2.2, linewidth=0.8)
            first, last = (interval(own.iloc[at], signed=True) for at in (0, -1))
            text.append(
                f"{part.capitalize()}: {first} after {own['turn'].iloc[0]}, {last} after {own['turn'].iloc[-1]}."
            )
        if read.empty:
            notice(top, "no verdict was parsed in both orders")
        top.set_ylabel("log-odds (nats)" if readout == "verdict" else f"{readout} score")
        strip.set_ylabel("n")
        strip.set_xlabel("turns heard (0: none)")
        strip.xaxis.set_major_locator(MaxNLocator(integer=True))
        most = max(int(rows["n"].max()) if len(rows) else 1, 1)
        strip.set_ylim(0, most * 1.25)
        strip.set_yticks([0, most])
        handles, labels = top.get_legend_handles_labels()
        if handles:
            fig.legend(handles, labels, loc="outside upper left")
        settle(fig)
    text.append("Not shown: that one turn made the difference; longer debates alone are left at the right.")
    return Display(fig, " ".join(text), curves)


def forced_lengths(table: pd.DataFrame) -> Display:
    """Draw every contrast of the verdict by allowed thinking tokens, a panel each for judge and reference model.

    Args:
        table: the table forced_lengths.parquet.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["variant", "condition", "toward", "part", "step", "allowed", "estimate", "low", "high", "n"]
        >>> rows = [("base", "plain", "", "content", k, 8 * k, 1.0, 0.5, 1.5, 20, 0.5 * k) for k in range(3)]
        >>> len(figures.forced_lengths(pd.DataFrame(rows, columns=[*columns, "ended"])).axes)
        2
    """
    need(table, "forced_lengths", _LENGTHS)
    rows = table[table["part"].isin(_PARTS) & table["condition"].eq("plain") | ~table["part"].isin(_PARTS)]
    variants = [v for v in ("base", "reference") if v in set(rows["variant"])] or ["base"]
    there = list(dict.fromkeys(rows["part"]))
    names = [p for p in _PARTS if p in there] + [p for p in there if p not in _PARTS]
    with context():
        fig = sheet(WIDTH, 3.1, gap=0.05)
        axes = fig.subplots(2, len(variants), sharex=True, sharey="row", height_ratios=(5, 1), squeeze=False)
        for at, variant in enumerate(variants):
            title = "Judge" if variant == "base" else "Reference model"
            axes[0, at].set_title(title if len(variants) == 1 else f"{'ab'[at]}  {title}")
            _lengths(axes[0, at], axes[1, at], rows[rows["variant"] == variant], names)
        axes[0, 0].set_ylabel("log-odds of the verdict (nats)")
        axes[1, 0].set_ylabel("ended\nby itself")
        handles = {label: line for ax in axes[0] for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        if handles:
            fig.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=len(handles))
        settle(fig)
    text = [
        "Contrasts of the verdict's log-odds (nats) when the judge's own thinking is closed after so many tokens. "
        "Content: towards the better answer; position: towards the one shown first; a cue: towards the answer it "
        f"names, above the control sentence; the null is 0. Bars are 95 % intervals over groups, {counts(rows['n'])} "
        f"items."
    ]
    for name in names[:3]:
        own = rows[(rows["variant"] == "base") & (rows["part"] == name) & (rows["n"] > 0)].sort_values("step")
        if len(own):
            first, last = own.iloc[0], interval(own.iloc[-1], signed=True)
            start = (
                "" if pd.isna(first["allowed"]) else f"{interval(first, signed=True)} at {first['allowed']} tokens, "
            )
            text.append(f"{name.capitalize()}: {start}{last} at the own end.")
    text.append("Not shown: what the judge would think if it knew its limit.")
    return Display(fig, " ".join(text), table)


def _lengths(top: Axes, strip: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    top.axhline(0, color=FAINT, linewidth=0.9, zorder=0)
    if not rows["estimate"].notna().any():
        notice(top, "nothing was read")
        return
    steps = rows.drop_duplicates("step").sort_values("step")
    for at, name in enumerate(names):
        own = rows[(rows["part"] == name) & (rows["n"] > 0)].sort_values("step")
        x = own["step"].to_numpy(dtype=float) + (at - (len(names) - 1) / 2) * 0.07
        ends = [(own["estimate"] - own["low"]).clip(lower=0), (own["high"] - own["estimate"]).clip(lower=0)]
        line: dict[str, Any] = {
            "color": _COLOURS[at % len(_COLOURS)],
            "marker": "o",
            "markersize": 3.2,
            "linewidth": 1.3,
            "zorder": 3,
        }
        top.errorbar(x, own["estimate"], yerr=ends, elinewidth=1.0, label=name, **line)
    ended = rows[rows["condition"] == "plain"].drop_duplicates("step").sort_values("step")
    strip.bar(ended["step"], ended["ended"], color="#bdbdbd", width=0.6)
    for step, share in zip(ended["step"], ended["ended"], strict=True):
        above: dict[str, Any] = {"xytext": (0, 1), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        strip.annotate(f"{share:.0%}", (step, share), fontsize=6.2, color=MUTED, **above)
    strip.set_ylim(0, 1.55)
    strip.set_yticks([0, 1], ["0", "1"])
    strip.set_xticks(steps["step"], ["own end" if pd.isna(n) else f"{int(n):,}" for n in steps["allowed"]])
    strip.set_xlabel("thinking tokens allowed")
