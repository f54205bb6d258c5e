"""The rows of a log, whatever its ending: JSON, JSONL, CSV, TSV or Parquet, gzipped or not.

What a file is, is told by its content: logs are renamed, and ``results.txt`` is often JSON.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from verdictscope.errors import InputError

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
CELL = 100_000_000
"""Characters a CSV cell may hold: judges' outputs are long."""


def log_rows(path: str | Path) -> list[tuple[int, Any]]:
    """The rows of a log, numbered from 0: a dictionary each, or the exception where a line cannot be read.

    Args:
        path: JSON (a list, or an object of lists of rows), JSONL, CSV, TSV or Parquet, gzipped or not.

    Raises:
        InputError: no such file, not text, or no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file: give a log of verdicts")
    data = path.read_bytes()
    if data[:2] == GZIP:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is a damaged gzip file ({error}): copy it again") from None
    if data[:4] == PARQUET:
        return _parquet(path, data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8: give JSON, JSONL, CSV, TSV or Parquet") from None
    found = _rows(text, path)
    if not found:
        raise InputError(f"{path} has no rows: give a log of verdicts")
    return found


def _parquet(path: Path, data: bytes) -> list[tuple[int, Any]]:
    try:
        table = pd.read_parquet(io.BytesIO(data))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is a damaged Parquet file ({str(error).splitlines()[0]})") from None
    rows = json.loads(table.to_json(orient="records"))
    return list(enumerate(rows))


def _rows(text: str, path: Path) -> list[tuple[int, Any]]:
    start = text.lstrip()[:1]
    if start == "[":
        return list(enumerate(_json(text, path)))
    if start == "{":
        return _lines(text, path)
    if not start:
        return []
    return _cells(text, path)


def _json(text: str, path: Path) -> list[Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} begins as a JSON list and breaks off in line {error.lineno}: {error.msg}") from None
    if not isinstance(data, list):
        raise InputError(f"{path} is no JSON list of rows")
    return data


def _lines(text: str, path: Path) -> list[tuple[int, Any]]:
    """One JSON object for the whole file (a column table, rows by id), or one a line."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        lines = [line for line in text.split("\n") if line.strip()]
        return [(k, _line(line)) for k, line in enumerate(lines)]
    if "\n" not in text.strip() and not any(isinstance(v, Mapping | list) and v for v in data.values()):
        return [(0, data)]
    return list(enumerate(_object(data)))


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return error


def _object(data: Mapping[str, Any]) -> list[Any]:
    """The rows within one object: the only list of objects, pandas' columns by row name, objects by id, or itself."""
    lists = [v for v in data.values() if isinstance(v, list) and v and all(isinstance(r, Mapping) for r in v)]
    values = list(data.values())
    if values and all(isinstance(v, Mapping) for v in values):
        if len({tuple(v) for v in values}) == 1 and not any(isinstance(c, Mapping) for v in values for c in v.values()):
            names = list(values[0])
            if all(n.isdigit() for n in names):  # {"column": {"0": …}}
                return [{column: cells[n] for column, cells in data.items()} for n in names]
        return [{"id": key, **value} for key, value in data.items()]
    if len(lists) == 1 and len(data) <= 3:
        return list(lists[0])
    return [data]


def _cells(text: str, path: Path) -> list[tuple[int, Any]]:
    head = text.split("\n", 1)[0]
    tab = head.count("\t") > head.count(",")
    before = csv.field_size_limit(CELL)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if tab else ",", strict=True)
        rows: list[tuple[int, Any]] = []
        for k, row in enumerate(reader):
            if None in row or None in row.values():
                rows.append((k, ValueError(f"{len(reader.fieldnames or ())} columns expected, this row has another "
                                           "number")))  # fmt: skip
            else:
                rows.append((k, {str(name).strip(): value for name, value in row.items()}))
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from None
    finally:
        csv.field_size_limit(before)
    return rows
