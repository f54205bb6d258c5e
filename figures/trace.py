"""The probe's score around the end of thinking, normalised and raw, with how many rollouts stand behind each point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from verdictscope.figures.style import (
    INK,
    MUTED,
    WIDTH,
    ZONE,
    Display,
    cell_colour,
    context,
    halo,
    notice,
    settle,
    sheet,
    variant_colour,
)
from verdictscope.figures.tables import cell_words, counts, interval, need, number, truth

_COLUMNS = "variant cell target rel_think_end kind estimate low high n"
_KINDS = ("normalised", "raw")
_READ = ["estimate", "low", "high", "low_all", "high_all", "n"]
# Further out than this a normalised score says only that its two normaliser met: the frame ends there.
_FRAME = (-1.5, 2.5)
_SOLID, _DASHED, _DOTTED = "-", (0, (4, 1.6)), (0, (1.4, 1.2))


@dataclass(frozen=True)
class _Role:
    """One line of the figure: which rows it may come from and how it is drawn."""

    name: str
    variant: str
    target: bool | None
    cells: tuple[str, ...]
    label: str
    dash: Any = _SOLID
    width: float = 1.3
    ordered: bool = False  # an earlier cell goes before a later one, whatever their n


_COMPLIED = ("harmful_complied", "harmless_complied")
_REFUSED = ("harmful_refused", "harmless_refused")
_ROLES = (
    _Role("hero", "base", True, _COMPLIED, "target requests, complied", width=2.3),
    _Role("refused", "base", None, _REFUSED, "", ordered=True),
    _Role("harmless", "base", None, ("harmless_complied",), ""),
    _Role("reference", "reference", True, _REFUSED + _COMPLIED, "reference model, target requests", _DASHED, 1.5),
    _Role("ablated", "ablated_fixed", True, _COMPLIED, "bold line's rollouts, heads ablated", _DOTTED, 1.8),
)


@dataclass(frozen=True)
class _Line:
    role: _Role
    cell: str
    rows: pd.DataFrame  # every kind

    @property
    def colour(self) -> str:
        return cell_colour(self.cell) if self.role.variant == "base" else variant_colour(self.role.variant)

    @property
    def label(self) -> str:
        text = self.role.label or cell_words(self.cell)
        if self.role.name == "reference":
            text = f"{text}, {self.cell.partition('_')[2]}"
        return f"{text} ({self.count})"

    @property
    def count(self) -> str:
        """n at the first closing token, or the largest where none was read there."""
        at = self.rows[self.rows["rel_think_end"] == 0]
        return counts([(at if len(at) else self.rows)["n"].max()])

    def kind(self, kind: str) -> pd.DataFrame:
        """This line's rows of one kind on every position between its ends, NaN where none was read."""
        rows = self.rows[self.rows["kind"] == kind].drop_duplicates("rel_think_end")
        # tables written before there were simultaneous bands lack them
        rows = rows.set_index("rel_think_end").sort_index().reindex(columns=_READ).astype(float)
        return rows if rows.empty else rows.reindex(range(int(rows.index.min()), int(rows.index.max()) + 1))


def _lines(table: pd.DataFrame) -> list[_Line]:
    """For each role the group (variant, cell, target) that rests on most rollouts; roles without rows are left out."""
    table = table.dropna(subset=["rel_think_end"])
    table = table.assign(target=truth(table["target"]), rel_think_end=table["rel_think_end"].astype(int))
    lines: list[_Line] = []
    taken: set[tuple[Any, ...]] = set()
    for role in _ROLES:
        rows = table[(table["variant"] == role.variant) & table["cell"].isin(role.cells)]
        if role.target is not None:
            rows = rows[rows["target"] == role.target]
        groups = [(key, group) for key, group in rows.groupby(["variant", "cell", "target"]) if key not in taken]
        groups = [(key, group) for key, group in groups if group["n"].max() > 0]
        if not groups:
            continue
        # max keeps the first of equals: there too the role's earlier cell goes first
        groups.sort(key=lambda item: role.cells.index(item[0][1]))
        if role.ordered:
            groups = [item for item in groups if item[0][1] == groups[0][0][1]]
        key, group = max(groups, key=lambda item: item[1]["n"].max())
        taken.add(key)
        lines.append(_Line(role, str(key[1]), group))
    return lines


