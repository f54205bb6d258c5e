"""Compares every number of two run folders: ``python tools/compare_runs.py A B``.

For whoever changes the code and wants to know which results moved. Tables (Parquet) are matched by file name and rows
by the columns that hold no measured number; JSON files by the path of each value. A may be a run of an earlier format:
``RENAMED``, ``WORDS`` and ``SPLIT`` say under which names its files, columns, keys and values are found in B.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

RENAMED: dict[str, str] = {
    "passport.json": "card.json",
    "transplant.parquet": "patched.parquet",
    "bias_heads.parquet": "heads.parquet",
    "bias_heads.json": "heads.json",
    "bias_sets.parquet": "ablation.parquet",
    "heads.parquet:effect": "estimate",
    "heads.parquet:attribution_log_odds": "attribution",
}
"""Names in A to names in B: a table or JSON file (``trace.parquet``), a column (``trace.parquet:anchored``) or the path
of a value (``summary.json:cliff.anchored_drop``)."""

WORDS: dict[str, str] = {
    r"^twin$|(?<![a-z])twin(?=[._]|$)": "reference",
    r"^arm$": "variant",
    r"^transplanted$": "patched",
    r" set to zero at ": " zero-ablated at ",
    r"(?<![a-z])anchored": "normalised",
    r"^anchors(?= from )": "normaliser",
    r"^(log_odds|verdict)(?=\.(kind|name|positive|negative|positions)\b)": "decision",
}
"""Words of A to words of B, as regular expressions: applied to columns, to keys, and to the values of text columns."""

KEYS: dict[str, tuple[tuple[str, str], ...]] = {
    "heads.json": (
        (r"^n$", "contrasts.refusal.groups"),
        (r"^(flips|every_flip|above_zero|jaccard|jaccard_low|jaccard_high|selected\..*)$", r"contrasts.refusal.\1"),
    ),
    "bias_heads.json": ((r"^((?:twin\.|reference\.)?)biases\.", r"\1contrasts."),),
}
"""Paths of values in JSON files of A and where B has them, as regular expressions."""

SPLIT = {name: (f"{name}.parquet", f"{name}_ablated.parquet") for name in ("trace", "trace_mean", "cliff")}
"""Tables of A whose rows lie in several files of B."""

END = r"(estimate|low|high|n)$"
SUMMARY: tuple[tuple[str, str], ...] = (
    (r"^probe\.auroc_test$", "probe.base.all.AUROC.estimate"),
    (r"^probe\.auroc_(low|high)$", r"probe.base.all.AUROC.\1"),
    (r"^probe\.control_auroc$", "probe.base.all.AUROC, labels permuted.estimate"),
    (r"^probe\.control_(low|high)$", r"probe.base.all.AUROC, labels permuted.null_\1"),
    (r"^cliff\.anchored_(plateau|final|drop)$", r"trace.base.target.normalised_\1.estimate"),
    (r"^cliff\.(low|high|n)$", r"trace.base.target.normalised_drop.\1"),
    (r"^cliff\.raw_drop$", "trace.base.target.raw_drop.estimate"),
    (r"^cliff\.raw_(low|high)$", r"trace.base.target.raw_drop.\1"),
    (r"^cliff\.aligned_anchored_drop$", "trace.reference.target.normalised_drop.estimate"),
    (r"^cliff\.aligned_(low|high)$", r"trace.reference.target.normalised_drop.\1"),
    (r"^cliff\.ablated_anchored_drop$", "trace.ablated_fixed.target.normalised_drop.estimate"),
    (r"^cliff\.ablated_(low|high)$", r"trace.ablated_fixed.target.normalised_drop.\1"),
    (r"^cliff\.ablated_excess$", "trace.ablated_fixed.target.normalised_excess.estimate"),
    (r"^cliff\.ablated_excess_(low|high)$", r"trace.ablated_fixed.target.normalised_excess.\1"),
    (r"^heads\.(delta|gap)$", r"heads.base.all.\1.estimate"),
    (r"^heads\.recall$", "truth.base.planted heads.recall.estimate"),
    (r"^ablation\.effect$", "ablate.ablated.refusal.change of the log-odds.estimate"),
    (r"^ablation\.effect_(low|high)$", r"ablate.ablated.refusal.change of the log-odds.\1"),
    (r"^ablation\.p_value$", "ablate.ablated.refusal.change of the log-odds.p"),
    (r"^ablation\.random_effect_max$", "ablate.ablated.refusal.change of the log-odds.null_high"),
    (r"^ablation\.transplant_effect$", "ablate.patched.refusal.change of the log-odds.estimate"),
    (r"^ablation\.refusal_(base|ablated)$", r"ablate.\1.target.refusal rate.estimate"),
    (r"^ablation\.refusal_(base|ablated)_(low|high|n)$", r"ablate.\1.target.refusal rate.\2"),
    (r"^ablation\.refusal_transplanted$", "ablate.patched.target.refusal rate.estimate"),
    (r"^ablation\.refusal_transplanted_(low|high|n)$", r"ablate.patched.target.refusal rate.\1"),
    (r"^ablation\.refusal_harmless_(base|ablated)$", r"ablate.\1.control.refusal rate.estimate"),
    (r"^ablation\.refusal_twin$", "ablate.reference.target.refusal rate.estimate"),
    (r"^ablation\.refusal_random$", "ablate.random sets.target.refusal rate.estimate"),
    (r"^rates\.(\w+)\.off\.(\w+)\.(\w+)\." + END, r"generate.\1.\2.\3.\4"),
    (r"^rates\.(\w+)\.on\.(\w+)\.(\w+)\." + END, r"generate.\1.\2, after thinking.\3.\4"),
    (r"^parts\.(\w+)\.(off|on)\.(\w+)\." + END, r"contrasts.\1.thinking \2.\3.\4"),
    (r"^sets\.(\w+)\.base\." + END, r"ablate.base.\1.size.\2"),
    (r"^sets\.(\w+)\.found\." + END, r"ablate.ablated.\1.size.\2"),
    (r"^mitigations\.off\.([^.]+)\.(\w+)\." + END, r"mitigate.base.\1.\2.\3"),
    (r"^traces\.timing\.([^.]+)\." + END, r"trace.base.commitment.\1.\2"),
)
"""Keys of ``summary.json`` of format 1 and where format 2 has these numbers, under ``results``. Other keys of format 1
are counts and texts, or repeat columns of tables."""

PROSE = ("about", "what", "definition", "reason", "told", "delta_is", "left_out")
"""Columns and keys that hold sentences: their texts may be put differently, their numbers are in other columns."""

IGNORED = (
    "provenance.json",
    "normaliser.json",
    "results.parquet",
    "passport.json:weights_sha256",
    "bias_heads.parquet:rank",
    "summary.json:seconds",
    "summary.json:machine",
)
"""What two runs of the same study may differ in: times, commit and machine; the digest of a file that names its own
format; the normaliser and the results table, which earlier formats did not keep; and the ranks of a judge's heads,
which now begin at 0, its MLPs after them."""


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
    matched = {name: [RENAMED.get(name, name)] for name in files}
    for parts in SPLIT.values():
        if not (a / parts[1]).exists() and (b / parts[1]).exists():
            matched[parts[0]] = list(parts)
    expected = {name for names in matched.values() for name in names}
    alone += [
        f"only in B: {p.name}"
        for p in sorted(b.iterdir())
        if p.suffix in (".parquet", ".json") and p.name not in (*expected, *IGNORED)
    ]
    for name, others in matched.items():
        if name in IGNORED:
            continue
        there = [b / other for other in others]
        if not all(file.exists() for file in there):
            alone.append(f"only in A: {name}")
        elif name.endswith(".json"):
            old, new = _flat(a / name), _flat(there[0])
            first = name == "summary.json" and "ladder" in _keys(new) and "ladder" not in _keys(old)
            found += _summary(old, new, alone) if first else _json(name, old, new, alone)
        else:
            other = pd.concat([pd.read_parquet(file) for file in there], ignore_index=True)
            found += _tables(name, pd.read_parquet(a / name), other, alone)
    return found, alone


def _translated(text: str) -> str:
    for word, other in WORDS.items():
        text = re.sub(word, other, text)
    return text


def _flat(file: Path) -> dict[str, Any]:
    def walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict | list):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, inner in pairs:
                yield from walk(inner, f"{path}.{key}" if path else str(key))
        else:
            yield path, value

    return dict(walk(json.loads(file.read_text(encoding="utf-8")), ""))


def _keys(flat: dict[str, Any]) -> set[str]:
    return {key.partition(".")[0] for key in flat}


def _summary(a: dict[str, Any], b: dict[str, Any], alone: list[str]) -> Iterator[Difference]:
    """The headline numbers of a summary of format 1 and those of the results of format 2."""
    for key, value in a.items():
        place = next((re.sub(old, new, key) for old, new in SUMMARY if re.search(old, key)), None)
        if place is None or value is None:
            continue
        other = "results." + re.sub(r"^([a-z]+)\.twin\.", r"\1.reference.", place)
        if other not in b:
            alone.append(f"only in A: summary.json:{key} ({other})")
            continue
        yield _difference(f"summary.json:{key}", pd.Series([value]), pd.Series([b[other]]), ["value"])


def _json(name: str, a: dict[str, Any], b: dict[str, Any], alone: list[str]) -> Iterator[Difference]:
    named = {key: RENAMED.get(f"{name}:{key}", key) for key in a}
    for old, new in KEYS.get(name, ()):
        named = {key: re.sub(old, new, other) for key, other in named.items()}
    names = {key: other if other in b else _translated(other) for key, other in named.items()}
    skipped = tuple(s.partition(":")[2] for s in IGNORED if s.startswith(f"{name}:"))
    alone += [f"only in B: {name}:{key}" for key in b if key not in names.values() and not key.startswith(skipped)]
    for key, other in names.items():
        if (skipped and key.startswith(skipped)) or key.rpartition(".")[2] in PROSE:
            continue
        if other not in b:
            alone.append(f"only in A: {name}:{key}")
            continue
        yield _difference(f"{name}:{key}", pd.Series([a[key]]), pd.Series([b[other]]), ["value"])


def _tables(name: str, a: pd.DataFrame, b: pd.DataFrame, alone: list[str]) -> Iterator[Difference]:
    named = {c: RENAMED.get(f"{name}:{c}", c) for c in a.columns}
    a = a.rename(columns={c: other if other in b.columns else _translated(other) for c, other in named.items()})
    skipped = (*PROSE, *(s.partition(":")[2] for s in IGNORED if s.startswith(f"{name}:")))
    a, b = (table.drop(columns=[c for c in skipped if c in table]) for table in (a, b))
    for column in a.columns:
        texts = [v for v in a[column].dropna().unique() if isinstance(v, str)] if a[column].map(_scalar).all() else []
        if changed := {v: _translated(v) for v in texts if v != _translated(v)}:
            a[column] = a[column].replace(changed)
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
