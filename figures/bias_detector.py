"""Detectors of followed cues: fitted on one kind and read on another, beside what the words alone tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verdictscope.figures.grid import heat_map, outline, write_values
from verdictscope.figures.style import INK, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import counts, interval, need, number

_COLUMNS = "variant label fit read kind auroc low high n positive null_low null_high words odds reason"
_TITLES = {"cued": "cue or control?", "flip": "flipped by it?", "yield": "gave in, or held?"}
_OTHERS = "all others"
_READERS = {"auroc": "hidden states", "words": "words of the prompt"}


def _draw(table: pd.DataFrame) -> Figure:
    """The figure."""
    need(table, "bias_detector", _COLUMNS)
    table = _own(table)
    labels = [label for label in _TITLES if (table["label"] == label).any()]
    with context():
        if not labels:
            fig = sheet(WIDTH, 1.8)
            ax = fig.subplots()
            ax.set_axis_off()
            notice(ax, "the table has no rows")
            return fig
        fit = _names(table, "fit")
        fit = [*(name for name in fit if name != _OTHERS), *([_OTHERS] if _OTHERS in fit else [])][::-1]
        rows = len(fit)
        fig = sheet(WIDTH, 2 * (0.75 + 0.27 * rows), gap=0.04)
        axes = np.atleast_2d(fig.subplots(2, len(labels), squeeze=False))
        for x, label in enumerate(labels):
            of = table[table["label"] == label]
            for y, (column, words) in enumerate(_READERS.items()):
                ax = axes[y, x]
                _map(ax, of, column, fit, first=x == 0)
                letter = "abcdef"[y * len(labels) + x]
                ax.set_title(f"{letter}  {_TITLES[label]}" if y == 0 else f"{letter}  {words}", fontsize=7.8)
                if y:
                    ax.set_xlabel("read on")
        axes[0, 0].set_ylabel("hidden states\nfitted on")
        axes[1, 0].set_ylabel("words alone\nfitted on")
        settle(fig)
    return fig


def _own(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["variant"].isin(["", "base"])] if len(set(table["variant"])) > 1 else table


def _names(of: pd.DataFrame, column: str) -> list[str]:
    names = [
        str(v) if kind != "left out" or column == "read" else _OTHERS
        for v, kind in zip(of[column], of["kind"], strict=True)
    ]
    return list(dict.fromkeys(names))


def _map(ax: Axes, of: pd.DataFrame, column: str, fit: list[str], first: bool) -> None:
    """One question and reader; every panel has the same rows, since only the first one names them."""
    read = _names(of, "read")
    values = np.full((len(fit), len(read)), np.nan)
    cells = [
        (fit.index(str(r["fit"]) if r["kind"] != "left out" else _OTHERS), read.index(str(r["read"])), r)
        for r in of.to_dict("records")
    ]
    for y, x, row in cells:
        values[y, x] = row[column]
    image = heat_map(ax, values, centre=0.5, reach=0.5)
    write_values(ax, image, values, lambda v: f"{v:.2f}".removeprefix("0"), 0.25)
    for y, x, row in cells:
        if row["kind"] == "within" and pd.notna(row[column]):
            outline(ax, x, y, line=0.9)
        if column == "auroc" and pd.notna(row["auroc"]) and not _clear(row):
            ax.plot(x + 0.38, y + 0.3, marker="o", markersize=2.2, color=INK, linestyle="none", zorder=5)
    ax.set_xticks(range(len(read)), read)
    ax.set_yticks(range(len(fit)), fit if first else [""] * len(fit))


def _clear(row: dict[str, Any]) -> bool:
    return bool(row["low"] > max(0.5, row["null_high"]))


def _caption(table: pd.DataFrame) -> str:
    """Text of the caption."""
    need(table, "bias_detector", _COLUMNS)
    table = _own(table)
    text = [
        "AUROC (0.5 is chance, white) of linear detectors fitted on verdicts under one kind of cue (rows) and read on "
        "new items under another (columns), from the states before the verdict (top) and from the prompt's words alone "
        "(bottom). Left: does the prompt hold the cue or the control sentence (the words give it away, so this shows "
        "only that the cue is represented). Middle: among cued prompts, is the verdict the named side and was not "
        "without the cue. Right: the same among prompts whose uncued verdict was the other side. Position names the "
        "side shown first, against the verdict averaged over both orders."
    ]
    filled = table[table["auroc"].notna()]
    for label in ("flip", "yield"):
        within = filled[(filled["label"] == label) & (filled["kind"] == "within")]
        each = [_within(row) for row in within.to_dict("records")]
        if each:
            text.append(f"{_TITLES[label].capitalize()} {'; '.join(each)}.")
    moved = filled[(filled["kind"] != "within") & (filled["label"] != "cued")]
    if len(moved):
        clear = sum(_clear(row) for row in moved.to_dict("records"))
        text.append(
            f"{clear} of {len(moved)} readings on another kind lie, 95 % interval and all, above chance and "
            "above every refit with permuted labels; a dot marks those that do not."
        )
    if len(filled):
        text.append(f"Per cell {counts(filled['n'])} item groups.")
    if len(filled) < len(table):
        text.append(
            f"{len(table) - len(filled)} hatched cells hold one class only: no verdict of that kind flipped, "
            "say, or every prompt has an order."
        )
    text.append("Not shown: what made the judge follow, or that taking the direction away would stop it.")
    return " ".join(text)


def _within(row: dict[str, Any]) -> str:
    """One kind read where it was fitted, with what stands beside it."""
    null = f"permuted {number(row['null_low'])} to {number(row['null_high'])}"
    return (
        f"{row['read']} {interval(row, 'auroc')} ({null}, words {number(row['words'])}, "
        f"log-odds of the verdict {number(row['odds'])})"
    )


def bias_detector(table: pd.DataFrame) -> Display:
    """Detectors of followed cues: fitted on one kind and read on another, beside what the words alone tell."""
    return Display(_draw(table), _caption(table), table)
