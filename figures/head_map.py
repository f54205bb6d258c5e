"""Layer × head maps: effects of zero-ablation per contrast, and direct logit attribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from verdictscope.figures.grid import colour_bar, fits, heat_map, outline, thinned, write_values
from verdictscope.figures.labels import place_labels
from verdictscope.figures.style import FAINT, FOUND, INK, MUTED, WIDTH, Display, context, notice, settle, sheet
from verdictscope.figures.tables import Heads, counts, head_name, interval, need, number, pairs, truth

_ONE = "layer head effect low high n attribution_log_odds attribution_probe rank found"
_SEVERAL = "contrast size component layer head estimate low high n declared found"
_ATTRIBUTION = "component layer head estimate low high n"
_NAMED = 6  # more names than this cover one another
_DOT: dict[str, Any] = {"linestyle": "none", "marker": "o"}
_PLANTED = _DOT | {"markerfacecolor": "white", "markeredgecolor": INK, "markeredgewidth": 0.9}
_READOUTS = {"attribution_log_odds": "refusal log-odds (nats)", "attribution_probe": "probe logit"}
_TOWARD = {"content": "towards the better answer", "position": "towards the answer shown first"}
_KINDS = {"heads": "#0072B2", "MLP": "#E69F00", "other": "#999999"}


def head_map(
    table: pd.DataFrame, *, planted: Heads | None = None, variant: str = "base", left_out: str | None = None
) -> Display:
    """Draw the effect of zero-ablating each head alone, as a layer × head map.

    A table of several contrasts gets a map per contrast with the MLPs as a column of their own; one of a single
    contrast a map and the effects against direct logit attribution.

    Args:
        table: the table heads.parquet.
        planted: (layer, head) pairs known to carry the mechanism; marked with an open dot.
        variant: which model's rows, where there are several contrasts.
        left_out: what the positions of the ablation leave out, for the caption.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["layer", "head", "estimate", "low", "high", "n"]
        >>> columns += ["attribution", "attribution_probe", "rank", "found"]
        >>> rows = [(0, h, 0.1 * h, 0.0, 0.5, 20, -0.1 * h, None, 3 - h, h == 3) for h in range(4)]
        >>> "L0H3" in figures.head_map(pd.DataFrame(rows, columns=columns)).caption
        True
    """
    known = pairs(planted) if planted is not None else None
    if "contrast" in table.columns and table["contrast"].nunique() > 1:
        need(table, "heads", _SEVERAL)
        rows = table[table["variant"] == variant] if "variant" in table.columns else table
        rows = rows.dropna(subset=["layer"]).astype({"layer": int, "head": int})
        rows = rows.assign(found=truth(rows["found"]), declared=truth(rows["declared"]))
        return Display(_contrast_maps(rows, known), _contrast_caption(rows, known, left_out), table)
    one = table.rename(columns={"estimate": "effect", "attribution": "attribution_log_odds"})
    need(one, "heads", _ONE)
    rows = one.dropna(subset=["layer", "head"]).astype({"layer": int, "head": int})
    rows = rows[rows["head"] >= 0]  # whole sublayers are in the table, not in the map
    rows = rows.drop_duplicates(["layer", "head"]).assign(found=truth(rows["found"])).sort_values("rank")
    text = [
        f"Change of the refusal log-odds (nats) when one head alone is zero-ablated, for all {len(rows)} heads, on "
        f"the reporting half ({counts(rows['n'])}); above 0 the head suppresses refusal. The null is 0."
    ]
    found = rows[rows["found"]]
    if len(found):
        each = "; ".join(
            f"{head_name(row['layer'], row['head'])} {interval(row, 'effect', signed=True)}"
            for _, row in found.head(_NAMED).iterrows()
        )
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        text.append(f"Selected heads (ranked on the other half; 95 % intervals): {each}{more}.")
    else:
        text.append("No head was selected.")
    if known is not None:
        hits = sum(pair in set(zip(found["layer"], found["head"], strict=True)) for pair in known)
        text.append(f"Open dots: planted heads, {hits} of {len(known)} selected.")
    text.append("Not shown: heads that compensate for one another, and indirect effects.")
    return Display(_single_map(rows, known), " ".join(text), table)


def _grid(rows: pd.DataFrame, value: str) -> tuple[Float[np.ndarray, "layer head"], int]:
    """Values from the first to the last layer of the table, NaN where there is none."""
    first = int(rows["layer"].min())
    values = np.full((int(rows["layer"].max()) - first + 1, int(rows["head"].max()) + 1), np.nan)
    values[rows["layer"].astype(int) - first, rows["head"].astype(int)] = rows[value].astype(float)
    return values, first


def _signed(value: float, digits: int = 1) -> str:
    """As few letters as a cell holds, and no sign before what rounds to nothing."""
    text = f"{value:+.{digits}f}" if abs(value) < 9.95 else f"{value:+.0f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def _ticks(ax: Axes, rows: int, columns: int, size: tuple[float, float], first: int, more: Sequence[str] = ()) -> None:
    across, up = thinned(columns, size[0], 0.16), thinned(rows, size[1], 0.16)
    ax.set_xticks([*across, *range(columns, columns + len(more))], [*map(str, across), *more])
    ax.set_yticks(up, [str(first + at) for at in up])
    ax.set_xlabel("head")
    ax.set_ylabel("layer")


# -- one contrast
# ----------------------------------------------------------------------------------------------------------------------


def _single_map(table: pd.DataFrame, planted: list[tuple[int, int]] | None) -> Figure:
    with context():
        height = float(np.clip(1.15 + 0.32 * table["layer"].nunique(), 2.6, 3.3))
        fig = sheet(WIDTH, height, gap=0.06)
        left, right = fig.subplots(1, 2, width_ratios=(1.4, 1))
        left.set_title("a  Effect of ablating each head alone")
        right.set_title("b  Attribution against effect")
        if table.empty:
            for ax in (left, right):
                ax.set_axis_off()
                notice(ax, "the table has no rows")
            return fig
        values, first = _grid(table, "effect")
        reach = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
        image, (rows, columns), inner = heat_map(left, values, 0.0, reach or 1.0), values.shape, (2.75, height - 1.0)
        written = fits(rows, columns, *inner)
        if written:
            digits = 1 if reach >= 1 else 2
            write_values(left, image, values, lambda value: _signed(value, digits), inner[1] / rows)
        _ticks(left, rows, columns, inner, first)
        for row in table[table["found"]].itertuples():
            outline(left, row.head, row.layer - first, line=1.5 if columns <= 16 else 1.0)
        for layer, head in planted or []:
            # in the corner where a number fills the middle
            x, y = (head + 0.36, layer - first + 0.32) if written else (head, layer - first)
            left.plot(x, y, markersize=3.4 if columns <= 16 else 2.4, zorder=5, clip_on=False, **_PLANTED)
        colour_bar(left, image, "change of refusal log-odds (nats)")
        _scatter(right, table, planted)
        handles: list[Line2D] = []
        if table["found"].any():
            look: dict[str, Any] = {"linestyle": "none", "marker": "s", "markersize": 6.0, "color": FOUND}
            handles.append(Line2D([], [], label="selected (framed in a)", **look))
        if planted:
            handles.append(Line2D([], [], markersize=3.6, label="planted", **_PLANTED))
        if _attribution(table) == "attribution_log_odds":
            label = "direct path alone: effect = −attribution"
            handles.append(Line2D([], [], color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)), label=label))
        if handles:
            fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.8)
        settle(fig)
        if (name := _attribution(table)) is not None:
            points = table[[name, "effect"]].astype(float).dropna()
            # the heads to name: those selected, then those planted and missed, strongest first, up to six
            drawn = table.loc[points.index]
            rows = drawn[drawn["found"] | _among(drawn, planted)]
            rows = rows if len(rows) else drawn.head(3)
            shown = rows.sort_values(["found", "rank"], ascending=[False, True]).head(_NAMED)
            spots = [(float(x), float(y)) for x, y in points.loc[shown.index].to_numpy()]
            others = [(float(x), float(y)) for x, y in points.drop(shown.index).to_numpy()]
            place_labels(right, spots, [head_name(r.layer, r.head) for r in shown.itertuples()], others)
    return fig


def _attribution(table: pd.DataFrame) -> str | None:
    """The attribution to draw: to the log-odds where that readout has a linear form, else to the probe."""
    return next((name for name in _READOUTS if table[name].astype(float).notna().any()), None)


def _among(table: pd.DataFrame, planted: Sequence[tuple[int, int]] | None) -> pd.Series:
    """Which rows are planted heads."""
    known = [pair in set(planted or []) for pair in zip(table["layer"], table["head"], strict=True)]
    return pd.Series(known, index=table.index, dtype=bool)


def _scatter(ax: Axes, table: pd.DataFrame, planted: list[tuple[int, int]] | None) -> None:
    name = _attribution(table)
    ax.set_ylabel("effect of ablation (nats)")
    if name is None:
        notice(ax, "no direct attribution\nin the table")
        ax.set(xticks=[], yticks=[])
        return
    ax.axhline(0, color=FAINT, linewidth=0.7, zorder=0)
    ax.axvline(0, color=FAINT, linewidth=0.7, zorder=0)
    many = len(table) > 150  # the intervals of a thousand heads would hide the points
    small: dict[str, Any] = (
        {"markersize": 2.0, "alpha": 0.6, "markeredgecolor": "none"} if many else {"markersize": 3.2}
    )
    plain: dict[str, Any] = {"fmt": "o", "color": "#9a9a9a", "zorder": 3} | small
    selected: dict[str, Any] = {"fmt": "s", "color": FOUND, "zorder": 4, "markersize": 5.0}
    for rows, look in ((table[~table["found"]], plain), (table[table["found"]], selected)):
        x, y = rows[name].astype(float), rows["effect"].astype(float)
        ends = np.vstack([y - rows["low"].astype(float), rows["high"].astype(float) - y]).clip(0)
        hidden = many and look["fmt"] == "o"
        edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.4, "elinewidth": 0.7}
        ax.errorbar(x, y, yerr=None if hidden else ends, **(edge | look))
    known = table[_among(table, planted)]
    ax.plot(known[name].astype(float), known["effect"].astype(float), markersize=3.0, zorder=5, **_PLANTED)
    ax.set_xlabel(f"attribution to {_READOUTS[name]}")
    ax.locator_params(nbins=5)
    ax.margins(0.12)
    if name == "attribution_log_odds":
        limits = ax.get_xlim(), ax.get_ylim()
        ends = np.array(limits[0])  # if ablation removed the direct attribution and nothing else
        ax.plot(ends, -ends, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
        ax.set(xlim=limits[0], ylim=limits[1])


# -- several contrasts
# ----------------------------------------------------------------------------------------------------------------------


def _contrast_maps(table: pd.DataFrame, planted: list[tuple[int, int]] | None) -> Figure:
    names = list(dict.fromkeys(table["contrast"].astype(str)))
    with context():
        columns = min(2, max(1, len(names)))
        rows = max(1, -(-len(names) // columns))
        high = float(np.clip(0.23 * max(1, table["layer"].nunique()), 1.2, 3.2))
        fig = sheet(WIDTH, 0.5 + rows * (high + 0.62), gap=0.06)
        axes = np.atleast_1d(fig.subplots(rows, columns)).ravel()
        size = (WIDTH - 1.2) / columns - 0.75, high
        for at, (ax, name) in enumerate(zip(axes, names, strict=False)):
            own = table[table["contrast"] == name]
            whole = number(own["size"].iloc[0], signed=True)
            ax.set_title(f"{'abcdefghij'[at % 10]}  {name.capitalize()}: {whole} nats in all", pad=11)
            toward = _TOWARD.get(name, "towards the answer the cue names")
            ax.text(0, 1.01, toward, transform=ax.transAxes, fontsize=6.8, color=MUTED, va="bottom")
            _contrast_map(ax, own, size, planted or [])
        for ax in axes[len(names) :]:
            ax.set_axis_off()
        if not names:
            notice(axes[0], "the table has no rows")
        handles: list[Line2D | Patch] = []
        if table["found"].any():
            handles.append(Patch(facecolor="white", edgecolor=INK, linewidth=1.4, label="selected on the other half"))
        if table["declared"].any():
            handles.append(Line2D([], [], markersize=3.4, color=INK, label="declared", **_DOT))
        if planted is not None:
            handles.append(Line2D([], [], markersize=3.6, label="planted", **_PLANTED))
        if handles:
            fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.8)
        settle(fig)
    return fig


def _contrast_map(ax: Axes, own: pd.DataFrame, size: tuple[float, float], planted: list[tuple[int, int]]) -> None:
    """Effects by layer and head, and the MLPs' as one more column behind a gap."""
    first, heads, mlps = int(own["layer"].min()), own[own["component"] == "head"], own[own["component"] == "mlp"]
    n_heads = int(heads["head"].max()) + 1 if len(heads) else 1
    values = np.full((int(own["layer"].max()) - first + 1, n_heads + 1), np.nan)
    values[heads["layer"] - first, heads["head"]] = heads["estimate"].astype(float)
    values[mlps["layer"] - first, n_heads] = mlps["estimate"].astype(float)
    alone = values[:, :n_heads]  # an early MLP feeds everything: on its scale no head would be seen
    reach = float(np.nanmax(np.abs(alone))) if np.isfinite(alone).any() else 1.0
    # nor should what is smaller than the smallest effect that counts look strong
    reach = max(reach, float(own["delta"].max())) if "delta" in own and own["delta"].notna().any() else reach
    image, rows = heat_map(ax, values, 0.0, reach or 1.0), values.shape[0]
    if fits(rows, n_heads + 1, *size):
        write_values(ax, image, values, _signed, size[1] / rows)
    ax.axvline(n_heads - 0.5, color="white", linewidth=4, zorder=2.5)
    _ticks(ax, rows, n_heads, (size[0] * n_heads / (n_heads + 1), size[1]), first, ["MLP"])
    for row in own[own["found"] & (own["component"] == "head")].itertuples():
        outline(ax, row.head, row.layer - first, line=1.6 if n_heads <= 16 else 1.0)
    for row in own[own["declared"]].itertuples():
        at = row.head if row.component == "head" else n_heads
        look = _DOT | {"color": INK, "markeredgecolor": "white", "markeredgewidth": 0.6}
        ax.plot(at - 0.36, row.layer - first + 0.3, markersize=3.8, zorder=5, **look)
    for layer, head in planted:
        ax.plot(head + 0.36, layer - first + 0.3, markersize=3.2, zorder=5, **_PLANTED)
    colour_bar(ax, image, "nats less")


