"""One head on one sheet: its attention, attribution by source token, promoted tokens, and effect."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from verdictscope.figures.style import CELL_COLOURS, FAINT, INK, MUTED, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import interval, need, number
from verdictscope.figures.token_view.visible import one_line

_COLUMNS = "part name segment token quantity estimate low high n unit"
_LOOKS = {"attention": ("raw attention", "#d4d4d4"), "weighted": ("weighted by value size", "#8f8f8f")}
_UP, _DOWN = CELL_COLOURS["harmful_refused"], CELL_COLOURS["harmful_complied"]
_WORDS = {
    "readout": "readout, unedited",
    "attribution": "direct logit attribution",
    "effect": "change when zero-ablated",
    "probe": "probe of its output (AUROC)",
}
_TOKENS, _PROMOTED, _CLIP = 8, 6, 16


def head_card(table: pd.DataFrame, head: str, readout: str, positions: str) -> Display:
    """Draw one head: where it attends, its attribution by source token, tokens it writes for, and its effects.

    Args:
        table: the tidy table of a ``HeadCard``.
        head: its name.
        readout: of the attributions.
        positions: the query positions.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["part", "name", "segment", "token", "quantity", "estimate", "low", "high", "n", "unit"]
        >>> table = pd.DataFrame([("number", "effect", "", "", "", 1.2, 0.9, 1.5, 40, "nats")], columns=columns)
        >>> len(figures.head_card(table, "L1H2", "log-odds", "last").axes)
        4
    """
    need(table, "head card", _COLUMNS)
    parts = {part: rows for part, rows in table.groupby("part")}
    with context():
        fig = sheet(WIDTH, 5.2, gap=0.08)
        (a, b), (c, d) = fig.subplots(2, 2, width_ratios=(1, 1.15))
        a.set_title(f"a  Attention of {head} from {positions}")
        b.set_title(f"b  Attribution to {readout} by source token", parse_math=False)
        c.set_title("c  Tokens promoted and suppressed")
        d.set_title("d  Effect")
        _segments(a, parts.get("segment"))
        _tokens(b, parts.get("token"))
        # the mean output, promoted tokens above suppressed ones
        promoted = parts.get("promoted")
        mine = None if promoted is None else promoted[promoted["name"] == "mean output"]
        if mine is None or mine.empty:
            notice(c, "cannot be read as tokens")
        else:
            sides = [mine[mine["quantity"] == side].head(_PROMOTED) for side in ("promoted", "suppressed")]
            shown = pd.concat([sides[0], sides[1].iloc[::-1]])
            values = shown["estimate"].astype(float).to_numpy()
            c.barh(np.arange(len(shown)), values, height=0.7, color="#8f8f8f")
            c.axvline(0, color=FAINT, linewidth=0.7, zorder=0)
            _bar_names(c, [_word(token) for token in shown["token"]])
            c.set_xlabel("mean change of the token's logit")
        _numbers(d, parts.get("number"))
        settle(fig)
    numbers = table[table["part"] == "number"]
    rows = [row for _, row in numbers.iterrows()]
    each = [f"{_WORDS.get(r['name'], r['name'])} {interval(r, signed=r['unit'] != 'AUROC')}" for r in rows]
    whole = table[(table["part"] == "segment") & (table["quantity"] == "share")]["estimate"].astype(float).sum()
    return Display(
        fig,
        f"Head {head}. (a) Attention from {positions} by segment, raw and weighted by value norm. (b) Source tokens "
        f"with the largest attributions to {readout}; all sources sum to {number(whole, signed=True)}. (c) Mean change "
        f"of the logits, less the mean over the vocabulary. (d) {'; '.join(each)} (95 % intervals over prompt groups). "
        "Not shown: heads that would compensate for this one.",
        table,
    )


def _word(text: object) -> str:
    """A token in quotes, on one line: `visible` leaves line ends and tabs behind their signs."""
    shown = one_line(str(text))
    return f"“{shown if len(shown) <= _CLIP else shown[: _CLIP - 1] + '…'}”"


def _bar_names(ax: Axes, names: list[str]) -> None:
    """Names of bars from the top down; a dollar sign in a token is no formula."""
    ax.set_yticks(range(len(names)), names)
    for label in ax.get_yticklabels():
        label.set_parse_math(False)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)


def _segments(ax: Axes, rows: pd.DataFrame | None) -> None:
    if rows is None:
        notice(ax, "not read")
        return
    names = list(dict.fromkeys(rows["segment"]))
    for i, (quantity, (label, colour)) in enumerate(_LOOKS.items()):
        mine = rows[rows["quantity"] == quantity].set_index("segment").reindex(names)
        x, low, high = (mine[c].astype(float).to_numpy() for c in ("estimate", "low", "high"))
        place = np.arange(len(names)) + (i - 0.5) * 0.36
        ax.barh(place, x, height=0.34, color=colour, label=label)
        reach = np.nan_to_num(np.vstack([x - low, high - x])).clip(0)
        ax.errorbar(x, place, xerr=reach, fmt="none", ecolor=INK, elinewidth=0.7)
    _bar_names(ax, names)
    ax.set_xlabel("attention, sum over the segment's tokens")
    ax.set_xlim(0, None)
    ax.legend(loc="best", handlelength=1.0)


def _tokens(ax: Axes, rows: pd.DataFrame | None) -> None:
    if rows is None or rows.empty:
        notice(ax, "not read")
        return
    wide = rows.pivot_table(
        index=["segment", "token"],
        columns="quantity",
        values="estimate",
        aggfunc=lambda v: float(v.iloc[0]),
        sort=False,
    )
    wide = wide.astype(float).sort_values("attribution", key=np.abs, ascending=False).head(_TOKENS)
    attribution = wide["attribution"].to_numpy()
    ax.barh(np.arange(len(wide)), attribution, height=0.7, color=[_UP if s > 0 else _DOWN for s in attribution])
    ax.axvline(0, color=FAINT, linewidth=0.7, zorder=0)
    _bar_names(ax, [f"{_word(token)} {segment}" for segment, token in wide.index])
    ax.set_xlabel("attribution; attention beside the bars")
    reach = float(np.abs(attribution).max()) or 1.0
    for i, (s, a) in enumerate(zip(attribution, wide["attention"], strict=True)):
        ax.text(
            s + np.sign(s or 1) * 0.03 * reach,
            i,
            f"{a:.0%}",
            va="center",
            ha="left" if s >= 0 else "right",
            fontsize=6.5,
            color=MUTED,
        )
    ax.margins(x=0.16)


def _numbers(ax: Axes, rows: pd.DataFrame | None) -> None:
    """The card's numbers as lines of text: they have different units."""
    ax.set_axis_off()
    if rows is None:
        notice(ax, "no numbers")
        return
    for i, (_, row) in enumerate(rows.iterrows()):
        y = 0.93 - 0.19 * i
        auroc = row["unit"] == "AUROC"
        ax.text(0.0, y, _WORDS.get(row["name"], str(row["name"])), transform=ax.transAxes, color=MUTED, va="top")
        unit = "" if auroc else f" {row['unit']}"
        value = f"{interval(row, signed=not auroc)}{unit}"
        ax.text(0.0, y - 0.075, value, transform=ax.transAxes, va="top", fontsize=9.5, parse_math=False)
        ax.text(1.0, y - 0.075, f"n = {int(row['n'])}", transform=ax.transAxes, va="top", ha="right", color=MUTED)
