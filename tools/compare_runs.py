"""Compares every number of two run folders: ``python tools/compare_runs.py A B``.

For whoever changes the code and wants to know which results moved. Tables (Parquet) are matched by file name and rows
by the columns that hold no measured number; JSON files by the path of each value. ``RENAMED`` maps names of A to names
of B where a change gave a table, column or key another name.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

RENAMED: dict[str, str] = {}
"""Names in A to names in B: a table or JSON file (``trace.parquet``), a column (``trace.parquet:anchored``) or the path
of a value (``summary.json:cliff.anchored_drop``)."""

IGNORED = ("provenance.json", "summary.json:seconds", "summary.json:machine")
"""What two runs of the same study may differ in: times, commit and machine."""


@dataclass(frozen=True)
class Difference:
    """One column or value of both folders.

    Attributes:
        name: file, and column or path of the value, as in A.
        n: numbers compared.
        relative: largest |a - b| / max(|a|, |b|); infinite where only one of the two is a number.
        changed: entries that differ and are not numbers, or rows that only one of the folders has.
        example: the entry with the largest difference.
    """

    name: str
    n: int
    relative: float
    changed: int
    example: str = ""


def compare_runs(a: Path, b: Path) -> tuple[list[Difference], list[str]]:
    """Compares two run folders.

    Args:
        a: a run folder.
        b: another one of the same study.

    Returns:
        One entry per column and JSON value, and the files and columns that only one folder has.
    """
    found: list[Difference] = []
    alone: list[str] = []
    files = sorted(p.name for p in a.iterdir() if p.suffix in (".parquet", ".json"))
    twins = {name: RENAMED.get(name, name) for name in files}
    alone += [
        f"only in B: {p.name}"
        for p in sorted(b.iterdir())
        if p.suffix in (".parquet", ".json") and p.name not in twins.values()
    ]
    for name, other in twins.items():
        if name in IGNORED:
            continue
        if not (b / other).exists():
            alone.append(f"only in A: {name}")
        elif name.endswith(".json"):
            found += _json(name, _flat(a / name), _flat(b / other), alone)
        else:
            found += _tables(name, pd.read_parquet(a / name), pd.read_parquet(b / other), alone)
    return found, alone


def _flat(file: Path) -> dict[str, Any]:
    def walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict | list):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, inner in pairs:
                yield from walk(inner, f"{path}.{key}" if path else str(key))
        else:
            yield path, value

    return dict(walk(json.loads(file.read_text(encoding="utf-8")), ""))


def _json(name: str, a: dict[str, Any], b: dict[str, Any], alone: list[str]) -> Iterator[Difference]:
    names = {key: RENAMED.get(f"{name}:{key}", key) for key in a}
    skipped = tuple(s.partition(":")[2] for s in IGNORED if s.startswith(f"{name}:"))
    alone += [f"only in B: {name}:{key}" for key in b if key not in names.values() and not key.startswith(skipped)]
    for key, other in names.items():
        if skipped and key.startswith(skipped):
            continue
        if other not in b:
            alone.append(f"only in A: {name}:{key}")
            continue
        yield _difference(f"{name}:{key}", pd.Series([a[key]]), pd.Series([b[other]]), ["value"])


def _tables(name: str, a: pd.DataFrame, b: pd.DataFrame, alone: list[str]) -> Iterator[Difference]:
    b = b.rename(columns={RENAMED.get(f"{name}:{c}", c): c for c in a.columns})
    alone += [f"only in A: {name}:{c}" for c in a.columns if c not in b.columns]
    alone += [f"only in B: {name}:{c}" for c in b.columns if c not in a.columns]
    shared = [c for c in a.columns if c in b.columns]
    keys = [c for c in shared if not pd.api.types.is_float_dtype(a[c]) and a[c].map(_scalar).all()]
    a, b = _keyed(a, keys), _keyed(b, keys)
    both = a.index.intersection(b.index)
    lost = len(a) + len(b) - 2 * len(both)
    if lost:
        yield Difference(f"{name} (rows)", len(both), 0.0, lost)
    for column in shared:
        if column not in keys:
            yield _difference(f"{name}:{column}", a.loc[both, column], b.loc[both, column], [str(k) for k in both])


def _scalar(value: Any) -> bool:
    return not isinstance(value, list | dict | np.ndarray)


def _keyed(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Rows named by their key columns, equal ones numbered in the order of the file."""
    names = pd.Series(["|".join(map(str, row)) for row in table[keys].itertuples(index=False)], index=table.index)
    return table.set_axis(names + "#" + names.groupby(names).cumcount().astype(str), axis=0)


def _difference(name: str, a: pd.Series, b: pd.Series, labels: list[str]) -> Difference:
    left, right = (pd.to_numeric(s, errors="coerce").to_numpy(dtype=float, na_value=np.nan) for s in (a, b))
    texts = np.array([not _same(x, y) for x, y in zip(a, b, strict=True)], dtype=bool)
    numbers = ~(np.isnan(left) | np.isnan(right))
    one = (np.isnan(left) ^ np.isnan(right)) & texts
    size = np.maximum(np.abs(left), np.abs(right))
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        gap = np.where(left == right, 0.0, np.abs(left - right) / np.where(size > 0, size, 1.0))
    relative = np.where(numbers, gap, np.where(one & (pd.notna(a) | pd.notna(b)).to_numpy(), np.inf, 0.0))
    relative = np.where(np.isnan(left) & np.isnan(right), 0.0, relative)
    worst = int(relative.argmax()) if len(relative) else 0
    changed = int((texts & ~numbers & ~one).sum())
    largest = float(relative.max(initial=0.0))
    shown = f"{labels[worst]}: {a.iloc[worst]} -> {b.iloc[worst]}" if largest > 0 else ""
    return Difference(name, int(numbers.sum()), largest, changed, shown)


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, np.ndarray | list) or isinstance(y, np.ndarray | list):
        return np.array_equal(np.asarray(x, dtype=object), np.asarray(y, dtype=object))
    return bool(x == y) or (bool(pd.isna(x)) and bool(pd.isna(y)))


def main() -> None:
    """Prints what differs, largest first; exit code 1 where anything differs by more than the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-6)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    for folder in (asked.a, asked.b):
        if not (folder / "provenance.json").is_file():
            parser.error(f"{folder} is no run folder: it holds no provenance.json")
    found, alone = compare_runs(asked.a, asked.b)
    moved = sorted((d for d in found if d.relative > asked.tolerance or d.changed), key=lambda d: -d.relative)
    largest = max((d.relative for d in found), default=0.0)
    if asked.json:
        print(
            json.dumps(
                {"n": sum(d.n for d in found), "largest": largest, "alone": alone, "moved": [asdict(d) for d in moved]}
            )
        )
    else:
        for d in moved:
            print(f"{d.relative:9.3g}  {d.changed:6,} texts or rows  {d.name}  {d.example}")
        print(*alone, sep="\n")
        print(f"{sum(d.n for d in found):,} numbers compared; largest relative difference {largest:.3g}")
    sys.exit(bool(moved or alone))


if __name__ == "__main__":
    main()
