"""Write the tables of a run folder into ``docs/formats.md`` from their declarations: ``make formats``."""

from __future__ import annotations

from pathlib import Path

from verdictscope.study.tables import COMMON, TABLES, Table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
BEGIN = "<!-- tables:begin (written by `make formats` from verdictscope/study/tables.py) -->"
END = "<!-- tables:end -->"


def main() -> None:
    """Rewrite the tables of the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def filled(page: str) -> str:
    """The page with its tables replaced by those declared."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


def tables() -> str:
    """Columns that many tables share, then every table with its own."""
    lines = ["### Common columns", "", *_columns(list(COMMON), Table("", "", tuple(COMMON))), ""]
    for name, table in TABLES.items():
        lines += [f"### {name}.parquet", ""]
        lines += [f"Written by `{table.stage}`; a row is {table.rows}.", ""]
        lines += [f"Columns: {' '.join(f'`{c}`' for c in table.columns)}.", ""]
        own = [c for c in table.columns if c in table.own]
        lines += [*_columns(own, table), ""] if own and not name.endswith("_ablated") else []
    return "\n".join(lines).rstrip()


def _columns(names: list[str], table: Table) -> list[str]:
    rows = [(name, table.column(name)) for name in names]
    lines = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    return lines + [f"| `{name}` | {column.type} | {column.unit} | {column.meaning} |" for name, column in rows]


if __name__ == "__main__":
    main()
