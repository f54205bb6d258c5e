"""A probe's test AUROC beside its nulls and baselines; of a judge's verdict probe also the validation AUROC by "
"layer."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from verdictscope.figures.style import FOUND, INK, MUTED, WIDTH, Display, band, context, notice, panel, settle, sheet
from verdictscope.figures.style import shown as display
from verdictscope.figures.tables import counts, interval, need, number, of_base, p_text

_COLUMNS = "variant place kind name layer estimate low high n p"
_KINDS = {"test": FOUND, "part": "#8E4585", "baseline": INK, "permuted": MUTED, "control": MUTED}
_PLACES = {"last": "at the verdict", "think_end[0]": "first closing token", "think_end[-1]": "last closing token"}
_LINES = ("#222222", "#0072B2", "#009E73", "#D55E00")
_NAMES = {
    "AUROC, tokens": "the probe",
    "part that turns": "as shown: content",
    "part that stays": "as shown: position",
    "both parts": "as shown: both contrasts",
    "fitted to what stays": "as shown: fitted to position",
    "verdicts permuted between items": "verdicts permuted",
}


def probe_test(table: pd.DataFrame, *, ax: Axes | None = None) -> Display:
    """Draw AUROCs with their intervals (test, baselines) or ranges over draws (permuted labels, controls).

    Args:
        table: ``kind name estimate low high n``, as ``ProbeResult.to_frame`` and ``probe_nulls.parquet`` have them.
        ax: axes to draw on; by default those of a new figure.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> rows = [("test", "AUROC, tokens", 0.91, 0.86, 0.95, 60), ("permuted", "permuted", 0.5, 0.4, 0.6, 9)]
        >>> table = pd.DataFrame(rows, columns=["kind", "name", "estimate", "low", "high", "n"])
        >>> figures.probe_test(table).caption.split(":")[0]
        'AUROC on new prompts (0.5 is chance)'
    """
    need(table, "probe", "kind name estimate low high n")
    with panel(ax, WIDTH, 0.6 + 0.24 * len(table)) as axes:
        _rows(axes, table, [f"{row.name} (n = {row.n})" for row in table.itertuples(index=False)])
        axes.set_xlabel("AUROC")
    test = table[table["kind"] == "test"]
    found = f": {interval(test.iloc[0])}, {counts(test['n'][:1])}" if len(test) else ""
    text = (
        f"AUROC on new prompts (0.5 is chance){found}. Lines of the test and of baselines are 95 % intervals over "
        "prompt groups; grey lines are ranges over draws of permuted labels and control tasks. Not shown: whether the "
        "model uses what the probe reads."
    )
    return display(axes, text, table)


def _rows(ax: Axes, table: pd.DataFrame, names: list[str]) -> None:
    for y, row in enumerate(table.itertuples()):
        colour = _KINDS.get(str(row.kind), MUTED)
        ax.plot([row.low, row.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
        ax.plot(row.estimate, y, marker="o", color=colour, markersize=4)
    ax.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(table)), names)
    ax.invert_yaxis()


def verdict_probe(table: pd.DataFrame) -> Display:
    """Draw a verdict probe: validation AUROC by layer and position, and the test AUROC among nulls and baselines.

    Args:
        table: verdict_probe.parquet; of several variants the model under study is drawn.

    Raises:
        ValueError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import figures
        >>> columns = ["variant", "place", "kind", "name", "layer", "estimate", "low", "high", "n", "p"]
        >>> rows = [("", "last", "layer", "", 2, 0.8, 0.7, 0.9, 40, None)]
        >>> rows += [("", "last", "test", "AUROC, tokens", 2, 0.8, 0.7, 0.9, 40, 0.01)]
        >>> len(figures.verdict_probe(pd.DataFrame(rows, columns=columns)).axes)
        2
    """
    need(table, "verdict_probe", _COLUMNS)
    own = of_base(table)
    first = own[own["place"] == own["place"].iloc[0]] if len(own) else own
    listed = pd.concat([first[first["kind"] == kind] for kind in _KINDS]) if len(first) else first
    known = listed[listed["estimate"].notna()]
    with context():
        fig = sheet(WIDTH, max(2.3, 1.05 + 0.185 * len(listed)), gap=0.06)
        left, right = fig.subplots(1, 2, width_ratios=(1, 1.05))
        left.set_title("a  By layer (validation items)")
        right.set_title("b  On new items, at the verdict")
        if own.empty:
            for ax in (left, right):
                ax.set_axis_off()
                notice(ax, "the table has no rows")
            return Display(fig, "No probe of the verdict was fitted.", table)
        groups = own[own["kind"] == "layer"].groupby("place", sort=False)
        for colour, (place, rows) in zip(_LINES, groups, strict=False):
            rows = rows.sort_values("layer")
            label = _PLACES.get(str(place), str(place))
            band(left, rows["layer"], rows, colour, 0.09, marker="o", markersize=3, label=label)
            test = own[(own["place"] == place) & (own["kind"] == "test")]
            at = rows[rows["layer"].isin(test["layer"])]
            left.plot(at["layer"], at["estimate"], "o", markersize=6.5, markerfacecolor="none", markeredgecolor=colour)
        left.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
        left.set_ylim(min(0.4, left.get_ylim()[0]), 1.03)
        left.set_xlabel("layer (ring: selected)")
        left.set_ylabel("AUROC (0.5 = chance)")
        left.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        left.legend(loc="lower right")
        _rows(right, known, [_NAMES.get(str(name), str(name)) for name in known["name"]])
        right.set_xlim(min(0.4, float(known["low"].min()) - 0.03), 1.03)
        right.set_xlabel("AUROC\n(grey: range over draws; else 95 % interval)")
        settle(fig)
    return Display(fig, _caption(own, first), table)


def _caption(table: pd.DataFrame, first: pd.DataFrame) -> str:
    if not (table["kind"] == "test").any():
        return "No probe of the verdict was fitted."
    test, null = first[first["kind"] == "test"].iloc[0], first[first["kind"] == "permuted"]
    text = [
        "AUROC (0.5 is chance) of linear probes of the judge's verdict, fitted to half the difference of its states in "
        "the two orders, which cancels a preference for a position. (a) Validation items by layer, bands two standard "
        f"errors. (b) The selected probe on new items: {interval(test)}, {counts([test['n']])} item groups."
    ]
    if len(null):
        low, high = number(null["low"].iloc[0]), number(null["high"].iloc[0])
        text.append(
            f"Null (verdicts permuted between items, layer selected again): {low} to {high}, {p_text(test['p'])}."
        )
    text.append("Not shown: that the judge uses what is read, or that its verdict is right.")
    return " ".join(text)
