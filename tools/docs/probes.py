"""Put the measured tables into ``docs/probes.md``: ``make probes``, after ``make evidence``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.docs.blocks import Tables, filled

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "probes.md"
CLOSED = "clustered, logit"


def main() -> None:
    """Rewrite every block of the page from its evidence."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), TABLES), encoding="utf-8")


def coverage(data: dict[str, Any]) -> str:
    """Coverage by world, AUROC and number of prompts; the bootstrap's beside it where it was measured."""
    rows = data["rows"]
    aurocs, prompts = (sorted({row[key] for row in rows}) for key in ("auroc", "prompts"))
    low, high = data["aim"]
    lines = [
        "| rows | interval | " + " | ".join(f"{a:g}, {n}" for a in aurocs for n in prompts) + " |",
        "|---|---|" + "---|" * (len(aurocs) * len(prompts)),
    ]
    kinds = dict.fromkeys((row["world"], row["interval"]) for row in rows)
    for world, interval in kinds:
        at = {(r["auroc"], r["prompts"]): r for r in rows if (r["world"], r["interval"]) == (world, interval)}
        cells = [_marked(at[a, n]["coverage"], low, high) for a in aurocs for n in prompts]
        lines.append(f"| {world} | {interval} | " + " | ".join(cells) + " |")
    ours = [row for row in rows if row["interval"] == CLOSED]
    inside = sum(low <= row["coverage"] <= high for row in ours)
    off = ", ".join(
        f"{row['world']} at {row['auroc']:g} with {row['prompts']} ({row['coverage']:.3f})"
        for row in ours
        if not low <= row["coverage"] <= high
    )
    each = min(row["data_sets"] for row in ours)
    text = f"Columns are true AUROC, prompts; {each:,} data sets a cell (three binomial standard errors at .95: "
    text += f"{3 * (0.95 * 0.05 / each) ** 0.5:.3f}). The closed interval's coverage is {low:.2f} to {high:.2f} in "
    text += f"{inside} of {len(ours)} cells"
    return "\n".join([*lines, "", text + (f"; outside: {off}." if off else ".")])


def permutation(data: dict[str, Any]) -> str:
    """Uniformity of the permutation p-value under the null."""
    lines = [
        "| reported number | data sets | refits | KS p | p ≤ .01 | p ≤ .05 | p ≤ .1 | p ≤ .5 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        shares = " | ".join(f"{row[f'share_below_{level}']:.3f}" for level in (0.01, 0.05, 0.1, 0.5))
        lines.append(f"| {row['reported']} | {row['data_sets']} | {row['refits']} | {row['ks_p']:.2f} | {shares} |")
    return "\n".join(lines)


def designs(data: dict[str, Any]) -> str:
    """The same by design and the scheme it got."""
    lines = [
        "| design | scheme | data sets | refits | KS p | p ≤ .01 | p ≤ .05 | p ≤ .1 | p ≤ .5 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        shares = " | ".join(f"{row[f'share_below_{level}']:.3f}" for level in (0.01, 0.05, 0.1, 0.5))
        facts = f"{row['design']} | {row['scheme']} | {row['data_sets']} | {row['refits']}"
        lines.append(f"| {facts} | {row['ks_p']:.2f} | {shares} |")
    return "\n".join(lines)


def linter(data: dict[str, Any]) -> str:
    """False alarms on clean data, and how often each planted leak is named."""
    clean = data["clean"]
    lines = [
        f"On {clean['data_sets']:,} clean data sets the checks raised an alarm in {clean['alarms']} "
        f"({clean['rate']:.1%}; the level of all its tests together is {data['alpha']:.0%}).",
        "",
        "| leak | planted | data sets | named | named another as well |",
        "|---|---|---|---|---|",
    ]
    for row in [*data["planted"], *data["weak"]]:
        lines.append(
            f"| {row['check']} | {row['planted']} | {row['data_sets']} | {row['found']:.3f} | "
            f"{row['named_another_as_well']:.3f} |"
        )
    return "\n".join(lines)


TABLES: Tables = {
    "coverage": ("probes_coverage", coverage),
    "permutation": ("probes_permutation", permutation),
    "designs": ("permutation_designs", designs),
    "linter": ("probes_linter", linter),
}


def _marked(value: float, low: float, high: float) -> str:
    """A coverage, bold where it misses the aim."""
    return f"{value:.3f}" if low <= value <= high else f"**{value:.3f}**"


if __name__ == "__main__":
    main()