def trace(table: pd.DataFrame, cliffs: pd.DataFrame | None = None, *, closing: int | None = None) -> Display:
    """Draw mean scores around the end of thinking: normalised left, raw logits right, n per position below both.

    Args:
        table: the table trace_mean.parquet.
        cliffs: the table cliff.parquet; adds the normalised drops to the caption.
        closing: number of closing tokens; by default every position from 0 on is drawn as closing.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["variant", "cell", "target", "rel_think_end", "kind", "estimate", "low", "high", "n"]
        >>> rows = [("base", "harmful_complied", True, t, "raw", -t, -t - 1, 1 - t, 20) for t in range(-5, 3)]
        >>> len(figures.trace(pd.DataFrame(rows, columns=columns)).axes)
        4
    """
    trace_mean = table
    need(trace_mean, "trace_mean", _COLUMNS)
    lines = _lines(trace_mean)
    with context():
        fig = sheet(WIDTH, 3.55)
        axes = fig.subplots(2, 2, sharex=True, height_ratios=(5, 1))
        first, last = _range(lines)
        end = last if closing is None else min(closing - 1, last)
        for column, (kind, title) in enumerate(zip(_KINDS, ("a  Normalised score", "b  Raw score"), strict=True)):
            panel, strip = axes[0, column], axes[1, column]
            panel.set_title(title, pad=13)
            panel.set_xlim(first - 0.7, last + 0.7)
            if lines:
                _zones(panel, strip, first, last, end)
            drawn = [line for line in lines if _curve(panel, strip, line, kind, end)]
            _dress(panel, kind, drawn)
            strip.set_xlabel("tokens relative to the end of thinking")
            strip.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=(1, 2, 5, 10)))
            if not drawn:
                strip.set_yticks([])
            else:
                most = int(max(line.rows["n"].max() for line in drawn))
                strip.set_ylim(0, most * 1.18)
                strip.set_yticks([0, most])
        axes[0, 0].set_ylabel("normalised score")
        axes[0, 1].set_ylabel("probe logit")
        axes[1, 0].set_ylabel("n")
        if lines:
            handles = [
                fig.axes[0].plot(
                    [], [], color=line.colour, linestyle=line.role.dash, linewidth=line.role.width, label=line.label
                )[0]
                for line in lines
            ]
            fig.legend(handles=handles, loc="outside upper left", ncols=2, columnspacing=1.6, labelspacing=0.35)
        settle(fig)
    return Display(fig, _caption(table, lines, cliffs), table)


def _range(lines: list[_Line]) -> tuple[int, int]:
    if not lines:
        return -1, 0
    return (
        min(int(line.rows["rel_think_end"].min()) for line in lines),
        max(int(line.rows["rel_think_end"].max()) for line in lines),
    )


def _curve(panel: Axes, strip: Axes, line: _Line, kind: str, end: int) -> bool:
    """One line with its band and its n; False where it has no number of this kind."""
    rows = line.kind(kind)
    if rows.empty or not rows["estimate"].notna().any():
        return False
    x, role = rows.index.to_numpy(), line.role
    above = 4 if role.name == "hero" else 3
    panel.fill_between(x, rows["low"], rows["high"], color=line.colour, alpha=0.17, linewidth=0, zorder=2)
    if role.name == "hero":
        for edge in ("low_all", "high_all"):
            panel.plot(x, rows[edge], color=line.colour, linewidth=0.6, alpha=0.75, zorder=2.5)
    panel.plot(x, rows["estimate"], color=line.colour, linestyle=role.dash, linewidth=role.width, zorder=above)
    # The closing tokens are few and carry the point of the figure: each reading there gets a mark of its own.
    # So does every reading of a line too short to be seen as one.
    marked = rows.loc[0:end] if len(rows) > 6 else rows
    panel.plot(
        marked.index,
        marked["estimate"],
        color=line.colour,
        linestyle="none",
        marker="o",
        markersize=3.6 if role.name == "hero" else 2.6,
        zorder=above + 0.1,
    )
    # Controls often rest on as many rollouts as the bold line: thin dashes over it let both be seen.
    solid = role.dash == _SOLID
    strip.plot(
        x,
        rows["n"],
        color=line.colour,
        linestyle=role.dash,
        linewidth=role.width * 0.7 if solid else 0.8,
        zorder=3 if solid else 5,
    )
    return True


def _zones(panel: Axes, strip: Axes, first: int, last: int, end: int) -> None:
    """Shade the closing tokens, 0 to ``end``, and name the stretches above the frame."""
    above: dict[str, Any] = {"color": MUTED, "fontsize": 6.8, "va": "bottom", "transform": panel.get_xaxis_transform()}
    if first < 0:
        panel.text(first - 0.7, 1.02, "thinking", ha="left", **above)
    if last < 0:
        return
    for ax in (panel, strip):
        ax.axvspan(-0.5, end + 0.5, color=ZONE, linewidth=0, zorder=0)
    panel.text(end + 0.7, 1.02, "closing tokens", ha="right", **above)
    if end < last:
        panel.text(end + 0.9, 1.02, " answer", ha="left", **above)


