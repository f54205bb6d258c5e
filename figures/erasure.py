"""A label read with and without another concept in the states: its trace and AUROCs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from verdictscope.figures.style import (
    FAINT,
    FOUND,
    INK,
    WIDTH,
    ZONE,
    Display,
    cell_colour,
    context,
    notice,
    panel,
    settle,
    sheet,
)
from verdictscope.figures.style import shown as display
from verdictscope.figures.tables import counts, interval, need, number, truth

_NULLS = ("random", "permuted")
_TRACE = "probe erased cell target rel_think_end kind estimate low high n " + " ".join(
    f"{null}_{end}" for null in _NULLS for end in ("low", "high")
)
_TABLE = "read probe erased part estimate low high n unit"
_LINES = (
    ("none", "old", "unchanged", "-", 2.3),
    ("concept", "old", "{} erased, same probe", (0, (4, 1.6)), 1.5),
    ("concept", "refitted", "{} erased, probe refitted", (0, (1.4, 1.2)), 1.8),
)
_SHADE = {"random": ("#8fb3c9", "a random direction erased"), "permuted": ("#d5cbe2", "permuted {} labels erased")}
_ROWS = (
    ("test", "old", "new prompts, same probe"),
    ("test", "refitted", "new prompts, refitted"),
    ("train", "refitted", "fitted on, refitted"),
)


def erasure(
    table: pd.DataFrame, trace: pd.DataFrame | None = None, *, closing: int | None = None, ax: Axes | None = None
) -> Display:
    """Draw the AUROC of a label before and after a concept was erased (LEACE), and the normalised trace with both.

    Args:
        table: the table erasure.parquet.
        trace: the table erased_trace.parquet; without it the AUROCs alone.
        closing: number of closing tokens.
        ax: axes to draw on where there is no trace; by default those of a new figure.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["read", "probe", "erased", "part", "estimate", "low", "high", "n", "unit"]
        >>> both = (("old", "none", 0.9), ("refitted", "concept", 0.5))
        >>> rows = [("harm", p, e, "test", a, a, a, 40, "AUROC") for p, e, a in both]
        >>> "harm" in figures.erasure(pd.DataFrame(rows, columns=columns)).caption
        True
    """
    need(table, "erasure", _TABLE)
    if trace is None:
        with panel(ax, WIDTH * 0.6, 3.0) as axes:
            _areas(axes, table)
        return display(axes, _caption(table, None), table)
    need(trace, "erased_trace", _TRACE)
    concept, _ = _names(table)
    with context():
        fig = sheet(WIDTH, 3.5)
        left, right = fig.subplots(1, 2, width_ratios=(1.35, 1))
        left.set_title("a  Normalised score", pad=13)
        _trace(left, trace, concept, closing)
        _areas(right, table)
        right.set_title("b  AUROC", pad=13)
        handles = left.get_legend_handles_labels()[0]
        if handles:
            fig.legend(handles=handles, loc="outside upper left", ncols=3, columnspacing=1.2, labelspacing=0.35)
        settle(fig)
    return Display(fig, _caption(table, trace), table)


def _names(erasure: pd.DataFrame) -> tuple[str, str]:
    """What was erased and what is read beside it, in the order of the table."""
    names = list(dict.fromkeys(erasure.loc[erasure["unit"] == "AUROC", "read"].astype(str)))
    return (names[0] if names else "the concept"), (names[1] if len(names) > 1 else "the label")


def _hero(table: pd.DataFrame) -> pd.DataFrame:
    """The target requests' cell that rests on most rollouts; those complied with where there are as many."""
    rows = table[truth(table["target"])]
    if rows.empty:
        return rows
    most = rows.groupby("cell")["n"].max()
    best = sorted(most.index, key=lambda cell: (-most[cell], not str(cell).endswith("complied")))
    complied = [cell for cell in best if str(cell).endswith("complied")]
    return rows[rows["cell"] == (complied or best)[0]]


