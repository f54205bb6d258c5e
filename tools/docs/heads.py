"""Put the measured tables into ``docs/heads.md``: ``make heads``, after ``make evidence``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.docs.blocks import Tables, filled

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "heads.md"


def main() -> None:
    """Rewrite every block of the page from its evidence."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), TABLES), encoding="utf-8")


def sign_flips(data: dict[str, Any]) -> str:
    """Family-wise error by shape and number of clusters, bold where it misses, and power."""
    level, runs = data["level"], data["about"]["runs"]
    sizes = sorted({row["clusters"] for row in level})
    most = 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
    lines = ["| sums | " + " | ".join(f"{n} prompts" for n in sizes) + " |", "|---|" + "---|" * len(sizes)]
    for shape in dict.fromkeys(row["shape"] for row in level):
        at = {row["clusters"]: row["family_wise_error"] for row in level if row["shape"] == shape}
        cells = [f"{at[n]:.3f}" if at[n] <= most else f"**{at[n]:.3f}**" for n in sizes]
        lines.append(f"| {shape} | " + " | ".join(cells) + " |")
    power = [f"{row['power']:.2f} ({row['clusters']} prompts, {row['effect_in_row_sd']:g} sd)" for row in data["power"]]
    told = (
        f"{runs:,} families a cell; bold is more than three standard errors above 5 %: few prompts and long left tails "
        "are where the test rejects too much. Power, the share of three true effects that are found, by size in "
        f"standard deviations of a row: {', '.join(power)}."
    )
    return "\n".join([*lines, "", told])


def planted(data: dict[str, Any]) -> str:
    """Which heads were rejected on each model, and which exceed delta on fresh prompts."""
    fresh = data["fresh"]
    lines = ["| model | δ, nats | prompts tested | rejected |", "|---|---|---|---|"]
    for model in ("cliff", "aligned", "swapped"):
        row = data[model]
        lines.append(f"| {model} | {row['delta']:.3f} | {row['n']} | {_names(row['rejected'])} |")
    told = (
        f"Planted: {_names(data['planted'])}. Over {fresh['prompts']:,} fresh prompts of the same language the heads "
        f"whose effect exceeds δ are {_names(fresh['above_delta'])}. `swapped` is cliff with the two query heads of "
        "every key-value group exchanged: the same function, so the swapped heads are the right answer."
    )
    return "\n".join([*lines, "", told])


def _names(heads: list[list[int]]) -> str:
    return ", ".join(f"L{layer}H{head}" for layer, head in sorted(heads)) or "none"


TABLES: Tables = {"sign_flips": ("stats_sign_flips", sign_flips), "planted": ("planted_heads", planted)}


if __name__ == "__main__":
    main()
