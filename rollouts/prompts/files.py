"""A file of rows as a table, nothing changed and nothing guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from verdictscope.errors import InputError

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")


def read_file(path: str | Path) -> pd.DataFrame:
    """The rows of a CSV, TSV, JSON (a list of objects), JSONL or Parquet file as they are.

    Cells of CSV and TSV files stay text (``007`` and ``NA`` are no numbers and no gaps); JSON values keep their types.

    Raises:
        InputError: no such file, another ending, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"prompt list {path} does not exist: give a .csv, .jsonl or .parquet file")
    suffix = path.suffix.lower()
    if suffix not in ENDINGS:
        raise InputError(f"{path}: cannot read {suffix or 'a file without an ending'}: use .csv, .jsonl or .parquet")
    try:
        if suffix in (".csv", ".tsv"):
            tab = "\t" if suffix == ".tsv" else ","
            raw = pd.read_csv(path, sep=tab, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        elif suffix == ".json":
            raw = _objects(_list(path), path)
        elif suffix == ".parquet":
            raw = pd.read_parquet(path)
        else:
            raw = _objects(_lines(path), path)
    except pd.errors.EmptyDataError:
        raise InputError(f"{path} is empty: it needs a header with the columns id and user") from None
    except InputError:
        raise
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as {suffix[1:]}: {str(error).splitlines()[0]}") from None
    raw.columns = [str(name).strip() for name in raw.columns]
    return raw


def _lines(path: Path) -> list[tuple[str, Any]]:
    """One JSON value a line, each with its place for error messages."""
    found: list[tuple[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                found.append((f"line {number}", json.loads(line)))
            except json.JSONDecodeError as error:
                raise InputError(f"{path} line {number} is no JSON object: {error}") from None
    return found


def _list(path: Path) -> list[tuple[str, Any]]:
    data = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(data, list):
        raise InputError(f"{path} is no JSON list: write [{{...}}, ...], or one object a line in a .jsonl file")
    return [(f"entry {number}", row) for number, row in enumerate(data, 1)]


def _objects(rows: list[tuple[str, Any]], path: Path) -> pd.DataFrame:
    for place, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{path} {place} is no JSON object: write one {{...}} a line")
    if not rows:
        raise InputError(f"{path} holds no prompts: add at least one line")
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    # object columns keep 1, true and null apart, which pandas' own inference would merge into floats
    return pd.DataFrame({n: pd.Series([row.get(n) for _, row in rows], dtype=object) for n in names})
