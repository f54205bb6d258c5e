"""Probes fitted at one position, set or cue and read at another: maps of AUROCs, each with its own null."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from verdictscope.figures.grid import colour_bar, fits, heat_map, outline, write_values
from verdictscope.figures.style import INK, MUTED, WIDTH, Display, context, notice, panel, settle, sheet
from verdictscope.figures.style import shown as display
from verdictscope.figures.tables import counts, interval, need, number, of_base

_COLUMNS = "fit read kind auroc low high n n_fit null_low null_high"
_DETECTOR = "variant label fit read kind auroc low high n positive null_low null_high words odds reason"
_TITLES = {"cued": "cue or control?", "flip": "flipped by it?", "yield": "followed it?"}
_READERS = {"auroc": "hidden states", "words": "words of the prompt"}
_OTHERS = "all others"
_LETTER = 0.06  # inches a letter takes at the size of the names beside the map


def _short(value: float) -> str:
    """``.93``: an AUROC needs no leading zero."""
    return f"{value:.2f}".removeprefix("0")


def _fitted(table: pd.DataFrame) -> list[str]:
    """Where each cell was fitted; probes that leave one set out stand in one row, each read at what it left out."""
    return [_OTHERS if k == "left out" else str(f) for f, k in zip(table["fit"], table["kind"], strict=True)]


def _bar(table: pd.DataFrame) -> pd.Series:
    """What each cell has to exceed: chance, and every permutation of its own null."""
    return table["null_high"].astype(float).fillna(0.5).clip(lower=0.5)


def _cells(ax: Axes, table: pd.DataFrame, fit: list[str], column: str, size: tuple[float, float] | None = None) -> Any:
    """The map with frames where read and fit agree, and dots where the null is not exceeded."""
    read = list(dict.fromkeys(table["read"].astype(str)))
    values: Float[np.ndarray, "fit read"] = np.full((len(fit), len(read)), np.nan)
    cells = list(zip(_fitted(table), table.to_dict("records"), _bar(table), strict=True))
    for name, row, _ in cells:
        values[fit.index(name), read.index(str(row["read"]))] = row[column]
    image = heat_map(ax, values, centre=0.5, reach=0.5)
    if size is None or fits(len(fit), len(read), *size):
        write_values(ax, image, values, _short, 0.25 if size is None else size[1] / len(fit))
    for name, row, bar in cells:
        x, y = read.index(str(row["read"])), fit.index(name)
        if row["kind"] == "within" and (size or pd.notna(row[column])):
            outline(ax, x, y, line=0.9)
        if column == "auroc" and pd.notna(row["auroc"]) and float(row["low"]) <= bar:
            ax.plot(x + 0.36, y + 0.3, marker="o", markersize=2.2, color=INK, linestyle="none", zorder=5)
    ax.set_xticks(range(len(read)), read)
    return image


def transfer(table: pd.DataFrame, *, over: str = "", ax: Axes | None = None) -> Display:
    """Draw the AUROC of probes fitted at one position or set and read at another, 0.5 (chance) in white.

    Args:
        table: one matrix of position_transfer.parquet or ood.parquet.
        over: what the positions are, for the axes.
        ax: axes to draw on; by default those of a new figure.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["fit", "read", "kind", "auroc", "low", "high", "n", "n_fit", "null_low", "null_high"]
        >>> table = pd.DataFrame([("a", "b", "transfer", 0.9, 0.8, 0.95, 40, 80, 0.4, 0.6)], columns=columns)
        >>> "1 of 1 transfers" in figures.transfer(table).caption
        True
    """
    need(table, "transfer", _COLUMNS)
    fit = list(dict.fromkeys(_fitted(table)))[::-1]
    read = list(dict.fromkeys(table["read"].astype(str)))
    names, below = (max((len(n) for n in own), default=1) * _LETTER for own in (fit, read))
    width = min(WIDTH, max(3.2, names + 1.2 + 0.45 * len(read)))
    height = min(7.5, max(1.8, below + 0.95 + 0.27 * len(fit)))
    with panel(ax, width, height) as axes:
        if table.empty:
            axes.set_axis_off()
            notice(axes, "the table has no rows")
        else:
            inner = width - names - 1.0, height - below - 0.6
            image = _cells(axes, table, fit, "auroc", inner)
            axes.tick_params(axis="x", labelrotation=90 if below > 0.42 else 0)
            axes.set_yticks(range(len(fit)), fit)
            axes.set_xlabel(f"read at {over}".rstrip())
            axes.set_ylabel(f"fitted at {over}".rstrip())
            words = "framed: where it was fitted; dot: not above its null"
            words = words if inner[0] > 2.9 else words.replace("; ", "\n")
            axes.set_title(words, fontsize=7.2, fontweight="normal", color=MUTED, pad=5)
            colour_bar(axes, image, "AUROC (0.5 = chance)" if height > 2.4 else "AUROC")
    return display(axes, _transfer_caption(table, over or "position"), table)


def _transfer_caption(table: pd.DataFrame, over: str) -> str:
    text = [
        f"AUROC (0.5 is chance) of a probe fitted at one {over} (training split) and read at another (test split); "
        "framed: read where it was fitted."
    ]
    filled = table.dropna(subset=["auroc"])
    moved = filled[filled["kind"] != "within"]
    if moved.empty:
        text.append("No cell could be filled away from where the probe was fitted.")
    else:
        margin = moved["low"].astype(float) - _bar(moved)  # missing where too few groups allow no interval
        text.append(
            f"{int((margin > 0).sum())} of {len(moved)} transfers have a 95 % interval above 0.5 and their null"
        )
        if margin.notna().any():
            low = moved.loc[margin.idxmin()]
            text[-1] += f"; the weakest, {low['fit']} to {low['read']}, is {interval(low, 'auroc')}"
        text[-1] += "."
    if len(filled):
        text.append(f"Per cell {counts(filled['n'])} prompt groups read, {counts(filled['n_fit'])} rollouts fitted on.")
        if filled["null_high"].notna().any():
            low, high = number(filled["null_low"].min()), number(filled["null_high"].max())
            text.append(f"Null (labels permuted between prompts): {low} to {high} over all cells.")
    if len(filled) < len(table):
        text.append(f"{len(table) - len(filled)} hatched cells lack a class.")
    text.append("Not shown: that the direction means the same in both, or that the model uses it.")
    return " ".join(text)


def bias_detector(table: pd.DataFrame) -> Display:
    """Draw detectors of followed cues: AUROCs by fitted and read cue, from hidden states and from the prompt's words.

    Args:
        table: bias_detector.parquet; of several variants the model under study is drawn.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = "variant label fit read kind auroc low high n positive null_low null_high words odds reason"
        >>> row = ("", "flip", "crowd", "crowd", "within", 0.8, 0.7, 0.9, 40, 20, 0.4, 0.6, 0.5, 0.6, "")
        >>> len(figures.bias_detector(pd.DataFrame([row], columns=columns.split())).axes)
        2
    """
    need(table, "bias_detector", _DETECTOR)
    own = of_base(table)
    labels = [label for label in _TITLES if (own["label"] == label).any()]
    with context():
        if not labels:
            fig = sheet(WIDTH, 1.8)
            ax = fig.subplots()
            ax.set_axis_off()
            notice(ax, "the table has no rows")
            return Display(fig, "No detector was fitted. Not shown: anything.", table)
        fit = sorted(dict.fromkeys(_fitted(own)), key=lambda name: name == _OTHERS)[::-1]
        fig = sheet(WIDTH, 2 * (0.75 + 0.27 * len(fit)), gap=0.04)
        axes = np.atleast_2d(fig.subplots(2, len(labels), squeeze=False))
        for x, label in enumerate(labels):
            for y, (column, words) in enumerate(_READERS.items()):
                ax, letter = axes[y, x], "abcdef"[y * len(labels) + x]
                _cells(ax, own[own["label"] == label], fit, column)
                ax.set_yticks(range(len(fit)), fit if x == 0 else [""] * len(fit))
                ax.set_title(f"{letter}  {words if y else _TITLES[label]}", fontsize=7.8)
                if y:
                    ax.set_xlabel("read on")
        axes[0, 0].set_ylabel("hidden states\nfitted on")
        axes[1, 0].set_ylabel("words alone\nfitted on")
        settle(fig)
    text = [
        "AUROC (0.5 is chance, white) of linear detectors fitted under one cue (rows) and read on new items under "
        "another (columns), from states before the verdict (top) and from the prompt's words (bottom)."
    ]
    filled = own[own["auroc"].notna()]
    for label in ("flip", "yield"):
        within = filled[(filled["label"] == label) & (filled["kind"] == "within")]
        each = [f"{row['read']} {interval(row, 'auroc')}" for row in within.to_dict("records")]
        if each:
            text.append(f"{_TITLES[label].capitalize()} {'; '.join(each)}.")
    moved = filled[(filled["kind"] != "within") & (filled["label"] != "cued")]
    if len(moved):
        clear = int((moved["low"].astype(float) > _bar(moved)).sum())
        text.append(f"{clear} of {len(moved)} transfers have a 95 % interval above chance and the permutation null.")
    if len(filled):
        text.append(f"Per cell {counts(filled['n'])} item groups.")
    text.append("Dots: null not exceeded; hatched: one class only. Not shown: what made the judge follow a cue.")
    return Display(fig, " ".join(text), table)
