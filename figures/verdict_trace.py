"""A judge's verdict through its thinking: read at every token, and with the thinking closed early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from verdictscope.figures.style import FAINT, MUTED, WIDTH, ZONE, Display, context, notice, settle, sheet
from verdictscope.figures.tables import counts, interval, need

_COLUMNS = "condition toward part readout place name estimate low high n"
_FORCED, _VERDICT = "forced", "verdict"
_READERS = ("verdict_probe", "lens")
_UNIT = {"verdict_probe": "probe logit", "lens": "difference of logits"}
_NAMED = {"verdict_probe": "a probe of the verdict", "lens": "the logit lens"}
_PLAIN, _RIGHT, _WRONG, _POSITION = "#222222", "#0072B2", "#D55E00", "#8a8a8a"
_DASH: Any = (0, (4, 1.6))


@dataclass(frozen=True)
class _Line:
    """One line of a panel."""

    label: str
    rows: pd.DataFrame
    colour: str
    dash: Any = "-"
    width: float = 1.5


def verdict_trace(table: pd.DataFrame, *, cue: str | None = None, reader: str | None = None) -> Display:
    """Draw the verdict's content by position in the thinking, without a cue and under one.

    Args:
        table: the table verdict_trace_mean.parquet.
        cue: the cue drawn; by default the one that moves the verdict most.
        reader: the linear readout drawn: ``verdict_probe`` where there is one, else ``lens``.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["condition", "toward", "part", "readout", "place", "name", "estimate", "low", "high", "n"]
        >>> rows = [("plain", "", "content", "lens", k, f"thinking {k}/3", 1.0, 0.5, 1.5, 20) for k in range(1, 4)]
        >>> len(figures.verdict_trace(pd.DataFrame(rows, columns=columns)).axes)
        4
    """
    need(table, "verdict_trace_mean", _COLUMNS)
    cue, reader = cue or _strongest(table), reader or _reader(table)
    names = table.dropna(subset=["name"]).drop_duplicates("place").set_index("place")["name"].sort_index()
    with context():
        fig = sheet(WIDTH, 3.3, gap=0.05)
        axes = fig.subplots(2, 2, sharex=True, height_ratios=(5, 1))
        panels = ((reader, f"a  Read by {_NAMED.get(reader, reader)}"), (_FORCED, "b  Log-odds if thinking ended here"))
        for column, (name, title) in enumerate(panels):
            panel, strip = axes[0, column], axes[1, column]
            panel.set_title(title, pad=13)
            found = _lines(table, name, cue)
            _curves(panel, strip, found, names)
            panel.set_ylabel("log-odds (nats)" if name == _FORCED else _UNIT.get(name, "logit"))
            if not found:
                notice(panel, "nothing was read")
        axes[1, 0].set_ylabel("n")
        both = {line.label: line for name in (_reader(table), _FORCED) for line in _lines(table, name, cue)}
        handles = [
            Line2D([], [], color=line.colour, linestyle=line.dash, linewidth=line.width, label=label)
            for label, line in both.items()
        ]
        if handles:
            fig.legend(handles=handles, loc="outside upper left", ncols=2, columnspacing=1.6, labelspacing=0.35)
        settle(fig)
    text = [
        "The verdict through the judge's own thinking, test split: content (towards the better answer) and position "
        "(towards the one shown first), averaged over both orders; the null of both is 0. (a) Read at every token by "
        f"{_NAMED.get(reader, reader)}; (b) log-odds if the thinking is closed there. Bands are 95 % intervals over "
        f"groups."
    ]
    for label, name in (("(a)", reader), ("(b)", _FORCED)):
        for line in _lines(table, name, cue)[:1]:
            first, last = (interval(line.rows.iloc[at], signed=True) for at in (0, -1))
            text.append(f"{label} {line.label}: {first} to {last}.")
    held = [line.rows["n"] for name in (reader, _FORCED) for line in _lines(table, name, cue)]
    text.append(f"{counts(pd.concat(held))} items by position." if held else "There was nothing to trace.")
    text.append("Not shown: that the judge uses what is read.")
    return Display(fig, " ".join(text), table)


def _strongest(table: pd.DataFrame) -> str | None:
    """The cue with the largest part where the verdict is given."""
    rows = table[(table["readout"] == _VERDICT) & (table["part"] == table["condition"])]
    rows = rows if len(rows) else table[(table["readout"] == _FORCED) & (table["part"] == table["condition"])]
    rows = rows.dropna(subset=["estimate"])
    return None if rows.empty else str(rows.loc[rows["estimate"].abs().idxmax(), "condition"])


def _reader(table: pd.DataFrame) -> str:
    there = set(table["readout"])
    return next((name for name in _READERS if name in there), _READERS[-1])


def _lines(table: pd.DataFrame, readout: str, cue: str | None) -> list[_Line]:
    """Content plainly and under the cue, and position plainly; forced endings end in the verdict that was given."""
    rows = table[table["readout"].isin([readout, _VERDICT] if readout == _FORCED else [readout])]
    wanted = [
        ("content", "plain", "", "content, plain", _PLAIN, "-", 2.0),
        ("content", cue, "right", f"content, {cue} for the better answer", _RIGHT, "-", 1.5),
        ("content", cue, "wrong", f"content, {cue} for the worse answer", _WRONG, "-", 1.5),
        ("position", "plain", "", "position, plain", _POSITION, _DASH, 1.3),
    ]
    found = []
    for part, condition, toward, label, colour, dash, width in wanted:
        own = rows[(rows["part"] == part) & (rows["condition"] == condition) & (rows["toward"] == toward)]
        own = own[own["n"] > 0].sort_values("place").drop_duplicates("place")
        if len(own):
            found.append(_Line(label, own, str(colour), dash, float(width)))
    return found


def _curves(panel: Axes, strip: Axes, found: list[_Line], names: pd.Series) -> None:
    panel.axhline(0, color=FAINT, linewidth=0.9, zorder=0)
    for line in found:
        x, rows = line.rows["place"].to_numpy(dtype=float), line.rows
        panel.fill_between(x, rows["low"], rows["high"], color=line.colour, alpha=0.15, linewidth=0, zorder=2)
        panel.plot(
            x,
            rows["estimate"],
            color=line.colour,
            linestyle=line.dash,
            linewidth=line.width,
            marker="o",
            markersize=2.4,
            zorder=3,
        )
        strip.plot(x, rows["n"], color=line.colour, linestyle=line.dash, linewidth=0.8)
    if names.empty:
        return
    closing = [k for k, name in names.items() if str(name).startswith("think_end")]
    thinking = [k for k, name in names.items() if str(name).startswith("thinking")]
    above: dict[str, Any] = {
        "color": MUTED,
        "fontsize": 6.8,
        "va": "bottom",
        "ha": "center",
        "transform": panel.get_xaxis_transform(),
    }
    for ax in (panel, strip):
        if closing:
            ax.axvspan(min(closing) - 0.5, max(closing) + 0.5, color=ZONE, linewidth=0, zorder=0)
    if thinking:
        panel.text(float(np.mean(thinking)), 1.02, "thinking", **above)
    if closing:
        panel.text(float(np.mean(closing)), 1.02, "closing", **above)
    ticks = [k for k, name in names.items() if not str(name).startswith(("thinking", "think_end"))]
    ticks += thinking[1::2]
    strip.set_xticks(sorted(ticks), [_short(str(names[k])) for k in sorted(ticks)])
    strip.set_xlim(float(names.index.min()) - 0.6, float(names.index.max()) + 0.6)
    most = max((int(line.rows["n"].max()) for line in found), default=1)
    strip.set_ylim(0, most * 1.25)
    strip.set_yticks([0, most])


def _short(name: str) -> str:
    return {"prompt end": "prompt", "verdict": "verdict"}.get(name, name.removeprefix("thinking "))
