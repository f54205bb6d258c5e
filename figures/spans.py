"""Which spans of the prompt a judge's heads read for content, position and cues."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from verdictscope.figures.style import FAINT, FOUND, INK, MUTED, WIDTH, Display, context, halo, notice, settle, sheet
from verdictscope.figures.tables import counts, head_name, interval, need, number

_COLUMNS = "contrast position component layer head span estimate low high n"
_TOWARD = {"content": "towards the better answer", "position": "towards the answer shown first"}
_ORDER: tuple[str, ...] = (
    "system",
    "question",
    "context",
    "reference",
    "transcript",
    "label of ",
    " answer",
    "cue",
    "instruction",
)
_ORDER += ("template", "thinking", "closing", "answer begun")
_WHERE = {"last": "where the verdict's token is chosen"}
_BAR, _MLP = "#9ec3dd", "#cfcfcf"
_NAMED = 0.2  # of the longest bar: smaller attributions of one head are not named


def spans(table: pd.DataFrame) -> Display:
    """Draw the direct logit attribution of a verdict's contrasts by the prompt span that attention heads read.

    Args:
        table: a table of ``VerdictParts.to_frame()`` at one position.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["contrast", "position", "component", "layer", "head", "span", "estimate", "low", "high", "n"]
        >>> rows = [("content", "last", "heads", None, None, "first answer", 0.8, 0.5, 1.1, 20)]
        >>> rows += [("content", "last", "logit", None, None, "", 1.0, 0.7, 1.3, 20)]
        >>> "first answer, +0.80" in figures.spans(pd.DataFrame(rows, columns=columns)).caption
        True
    """
    parts = table
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
    where = ", ".join(dict.fromkeys(parts["position"].astype(str)))
    text = [
        f"Direct attribution of the verdict's log-odds {_WHERE.get(where, f'at {where}')}: what all heads read from "
        "each span (value-weighted attention), and what MLPs and the embedding add. Bars sum to the title; whiskers "
        f"are 95 % intervals over items by group ({counts(parts['n'])}); a dot is the strongest head."
    ]
    for name in dict.fromkeys(parts["contrast"].astype(str)):
        own = parts[parts["contrast"] == name]
        heads, logit = own[(own["component"] == "heads") & (own["span"] != "")], own[own["component"] == "logit"]
        if len(heads) and len(logit):
            row = heads.loc[heads["estimate"].astype(float).abs().idxmax()]
            whole = interval(logit.iloc[0], signed=True)
            text.append(f"{name.capitalize()} {whole}; largest: {row['span']}, {interval(row, signed=True)}.")
    text.append("Scales differ. Not shown: indirect effects, and where a token's value came from.")
    return Display(fig, " ".join(text), table)


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
    ax.set_xlabel("attribution to the verdict's log-odds (nats)")
    ax.margins(x=0.16)
    # the head that takes most from each span, named where it is no small part
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