def _dress(panel: Axes, kind: str, drawn: list[_Line]) -> None:
    """Reference lines, frame, and a notice when nothing could be drawn."""
    if not drawn:
        if kind == "normalised":
            notice(
                panel,
                "cannot normalise:\nthe table has no normalised score\n(a cell may be empty in\nthe training split)",
            )
        else:
            notice(panel, "no raw score in the table")
        panel.set_yticks([])
        return
    rows = pd.concat([line.kind(kind) for line in drawn])
    if kind == "raw":
        panel.axhline(0, color=MUTED, linewidth=0.6, zorder=1)
    # limits that hold every mean, and the bands unless a thin edge of them would flatten everything else
    bottom, top = float(rows["estimate"].min()), float(rows["estimate"].max())
    if kind == "normalised":
        bottom, top = min(bottom, 0.0), max(top, 1.0)
    room = 0.4 * max(top - bottom, 1e-9)
    full = np.nanmin([bottom, rows["low"].min()]), np.nanmax([top, rows["high"].max()])
    bottom, top = max(full[0], bottom - room), min(full[1], top + room)
    if kind == "normalised":
        bottom, top = max(bottom, _FRAME[0]), min(top, _FRAME[1])
    inside = bool(full[0] < bottom or full[1] > top)
    pad = 0.06 * (top - bottom) or 1.0
    low, high, cut = bottom - pad, top + pad, inside
    panel.set_ylim(low, high)
    if cut:
        panel.text(
            0.02,
            0.03,
            "bands or lines leave the frame",
            transform=panel.transAxes,
            fontsize=6.5,
            color=INK,
            va="bottom",
            path_effects=halo(),
        )
    if kind == "normalised":
        for at, words in ((0, "reads like\ncomplying"), (1, "reads like\nrefusing")):
            panel.axhline(at, color=INK, linewidth=0.6, linestyle=(0, (1, 2)), zorder=1)
            panel.annotate(
                words,
                (1, at),
                xycoords=panel.get_yaxis_transform(),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=6.8,
                color=INK,
                linespacing=1.1,
                annotation_clip=False,
            )


def _caption(table: pd.DataFrame, lines: list[_Line], cliffs: pd.DataFrame | None) -> str:
    text = [
        "Probe score around the end of thinking (0: first closing token), test split. (a) Normalised: 0 is the mean of "
        "complied, 1 of refused training rollouts at the same position; (b) raw logits. Bands are 95 % intervals, "
        "strips n."
    ]
    if not any(line.kind("normalised")["estimate"].notna().any() for line in lines):
        text.append("The scores could not be normalised.")
    if lines and lines[0].role.name == "hero":
        hero = lines[0]
        groups = hero.rows.get("n_groups", pd.Series(dtype=float)).dropna()
        of = f" of {int(groups.max())} prompts" if len(groups) else ""
        text.append(f"Bold: target requests complied with, {hero.count} rollouts{of}.")
    else:
        text.append("No target request was complied with, so there is no bold line.")
    if cliffs is not None:
        # the normalised drop of each variant, as the table has it
        need(cliffs, "cliff", "variant cell target name estimate low high n")
        rows = cliffs[truth(cliffs["target"]) & (cliffs["name"] == "normalised_drop")]
        parts = []
        # A control variant takes all target requests, whatever came of them: its cell is called target.
        for variant, cells, words in (
            ("base", _COMPLIED, "base"),
            ("reference", (*_REFUSED, *_COMPLIED, "target"), "reference model"),
            ("ablated_fixed", (*_COMPLIED, "target"), "heads ablated"),
        ):
            found = rows[(rows["variant"] == variant) & rows["cell"].isin(cells)].sort_values("n", ascending=False)
            if len(found) and np.isfinite(float(found.iloc[0]["estimate"])):
                parts.append(f"{words} {interval(found.iloc[0])}, n = {number(found.iloc[0]['n']).partition('.')[0]}")
        text.append(f"Normalised drop, target requests: {'; '.join(parts)}." if parts else "")
    roles = {line.role.name for line in lines}
    absent = [w for name, w in (("reference", "reference model"), ("ablated", "ablated heads")) if name not in roles]
    if absent:
        text.append(f"Without a control: {', '.join(absent)}.")
    text.append("Not shown: that the score causes the verdict; a raw drop alone is no evidence.")
    return " ".join(part for part in text if part)