def _contrast_caption(table: pd.DataFrame, planted: list[tuple[int, int]] | None, left_out: str | None) -> str:
    text = [
        "Decrease of a contrast of the verdict's log-odds (nats) when one head (right column: an MLP) alone is "
        f"zero-ablated, on the reporting half ({counts(table['n'])}); the null is 0."
    ]
    for name in [n for n in dict.fromkeys(table["contrast"].astype(str)) if n != "content"]:
        own = table[table["contrast"] == name]
        found = own[own["found"]].sort_values("estimate", ascending=False).head(_NAMED)
        each = [f"{head_name(r['layer'], r['head'])} {interval(r, signed=True)}" for _, r in found.iterrows()]
        declared = int(own["declared"].sum())
        text.append(f"{name.capitalize()}: selected {'; '.join(each) or 'none'} (95 % intervals); {declared} declared.")
    text.append(
        "Declared: smaller by more than delta (max-T over all components, family-wise error 0.05), content less so."
    )
    if planted is not None:
        text.append("Open dots: planted.")
    if left_out:
        text.append(f"Left out: {left_out}.")
    text.append("Not shown: components that compensate for one another.")
    return " ".join(text)


# -- attribution
# ----------------------------------------------------------------------------------------------------------------------


def attribution(table: pd.DataFrame, name: str = "readout") -> Display:
    """Draw the direct logit attribution of a readout: (a) summed by layer and kind, (b) of every head.

    Args:
        table: the columns of attribution.parquet, of one readout.
        name: of the readout.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["component", "layer", "head", "estimate", "low", "high", "n"]
        >>> rows = [("head", 0, h, 0.1 * h, 0.0, 0.5, 20) for h in range(4)]
        >>> "L0H3 +0.30" in figures.attribution(pd.DataFrame(rows, columns=columns)).caption
        True
    """
    need(table, "attribution", _ATTRIBUTION)
    parts = table[~table["component"].isin(["logit", "residual"])]
    heads = parts[parts["component"] == "head"]
    with context():
        height = float(np.clip(1.2 + 0.26 * max(1, parts["layer"].nunique()), 2.6, 5.0))
        fig = sheet(WIDTH, height, gap=0.06)
        left, right = fig.subplots(1, 2, width_ratios=(1, 1.3))
        left.set_title("a  By layer")
        right.set_title("b  By head")
        _bars(left, parts, name)
        if heads.empty:
            right.set_axis_off()
            notice(right, "no heads in the table")
        else:
            values, first = _grid(heads, "estimate")
            image = heat_map(right, values, 0.0, float(np.nanmax(np.abs(values))) or 1.0)
            rows, columns = values.shape
            if fits(rows, columns, 3.0, height - 1.0):
                text = lambda v: number(v, signed=True) if abs(v) >= 0.005 else "0"  # noqa: E731
                write_values(right, image, values, text, (height - 1.0) / rows)
            _ticks(right, rows, columns, (3.0, height - 1.0), first)
            colour_bar(right, image, "attribution")
        settle(fig)
    whole, left = (table[table["component"] == component] for component in ("logit", "residual"))
    caption = [f"Direct logit attribution of {name} where it is read ({counts(table['n'])} prompt groups)."]
    if len(whole) and len(left):
        residual = abs(float(left["estimate"].iloc[0]))
        caption.append(f"It sums to {interval(whole.iloc[0], signed=True)}, less a mean residual of {residual:.0e}.")
    most = heads.sort_values("estimate", key=np.abs, ascending=False).head(3)
    each = [f"{head_name(r['layer'], r['head'])} {interval(r, signed=True)}" for _, r in most.iterrows()]
    if each:
        caption.append(f"Largest heads (95 % intervals): {'; '.join(each)}.")
    caption.append("Not shown: effects through later heads and MLPs; a random direction has such components too.")
    return Display(fig, " ".join(caption), table)


