"""The effect of ablating the selected heads: refusals in free generation, log-odds against random sets of heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from verdictscope.figures.style import (
    FOUND,
    INK,
    MUTED,
    WIDTH,
    Display,
    context,
    halo,
    notice,
    settle,
    sheet,
    variant_colour,
)
from verdictscope.figures.tables import counts, interval, need, number, p_text

_GENERATION = "variant cell_kind refused low high n unread"
_SETS = "set kind estimate low high n unit p"
_KINDS = (("target", "target requests"), ("control", "control requests"))
_DOT: dict[str, Any] = {"linestyle": "none", "marker": "o", "markeredgecolor": "white", "markeredgewidth": 0.4}
_VARIANTS = (
    ("base", "base\n"),
    ("ablated", "heads\nablated"),
    ("random", "random\nsets"),
    ("reference", "reference\nmodel"),
)


def ablation(generation: pd.DataFrame, ablation: pd.DataFrame) -> Display:
    """Draw refusal rates by variant, and the selected heads' teacher-forced effect among random sets'.

    Args:
        generation: the table generation.parquet (rows with cell_kind ``target`` and ``control``).
        ablation: the table ablation.parquet.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["variant", "cell_kind", "refused", "low", "high", "n", "unread"]
        >>> rates = pd.DataFrame([("base", "target", 0.1, 0.05, 0.2, 60, 0)], columns=columns)
        >>> columns = ["set", "kind", "estimate", "low", "high", "n", "unit", "p"]
        >>> effects = pd.DataFrame([("found", "found", 2.0, 1.5, 2.5, 60, "nats", 0.01)], columns=columns)
        >>> len(figures.ablation(rates, effects).axes)
        2
    """
    need(generation, "generation", _GENERATION)
    need(ablation, "ablation", _SETS)
    with context():
        fig = sheet(WIDTH, 2.85)
        left, right = fig.subplots(1, 2, width_ratios=(1.45, 1))
        left.set_title("a  Refusals in free generation")
        right.set_title("b  Selected against random sets")
        _bars(left, generation)
        _distribution(right, ablation)
        settle(fig)
    text = ["(a) Share of requests refused in free generation; whiskers are 95 % intervals."]
    for cell_kind, words in _KINDS:
        variants = _variants(generation[generation["cell_kind"] == cell_kind])
        if variants:
            text.append(f"{words.capitalize()}: {'; '.join(_variant_words(*variant) for variant in variants)}.")
    unread = generation[generation["cell_kind"].isin([kind for kind, _ in _KINDS])]["unread"].sum()
    if unread:
        text.append(f"{int(unread)} answers could not be parsed.")
    selected = ablation[(ablation["kind"] == "found") & ablation["estimate"].notna()]
    sets = int(((ablation["kind"] == "random") & ablation["estimate"].notna()).sum())
    if selected.empty:
        text.append(f"(b) {sets} layer-matched random sets; the selected heads were not measured.")
    else:
        row = selected.iloc[0]
        text.append(
            f"(b) Change of the refusal log-odds on the base model's tokens: {interval(row, signed=True)} "
            f"{row['unit']}, {counts(selected['n'])}; null: {sets} layer-matched random sets, {p_text(row['p'])}."
        )
    text.append("Not shown: other mechanisms, and in (a) effects through changed thinking.")
    return Display(fig, " ".join(text), ablation)


def _variants(rows: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """The variants a group of requests has, in drawing order: name, words, rows."""
    kind = rows["variant"].map(lambda variant: "random" if str(variant).startswith("random_") else str(variant))
    variants = [(name, words, rows[(kind == name) & rows["refused"].notna()]) for name, words in _VARIANTS]
    return [variant for variant in variants if len(variant[2])]


def _bars(ax: Axes, generation: pd.DataFrame) -> None:
    ticks: list[tuple[float, str]] = []
    x = 0.0
    for cell_kind, words in _KINDS:
        variants = _variants(generation[generation["cell_kind"] == cell_kind])
        start = x
        for name, label, rows in variants:
            # one bar: with its whisker, or, for random sets, their mean with every set as a dot
            rate = float(rows["refused"].astype(float).mean())  # one row, except for the random sets
            colour = variant_colour(name)
            ax.bar(x, rate, width=0.72, color=colour, alpha=0.85, linewidth=0, zorder=2)
            ax.plot(
                [x - 0.36, x + 0.36], [rate, rate], color=colour, linewidth=1.4, zorder=2, solid_capstyle="butt"
            )  # a bar of 0 stays visible
            if name == "random":
                spread = np.linspace(-0.22, 0.22, len(rows)) if len(rows) > 1 else [0.0]
                each = rows["refused"].astype(float)
                ax.plot(x + np.asarray(spread), each, markersize=3.0, color=INK, zorder=4, clip_on=False, **_DOT)
                top = float(rows["refused"].astype(float).max())
            else:
                low, high = float(rows.iloc[0]["low"]), float(rows.iloc[0]["high"])
                ends = [[max(rate - low, 0)], [max(high - rate, 0)]]
                ax.errorbar(
                    x, rate, yerr=ends, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2.2, capthick=0.9, zorder=3
                )
                top = np.nanmax([rate, high])
            ax.text(x, top + 0.03, number(rate), ha="center", va="bottom", fontsize=6.8, color=INK, zorder=5)
            ticks.append((x, f"{label}\n{_n(rows)}"))
            x += 1.0
        if variants:
            ax.text((start + x - 1) / 2, 1.115, words, ha="center", va="bottom", fontsize=7.6, color=INK)
            x += 0.7
    ax.set_ylim(0, 1.2)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.spines["left"].set_bounds(0, 1)
    ax.set_ylabel("refusal rate")
    ax.tick_params(axis="x", length=0, labelsize=5.8)
    ax.set_xticks([at for at, _ in ticks], [label for _, label in ticks], linespacing=1.15)
    if not ticks:
        notice(ax, "no answers in the table")


def _n(rows: pd.DataFrame) -> str:
    each = counts(rows["n"])
    if not each.removeprefix("n = ").isdigit():
        return f"{len(rows)} sets" if len(rows) > 1 else ""
    return f"{len(rows)}×{each[4:]}" if len(rows) > 1 else f"n={each[4:]}"


def _distribution(ax: Axes, ablation: pd.DataFrame) -> None:
    random = ablation.loc[ablation["kind"] == "random", "estimate"].astype(float).dropna().to_numpy()
    found = ablation[(ablation["kind"] == "found") & ablation["estimate"].notna()]
    unit = next((str(unit) for unit in ablation["unit"].dropna()), "nats")
    ax.set_xlabel(f"change of refusal log-odds ({unit})")
    if not len(random) and found.empty:
        ax.set(xticks=[], yticks=[])
        notice(ax, "no teacher-forced effects\nin the table")
        return
    ax.axvline(0, color=MUTED, linewidth=0.6, zorder=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    if len(random):
        sets = f"{len(random)} random set{'s' if len(random) > 1 else ''}"
        if len(random) < 20:  # too few for the shape of a histogram to mean anything
            ax.plot(random, np.full(len(random), 0.12), markersize=4, color=MUTED, zorder=3, **_DOT)
            ax.set(ylim=(0, 1), yticks=[], ylabel=f"{sets} (dots)")
        else:
            heights = ax.hist(random, bins=min(20, len(random) // 6 + 3), color=variant_colour("random"), zorder=2)[0]
            tick: dict[str, Any] = {
                "linestyle": "none",
                "marker": "|",
                "markersize": 5,
                "markeredgewidth": 0.5,
                "color": INK,
            }
            ax.plot(random, np.zeros(len(random)), zorder=3, clip_on=False, **tick)
            ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
            ax.set(ylim=(0, float(np.max(heights)) * 1.45), ylabel=f"count of {sets}")
    else:
        ax.set_yticks([])
        notice(ax, "no random sets")
    ax.margins(x=0.08)
    if len(found):
        row = found.iloc[0]
        at, low, high = (float(row[column]) for column in ("estimate", "low", "high"))
        across = blended_transform_factory(ax.transData, ax.transAxes)
        if np.isfinite([low, high]).all():
            ax.axvspan(low, high, color=FOUND, alpha=0.12, linewidth=0, zorder=1)
        ax.plot([at, at], [0, 0.8], color=FOUND, linewidth=1.8, transform=across, zorder=4)
        left, right = ax.get_xlim()
        ha = "left" if at < left + 0.3 * (right - left) else "right" if at > left + 0.7 * (right - left) else "center"
        ax.text(
            at,
            0.83,
            f"selected heads {number(at, signed=True)}\n{p_text(row['p'])}",
            transform=across,
            ha=ha,
            va="bottom",
            fontsize=7.2,
            color=FOUND,
            linespacing=1.2,
            fontweight="bold",
            zorder=5,
            path_effects=halo(),
        )


def _variant_words(name: str, label: str, rows: pd.DataFrame) -> str:
    words = {"ablated": "heads ablated"}.get(name, label.strip().replace("\n", " "))
    if name == "random":
        rates = rows["refused"].astype(float)
        return f"{words} {number(rates.min())} to {number(rates.max())} ({len(rows)} sets, {counts(rows['n'])})"
    return f"{words} {interval(rows.iloc[0], 'refused')}, {counts(rows['n'])}"
