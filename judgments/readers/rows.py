"""Rows of a file or of a hub dataset, one by one: a row that cannot be read is handed on as its error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from verdictscope.errors import InputError

ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")

Numbered = tuple[int, Any]
"""Row number from 0, and the row: a dictionary, or an exception where it cannot be read."""


def file_rows(path: str | Path) -> list[Numbered]:
    """The rows of a JSON list, JSONL, CSV, TSV or Parquet file. Cells of CSV and TSV files stay text.

    Raises:
        InputError: no such file, another ending, or the file as a whole cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file of one of the kinds {', '.join(ENDINGS)}")
    suffix = path.suffix.lower()
    if suffix not in ENDINGS:
        raise InputError(f"{path}: cannot read {suffix or 'a file without an ending'}: use {', '.join(ENDINGS)}")
    try:
        if suffix in (".jsonl", ".ndjson"):
            found = list(_lines(path))
        elif suffix == ".json":
            found = list(enumerate(_list(path)))
        elif suffix == ".parquet":
            found = frame_rows(pd.read_parquet(path))
        else:
            tab = "\t" if suffix == ".tsv" else ","
            found = frame_rows(pd.read_csv(path, sep=tab, dtype=str, keep_default_na=False, encoding="utf-8-sig"))
    except InputError:
        raise
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as {suffix[1:]}: {str(error).splitlines()[0]}") from None
    if not found:
        raise InputError(f"{path} has no rows: give a file with at least one")
    return found


def _lines(path: Path) -> Iterator[Numbered]:
    number = 0
    for line in path.read_text(encoding="utf-8-sig").split("\n"):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                yield number, error
            number += 1


def _list(path: Path) -> list[Any]:
    data = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(data, dict):  # by id
        return [{"id": key, **value} if isinstance(value, dict) else value for key, value in data.items()]
    if not isinstance(data, list):
        raise InputError(f"{path} is no JSON list: write [{{...}}, ...], or one object a line in a .jsonl file")
    return data


def frame_rows(frame: pd.DataFrame) -> list[Numbered]:
    """A table's rows with plain Python values; gaps are ``None``."""
    rows = frame.to_dict("records")
    return [(k, {str(name).strip(): _plain(value) for name, value in row.items()}) for k, row in enumerate(rows)]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value) else value


def hub_rows(name: str, config: str | None, split: str) -> list[Numbered]:
    """The rows of a dataset on the Hugging Face hub.

    Raises:
        InputError: the package ``datasets`` is missing, or the hub does not give the set.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"reading {name} from the hub needs the package datasets: pip install 'verdictscope[hub]', or give a file"
        ) from None
    try:
        return frame_rows(datasets.load_dataset(name, config, split=split).to_pandas())
    except Exception as error:  # the hub's client fails in as many ways as networks do
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot read {name} ({config or 'default'}, {split}) from the hub: {reason}") from error