def _bars(ax: Axes, parts: pd.DataFrame, name: str) -> None:
    """Layers upwards, below them what belongs to none."""
    if parts.empty:
        notice(ax, "the table has no rows")
        return
    kind = parts["component"].map({"head": "heads", "mlp": "MLP"}).fillna("other")
    label = parts["layer"].where(parts["layer"] >= 0, -1)
    sums = parts.assign(kind=kind, at=label).groupby(["at", "kind"])["estimate"].sum().unstack(fill_value=0.0)
    ax.axvline(0, color=FAINT, linewidth=0.7, zorder=0)
    shown = [k for k in _KINDS if k in sums]
    for i, k in enumerate(shown):
        y = np.arange(len(sums)) + (i - (len(shown) - 1) / 2) * 0.27
        ax.barh(y, sums[k], height=0.25, color=_KINDS[k], label=k)
    names = ["embedding,\nbiases" if layer < 0 else str(int(layer)) for layer in sums.index]
    ticks = sorted({0, *thinned(len(names), 3.0, 0.16)}) if len(names) > 12 else list(range(len(names)))
    ax.set_yticks(ticks, [names[t] for t in ticks])
    ax.set_ylabel("layer")
    ax.set_xlabel(f"attribution to {name}", parse_math=False)
    ax.legend(loc="best", handlelength=1.0)