def _line(table: pd.DataFrame, erased: str, probe: str, kind: str = "normalised") -> pd.DataFrame:
    rows = table[(table["erased"] == erased) & (table["probe"] == probe) & (table["kind"] == kind)]
    rows = rows.drop_duplicates("rel_think_end").set_index("rel_think_end").sort_index()
    columns = [c for c in _TRACE.split() if c in rows.columns and rows[c].dtype.kind in "fiu"]
    rows = rows[columns].astype(float)
    return rows if rows.empty else rows.reindex(range(int(rows.index.min()), int(rows.index.max()) + 1))


def _trace(ax: Axes, table: pd.DataFrame, concept: str, closing: int | None) -> None:
    hero = _hero(table)
    lines = [
        (_line(hero, erased, probe), label, dash, width, (erased, probe))
        for erased, probe, label, dash, width in _LINES
    ]
    lines = [line for line in lines if len(line[0]) and line[0]["estimate"].notna().any()]
    ax.set_xlabel("tokens relative to the end of thinking")
    ax.set_ylabel("normalised score")
    if not lines:
        notice(ax, "cannot normalise: the table has\nno normalised score of target requests")
        ax.set_yticks([])
        return
    colour = cell_colour(str(hero["cell"].iloc[0]))
    last = max(int(rows.index.max()) for rows, *_ in lines)
    first = min(int(rows.index.min()) for rows, *_ in lines)
    ax.set_xlim(first - 0.7, last + 0.7)
    if last >= 0:
        ax.axvspan(-0.5, (last if closing is None else min(closing - 1, last)) + 0.5, color=ZONE, linewidth=0, zorder=0)
    nulls = _line(hero, "concept", "refitted")
    for null in reversed(_NULLS):
        shade, words = _SHADE[null]
        if len(nulls) and nulls[f"{null}_low"].notna().any():
            ax.fill_between(
                nulls.index.to_numpy(),
                nulls[f"{null}_low"],
                nulls[f"{null}_high"],
                color=shade,
                alpha=0.8,
                linewidth=0,
                zorder=1,
                label=f"{words.format(concept)} (refitted, range)",
            )
    for rows, label, dash, width, key in lines:
        own = colour if key[0] == "none" else FOUND
        ax.fill_between(rows.index.to_numpy(), rows["low"], rows["high"], color=own, alpha=0.13, linewidth=0, zorder=2)
        ax.plot(
            rows.index.to_numpy(),
            rows["estimate"],
            color=own,
            linestyle=dash,
            linewidth=width,
            zorder=4,
            label=label.format(concept),
        )
        ax.plot(
            rows.loc[0:].index.to_numpy(),
            rows.loc[0:, "estimate"],
            color=own,
            linestyle="none",
            marker="o",
            markersize=2.8,
            zorder=4.1,
        )
    means = pd.concat([rows["estimate"] for rows, *_ in lines])
    low, high = min(-0.1, float(means.min())), max(1.1, float(means.max()))
    ax.set_ylim(max(low - 0.15, -1.5), min(high + 0.15, 2.5))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=(1, 2, 5, 10)))
    for at in (0, 1):
        ax.axhline(at, color=INK, linewidth=0.6, linestyle=(0, (1, 2)), zorder=1.5)


