"""A prompt list as a checked table: one row a prompt, every column that is not ours a tag."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.rollouts.prompts.files import read_file

COLUMNS = ("id", "group", "system", "user", "harm")
"""The columns every prompt table has, in this order; all others are tags."""

_TRUE, _FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})


def read_prompts(path: str | Path) -> pd.DataFrame:
    """Read a prompt list from a CSV, TSV, JSON, JSONL or Parquet file.

    Needed columns are ``id`` and ``user``. ``group`` (rows that may not be parted by a split; default the
    id), ``system`` and ``harm`` (true/false, yes/no or 1/0) are optional; every other column is kept as a
    tag. Ids and texts are read as text (``007`` and ``NA`` stay what they are); tags of a CSV become numbers
    or truth values where the whole column reads as such.

    Args:
        path: file ending in .csv, .tsv, .json (a list of objects), .jsonl (or .ndjson) or .parquet.

    Returns:
        One row per prompt, columns id, group, system (``None`` where there is none), user, harm (nullable
        boolean, missing where the file has no such column), then the tags.

    Raises:
        InputError: the file is missing, empty or unreadable, lacks a column, repeats an id, has an empty user
            text, or holds a value of ``harm`` that is neither true nor false.
    """
    path = Path(path)
    return checked(read_file(path), path)


def checked(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The columns of a file as :func:`read_prompts` gives them."""
    for name in ("id", "user"):
        if name not in raw.columns:
            raise InputError(f"{path}: column {name!r} is missing{_nearest(name, raw.columns)}")
    if raw.empty:
        raise InputError(f"{path} holds no prompts: add at least one row")
    table = pd.DataFrame(index=range(len(raw)))
    table["id"] = [text(v) for v in raw["id"]]
    groups = raw["group"] if "group" in raw.columns else [None] * len(raw)
    table["group"] = [text(g) or i for g, i in zip(groups, table["id"], strict=True)]
    systems = raw["system"] if "system" in raw.columns else [None] * len(raw)
    # kept as objects: pandas' string type would turn None into nan, which later reads as the text "nan"
    table["system"] = pd.Series([text(s) or None for s in systems], dtype=object)
    table["user"] = [text(u) for u in raw["user"]]
    table["harm"] = (
        _harm(raw["harm"], table["id"], path)
        if "harm" in raw.columns
        else pd.array([pd.NA] * len(raw), dtype="boolean")
    )
    for name in raw.columns:
        if name not in COLUMNS:
            table[name] = typed(raw[name]) if path.suffix.lower() in (".csv", ".tsv") else list(raw[name])
    _check(table, path)
    return table


def text(value: Any) -> str:
    """A cell as text; missing is the empty string."""
    return "" if value is None or (not isinstance(value, str) and pd.isna(value)) else str(value)


def _nearest(name: str, columns: pd.Index) -> str:
    """What to do about a missing column: the closest existing name, or the list."""
    lower = {str(c).lower(): str(c) for c in columns}
    alias = {
        "user": ("prompt", "goal", "question", "instruction", "behavior", "text"),
        "id": ("prompt_id", "index"),
    }
    close = difflib.get_close_matches(name, lower, n=1, cutoff=0.5) or [a for a in alias[name] if a in lower][:1]
    if close:
        return f"; the nearest is {lower[close[0]]!r}: rename it to {name!r}"
    return f"; the file has {', '.join(map(repr, map(str, columns))) or 'none'}: add it"


def _harm(values: pd.Series, ids: pd.Series, path: Path) -> pd.Series:
    """Strict truth values: anything but the six words is an error, since a guess would move the labels."""
    parsed: list[bool] = []
    for value, name in zip(values, ids, strict=True):
        word = text(value).strip().lower()
        # a column of 0/1 with a gap is read as floats by Parquet writers
        word = {"1.0": "1", "0.0": "0"}.get(word, word)
        if word not in _TRUE | _FALSE:
            raise InputError(f"{path}: harm of prompt {name!r} is {text(value)!r}: write true or false")
        parsed.append(word in _TRUE)
    return pd.Series(parsed, dtype="boolean")


def typed(column: pd.Series) -> list[Any]:
    """A CSV column with the types its whole content allows; an empty cell is ``None``."""
    cells = [None if value == "" else value for value in column]
    full = [c for c in cells if c is not None]
    if full and all(re.fullmatch(r"-?(0|[1-9]\d{0,17})", c) for c in full):
        return [None if c is None else int(c) for c in cells]
    if full and all(re.fullmatch(r"-?\d+\.\d*([eE][-+]?\d+)?|-?(0|[1-9]\d*)", c) for c in full):
        return [None if c is None else float(c) for c in cells]
    if full and all(c.lower() in ("true", "false") for c in full):
        return [None if c is None else c.lower() == "true" for c in cells]
    return cells


def _check(table: pd.DataFrame, path: Path) -> None:
    for name in ("id", "user"):
        empty = table.index[table[name].str.strip() == ""]
        if len(empty):
            raise InputError(f"{path}: row {empty[0] + 1} has an empty {name!r}: fill it or drop the row")
    again = table["id"][table["id"].duplicated()]
    if len(again):
        raise InputError(f"{path}: {len(again)} ids occur twice, first {again.iloc[0]!r}: make ids unique")
