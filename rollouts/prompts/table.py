"""A prompt list as a checked table: one row a prompt, every column that is not ours a tag."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.rows import ending, read_frame
from verdictscope.sources import locate
from verdictscope.values import identity, text, truths

COLUMNS = ("id", "group", "system", "user", "harm")
"""The columns every prompt table has, in this order; all others are tags."""


def read_prompts(path: str | Path) -> pd.DataFrame:
    """Read a prompt list from a CSV, TSV, JSON, JSONL or Parquet file.

    Needed columns are ``id`` and ``user``. ``group`` (rows that may not be parted by a split; default the
    id), ``system`` and ``harm`` (true/false, yes/no or 1/0) are optional; every other column is kept as a
    tag. An id or a group is text or a whole number, ``user`` and ``system`` are text (``007`` and ``NA`` stay what
    they are); an empty cell is a missing one. Tags of a CSV become numbers or truth values where the whole column
    reads as such. See :func:`verdictscope.rows.read_rows` for how strictly each kind of file is read.

    Args:
        path: a file, also a bundled one (``organism:cliff/prompts.csv``), ending in .csv, .tsv, .json (a list of
            objects), .jsonl (or .ndjson) or .parquet.

    Returns:
        One row per prompt, columns id, group, system (``None`` where there is none), user, harm (nullable
        boolean, missing where the file has no such column), then the tags.

    Raises:
        InputError: the file is missing, empty or unreadable, lacks a column, repeats an id, has an empty user
            text, a value of another type, or one of ``harm`` that is neither true nor false; names the row.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("prompts.csv").write_text("id,user,harm\\np1,How do magnets work?,no")
        >>> read_prompts("prompts.csv")[["id", "group", "user", "harm"]].values.tolist()
        [['p1', 'p1', 'How do magnets work?', False]]
    """
    path = Path(locate(str(path)))
    return checked(read_frame(path), path)


def checked(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The columns of a file as :func:`read_prompts` gives them; the index of ``raw`` says where each row stands."""
    for name in ("id", "user"):
        if name not in raw.columns:
            raise InputError(f"{path}: column {name!r} is missing{_nearest(name, raw.columns)}")
    if raw.empty:
        raise InputError(f"{path} holds no prompts: add at least one row")
    ids, users = (
        _filled(cells(raw, n, path, how), n, raw.index, path) for n, how in (("id", identity), ("user", text))
    )
    _check_unique(ids, raw.index, path)
    table = pd.DataFrame({"id": ids})
    groups = cells(raw, "group", path, identity) if "group" in raw.columns else [None] * len(raw)
    table["group"] = [group or name for group, name in zip(groups, ids, strict=True)]
    systems = cells(raw, "system", path, text) if "system" in raw.columns else [None] * len(raw)
    # kept as objects: pandas' string type would turn None into nan, which later reads as the text "nan"
    table["system"] = pd.Series([system or None for system in systems], dtype=object)
    table["user"] = users
    if "harm" in raw.columns:
        called = [f"prompt {name!r} ({at})" for name, at in zip(table["id"], raw.index, strict=True)]
        table["harm"] = truths(raw["harm"], f"{path}: harm", called, gaps=False).array
    else:
        table["harm"] = pd.array([pd.NA] * len(raw), dtype="boolean")
    for name in raw.columns:
        if name not in (*COLUMNS, ""):  # a first column without a name is the row numbers that pandas writes
            table[name] = typed(raw[name]) if ending(path) in (".csv", ".tsv") else list(raw[name])
    return table


def cells(raw: pd.DataFrame, name: str, path: Path, read: Callable[[Any, str], str | None]) -> list[str | None]:
    """A column's cells, each read or refused by its place."""
    return [read(value, f"{path} {place}: {name}") for place, value in zip(raw.index, raw[name], strict=True)]


def _nearest(name: str, columns: pd.Index) -> str:
    """What to do about a missing column: the closest existing name, or the list."""
    lower = {str(c).lower(): str(c) for c in columns}
    alias = {"user": ("prompt", "goal", "question", "instruction", "behavior", "text"), "id": ("prompt_id", "index")}
    close = difflib.get_close_matches(name, lower, n=1, cutoff=0.5) or [a for a in alias[name] if a in lower][:1]
    if close:
        return f"; the nearest is {lower[close[0]]!r}: rename it to {name!r}"
    return f"; the file has {', '.join(map(repr, map(str, columns))) or 'none'}: add it"


def typed(column: pd.Series) -> list[Any]:
    """A CSV column with the types its whole content allows; an empty cell is ``None``."""
    cells = [None if value == "" else value for value in column]
    full = [c for c in cells if c is not None]
    if full and all(re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", c) for c in full):
        return [None if c is None else int(c) for c in cells]
    if full and all(re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]*([eE][-+]?[0-9]{1,2})?)?", c) for c in full):
        return [None if c is None else float(c) for c in cells]
    if full and all(c.lower() in ("true", "false") for c in full):
        return [None if c is None else c.lower() == "true" for c in cells]
    return cells


def _filled(values: list[str | None], name: str, places: pd.Index, path: Path) -> list[str]:
    found = [value for value in values if value is not None and value.strip()]
    if len(found) < len(values):
        at = next(place for place, value in zip(places, values, strict=True) if value is None or not value.strip())
        raise InputError(f"{path} {at}: {name} is empty: fill it or drop the row")
    return found


def _check_unique(ids: list[str], places: pd.Index, path: Path) -> None:
    first: dict[str, str] = {}
    for place, name in zip(places, ids, strict=True):
        if first.setdefault(name, place) != place:
            raise InputError(f"{path} {place}: id {name!r} occurs in {first[name]} too: make ids unique")