def _areas(ax: Axes, erasure: pd.DataFrame) -> None:
    """A row per reading: open dot before, filled after, bars the ranges of the two nulls."""
    table = erasure[erasure["unit"] == "AUROC"]
    if table.empty:
        ax.set_axis_off()
        notice(ax, "the table has no AUROC")
        return
    rows = [(read, part, probe, words) for read in _names(erasure) for part, probe, words in _ROWS]
    labels = []
    for place, (read, part, probe, words) in enumerate(reversed(rows)):
        own = table[(table["read"] == read) & (table["part"] == part)]
        for null, shift in zip(_NULLS, (-0.2, 0.2), strict=True):
            values = own.loc[(own["erased"] == null) & (own["probe"] == probe), "estimate"].dropna()
            if len(values):
                ax.plot(
                    [values.min(), values.max()],
                    [place + shift] * 2,
                    linewidth=2.6,
                    solid_capstyle="butt",
                    color=_SHADE[null][0],
                    zorder=2,
                )
        _dot(ax, own[(own["erased"] == "none") & (own["probe"] == "old")], place + 0.06, filled=False)
        _dot(ax, own[(own["erased"] == "concept") & (own["probe"] == probe)], place - 0.06, filled=True)
        labels.append(f"{read}, {words}")
    ax.axvline(0.5, color=INK, linewidth=0.6, linestyle=(0, (1, 2)), zorder=1)
    ax.axhline(len(_ROWS) - 0.5, color=FAINT, linewidth=0.8)
    ax.set_yticks(range(len(rows)), labels)
    ax.set_ylim(-0.7, len(rows) - 0.3)
    ax.set_xlim(min(0.4, float(table["estimate"].min()) - 0.03), 1.02)
    ax.set_xlabel("AUROC\nopen: before, filled: erased")


def _dot(ax: Axes, rows: pd.DataFrame, y: float, *, filled: bool) -> None:
    for row in rows.to_dict("records")[:1]:
        mark: dict[str, Any] = {"color": INK, "markerfacecolor": INK if filled else "white", "markersize": 4}
        ax.errorbar([row["estimate"]], [y], xerr=_whiskers(row), fmt="o", linewidth=0.9, zorder=4, **mark)


def _whiskers(row: dict[str, Any]) -> list[list[float]] | None:
    if not np.isfinite([row["low"], row["high"]]).all():
        return None
    return [[max(row["estimate"] - row["low"], 0.0)], [max(row["high"] - row["estimate"], 0.0)]]


def _caption(erasure: pd.DataFrame, trace: pd.DataFrame | None) -> str:
    concept, label = _names(erasure)
    text = [
        f"{concept} is erased from the states (LEACE, training split); {label} is read by the same and a refitted "
        f"probe."
    ]
    hero = _hero(trace) if trace is not None else erasure[:0]
    if len(hero):
        reach = counts(_line(hero, "none", "old", "raw")["n"].dropna())
        text.append(f"(a) Normalised score of target requests ({reach} by position); bands are 95 % intervals.")
    for read in dict.fromkeys((concept, label)):
        rows = erasure[(erasure["read"] == read) & (erasure["unit"] == "AUROC") & (erasure["part"] == "test")]
        before, after = (_row(rows, erased, probe) for erased, probe in (("none", "old"), ("concept", "refitted")))
        if before is not None and after is not None:
            null = rows.loc[(rows["erased"] == "permuted") & (rows["probe"] == "refitted"), "estimate"].dropna()
            beside = f", null (permuted labels) {number(null.min())} to {number(null.max())}" if len(null) else ""
            text.append(f"AUROC of {read}: {interval(before)} before, {interval(after)} after{beside}.")
    if "name" in erasure.columns:
        rows = erasure[(erasure["name"] == "normalised_drop") & erasure["read"].astype(str).str.endswith("complied")]
        kinds = (("none", "old", "before"), ("concept", "refitted", "erased and refitted"))
        drops = [(words, _row(rows, erased, probe)) for erased, probe, words in kinds]
        each = [f"{words} {interval(row)}" for words, row in drops if row is not None and np.isfinite(row["estimate"])]
        text += [f"Normalised drop: {'; '.join(each)}."] if each else []
    return " ".join([*text, f"Not shown: whether the model needs {concept}; only linear information was erased."])


def _row(rows: pd.DataFrame, erased: str, probe: str) -> pd.Series | None:
    own = rows[(rows["erased"] == erased) & (rows["probe"] == probe)]
    return own.iloc[0] if len(own) else None
