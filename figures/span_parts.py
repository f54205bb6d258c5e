"""From which part of the prompt a judge's heads take what they add to content, position and cues."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from verdictscope.figures.style import FAINT, FOUND, INK, MUTED, WIDTH, Display, context, halo, notice, settle, sheet
from verdictscope.figures.tables import counts, head_name, interval, need, number

_COLUMNS = "contrast position component layer head span estimate low high n"
_TOWARD = {"content": "towards the better answer", "position": "towards the answer shown first"}
_ORDER = (
    "system",
    "question",
    "context",
    "reference",
    "transcript",
    "label of ",
    " answer",
    "cue",
    "instruction",
    "template",
    "thinking",
    "closing",
    "answer begun",
)
_BAR, _MLP = "#9ec3dd", "#cfcfcf"
_NAMED = 0.2  # of the longest bar: shorter shares of one head are not named


def _draw(parts: pd.DataFrame) -> Figure:
    """The figure."""
    need(parts, "parts", _COLUMNS)
    names = list(dict.fromkeys(parts["contrast"].astype(str)))
    with context():
        rows = max(1, (len(names) + 1) // 2)
        longest = max((len(_bars(parts[parts["contrast"] == name])) for name in names), default=3)
        fig = sheet(WIDTH, 0.55 + rows * (0.62 + 0.165 * longest), gap=0.05)
        axes = np.atleast_1d(fig.subplots(rows, 2 if len(names) > 1 else 1)).ravel()
        for at, (ax, name) in enumerate(zip(axes, names, strict=False)):
            _panel(ax, parts[parts["contrast"] == name], name, "abcdefghij"[at % 10])
        for ax in axes[len(names) :]:
            ax.set_axis_off()
        if not names:
            notice(axes[0], "the table has no rows")
        handles = [
            Patch(facecolor=_BAR, label="all heads together, by the span they read"),
            Line2D([], [], linestyle="none", marker="o", markersize=4, color=FOUND, label="strongest head there"),
            Patch(facecolor=_MLP, label="no token: MLPs, embedding, biases"),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1.6)
        settle(fig)
    return fig


def _bars(table: pd.DataFrame) -> pd.DataFrame:
    """Rows to draw: heads by span in reading order, then what has no token."""
    heads = table[(table["component"] == "heads") & (table["span"] != "")]
    heads = heads.assign(place=[_place(span) for span in heads["span"]]).sort_values("place", kind="stable")
    rest = table[table["component"].isin(["mlps"])].assign(span="MLPs")
    known = table[(table["component"] == "heads") & (table["span"] == "")]["estimate"].sum() + rest["estimate"].sum()
    logit = table[table["component"] == "logit"]["estimate"].sum()
    other = pd.DataFrame(
        [{"component": "other", "span": "embedding, biases", "estimate": logit - known, "low": np.nan, "high": np.nan}]
    )
    other = other[(other["estimate"].abs() > 0.01 * max(abs(logit), 0.1))]
    return pd.concat([part for part in (heads, rest, other) if len(part)], ignore_index=True)


def _place(span: str) -> float:
    """Where a span stands in a prompt; of two answers the one that is first, better or named."""
    at = next((i for i, word in enumerate(_ORDER) if word in f"{span} " or span == word), len(_ORDER))
    return at + (0.5 if any(word in span for word in ("second", "worse", "other")) else 0.0)


def _panel(ax: Axes, table: pd.DataFrame, name: str, letter: str) -> None:
    logit = table[table["component"] == "logit"]
    toward = _TOWARD.get(name, "towards the answer it names")
    total = f"{number(logit['estimate'].iloc[0], signed=True)} nats" if len(logit) else "not measured"
    ax.set_title(f"{letter}  {name.capitalize()}: {total}", pad=12)
    ax.text(0, 1.01, toward, transform=ax.transAxes, fontsize=6.8, color=MUTED, va="bottom")
    bars = _bars(table)
    y = np.arange(len(bars))[::-1]
    values = bars["estimate"].astype(float).to_numpy()
    tokenless = ~bars["component"].eq("heads").to_numpy()
    ax.barh(y, values, height=0.68, color=np.where(tokenless, _MLP, _BAR), linewidth=0, zorder=2)
    whiskers = np.vstack([values - bars["low"].astype(float), bars["high"].astype(float) - values]).clip(0)
    ax.errorbar(values, y, xerr=whiskers, fmt="none", ecolor=INK, elinewidth=0.7, zorder=3)
    ax.axvline(0, color=MUTED, linewidth=0.6, zorder=1)
    ax.set_yticks(y, bars["span"].tolist())
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=FAINT, linewidth=0.4, zorder=0)
    ax.set_xlabel("share of the verdict's log-odds (nats)")
    ax.margins(x=0.16)
    _strongest(ax, table, bars, y)


def _strongest(ax: Axes, table: pd.DataFrame, bars: pd.DataFrame, y: np.ndarray) -> None:
    """The head that takes most from each span, named where it is no small part."""
    single = table[(table["component"] == "head") & (table["span"] != "")]
    reach = float(bars["estimate"].abs().max()) if len(bars) else 0.0
    for at, span in zip(y, bars["span"], strict=True):
        own = single[single["span"] == span]
        if own.empty or float(own["estimate"].abs().max()) < _NAMED * reach:
            continue
        row = own.loc[own["estimate"].abs().idxmax()]
        x = float(row["estimate"])
        ax.plot(x, at, marker="o", markersize=4, color=FOUND, zorder=5)
        ax.annotate(
            head_name(row["layer"], row["head"]),
            (x, at),
            xytext=(-3 if x < 0 else 3, 2.5),
            textcoords="offset points",
            ha="right" if x < 0 else "left",
            va="bottom",
            fontsize=6.0,
            zorder=6,
            path_effects=halo(),
        )


def _caption(parts: pd.DataFrame) -> str:
    """Text of the caption."""
    need(parts, "parts", _COLUMNS)
    where = ", ".join(dict.fromkeys(parts["position"].astype(str)))
    words = {"last": "where the verdict's token is chosen"}.get(where, f"at {where}")
    text = [
        f"The verdict's log-odds, taken apart {words}. Bars add up to the number in each title: what all attention "
        "heads take from a span of the prompt (value-weighted attention, exact), and what MLPs and embedding add, "
        "which have no token. Whiskers are 95 % intervals over items drawn by group "
        f"({counts(parts['n'])}); a dot is the head that takes most there."
    ]
    for name in dict.fromkeys(parts["contrast"].astype(str)):
        own = parts[parts["contrast"] == name]
        heads, logit = own[(own["component"] == "heads") & (own["span"] != "")], own[own["component"] == "logit"]
        if len(heads) and len(logit):
            row = heads.loc[heads["estimate"].astype(float).abs().idxmax()]
            text.append(
                f"{name.capitalize()} {interval(logit.iloc[0], signed=True)}: heads take most from "
                f"{row['span']}, {interval(row, signed=True)}."
            )
    text += [
        "Scales differ. A label is what stands on an answer's line before it. The two orders are brought together by "
        "span: an answer's tokens with the same answer's (content, cues), or with what stands in its place (position).",
        "Not shown: that a part matters (shares are direct, and what later layers make of them is not in them), and "
        "what a token's value came from: late heads read tokens to which earlier layers have moved other tokens' "
        "content.",
    ]
    return " ".join(text)


def spans(table: pd.DataFrame) -> Display:
    """From which part of the prompt a judge's heads take what they add to content, position and cues."""
    return Display(_draw(table), _caption(table), table)
