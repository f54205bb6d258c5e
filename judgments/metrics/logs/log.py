"""What the reader of a log gives: verdicts, and an account of every row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.judgments.problems import COLUMNS, counted, told
from verdictscope.judgments.verdicts import verdicts_frame
from verdictscope.rows import Row as Placed
from verdictscope.rows import RowError
from verdictscope.values import identity

PROBLEMS = ("malformed", "unknown_label", "unknown_verdict", "duplicate_id", "mixed_order")
"""Kinds of problem: the row is no row of this format (left out); its gold label is none the format knows (kept, label
``None``); a verdict is none it knows (kept, verdict ``None``); its id occurred before, with the same content (left
out) or another (kept under a new id, in the same group); it lacks an order that other rows have, or contradicts itself
about the order (kept)."""

Row = Mapping[str, Any]


class BadRow(Exception):
    """A row that is none of this format; the message says why."""


@dataclass(frozen=True, eq=False)
class View:
    """Verdicts that are measured together."""

    part: str
    kind: str
    table: pd.DataFrame
    categories: tuple[str, ...]
    positive: str | None = None
    panel: tuple[str, ...] = ()
    together: bool = False


@dataclass(frozen=True, eq=False)
class Log:
    """Verdicts of a log with the account of all its rows.

    Attributes:
        format: name of the format.
        verdicts: the table of docs/formats.md, with what the format adds beside it.
        views: what is measured together.
        problems: per problem the row (from 0), id, kind (:data:`PROBLEMS`), used (whether verdicts came of the row all
            the same), detail and place (the line or record, as an editor shows it).
        rows: rows the file has.
        warnings: what the numbers cannot tell, in words.
    """

    format: str
    verdicts: pd.DataFrame
    views: tuple[View, ...]
    problems: pd.DataFrame
    rows: int
    warnings: tuple[str, ...] = field(default=())

    @property
    def counts(self) -> dict[str, int]:
        """Problems by kind, the kinds without one included."""
        return counted(self.problems, PROBLEMS)

    def __repr__(self) -> str:
        return f"Log({self.format!r}: {len(self.verdicts)} verdicts of {self.rows} rows; {told(self.counts)})"


class Notes:
    """Problems of one row that leave it usable."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, kind: str, detail: str) -> None:
        """Write one down."""
        self.found.append((kind, detail))

    def label(self, value: Any, names: Mapping[Any, str]) -> str | None:
        """The gold label under its name; ``None``, written down, where the format does not know it."""
        if isinstance(value, Hashable) and value in names:  # a list or an object is no label
            return names[value]
        self.add("unknown_label", f"label {_short(value)}")
        return None

    def verdict(self, value: Any, names: Mapping[Any, str], unread: Iterable[Any] = (None, "")) -> tuple[Any, str]:
        """A verdict under its name with its status; ``None`` where it is unread or unknown."""
        if isinstance(value, Hashable) and value in names:
            return names[value], "ok"
        if value in tuple(unread):
            return None, "unparsed"
        self.add("unknown_verdict", f"verdict {_short(value)}")
        return None, "unknown_label"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def row_id(row: Row, *names: str, default: str | None = None) -> str:
    """The first of the columns that holds an id: text, or a whole number by its digits."""
    try:
        found = next((value for name in names if (value := identity(row.get(name), name)) is not None), default)
    except InputError as error:
        raise BadRow(str(error)) from None
    if found is None:
        raise BadRow(f"no {' or '.join(names)}")
    return found


def content_id(*parts: Any) -> str:
    """A short name for rows of a format that gives them none: the same content, the same name, wherever it stands."""
    text = json.dumps(parts, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Record:
    """What one row gives: an id, and its verdicts as rows of the table without their ``item``."""

    id: str
    verdicts: Sequence[Mapping[str, Any]]
    has_id: bool = True


class Account:
    """Collects verdicts and problems row by row."""

    def __init__(self, format: str) -> None:
        self.format = format
        self.rows = 0
        self._verdicts: list[dict[str, Any]] = []
        self._problems: list[tuple[int, str, str, bool, str, str]] = []
        self._places: list[str] = []
        self._seen: dict[str, str] = {}

    def read(self, rows: Iterable[Placed], make: Callable[[Row, Notes], Record]) -> None:
        """Turn rows into verdicts; what ``make`` cannot use is written down."""
        for number, (place, row) in enumerate(rows):
            self.rows += 1
            self._places.append(place)
            if isinstance(row, RowError):
                self.problem(number, str(number), "malformed", False, str(row))
                continue
            notes = Notes()
            try:
                record = make(row, notes)
            except BadRow as error:
                self.problem(number, str(row.get("id", number)), "malformed", False, str(error))
                continue
            self._add(number, record, notes, row)

    def _add(self, number: int, record: Record, notes: Notes, row: Row) -> None:
        name, content = record.id, content_id({str(k): v for k, v in row.items()})
        if name in self._seen:
            if record.has_id and self._seen[name] == content:
                self.problem(number, name, "duplicate_id", False, "the same row as before: left out")
                return
            k = 2
            while f"{record.id}#{k}" in self._seen:
                k += 1
            name = f"{record.id}#{k}"
            if record.has_id:
                self.problem(number, record.id, "duplicate_id", True, f"other content: kept as {name}")
        self._seen[name] = content
        for kind, detail in notes.found:
            self.problem(number, name, kind, True, detail)
        self._verdicts += [{"item": name, **verdict} for verdict in record.verdicts]

    def problem(self, row: int, id: str, kind: str, used: bool, detail: str, place: str | None = None) -> None:
        """Write a problem down; ``place`` where the row is another file's, and row -1 where there is none."""
        place = ("" if row < 0 else self._places[row]) if place is None else place
        self._problems.append((row, id, kind, used, detail, place))

    def verdicts(self) -> pd.DataFrame:
        """Everything read."""
        if not self._verdicts:
            first = f" ({self._problems[0][5]}: {self._problems[0][4]})" if self._problems else ""
            raise InputError(
                f"not one of {self.rows} rows is a verdict of the format {self.format}{first}; is it a "
                "log of another format?"
            )
        return verdicts_frame(self._verdicts)

    def problems(self) -> pd.DataFrame:
        """The problems as a table."""
        return pd.DataFrame(self._problems, columns=list(COLUMNS))


def mixed_orders(account: Account, table: pd.DataFrame) -> None:
    """Write down items that lack an order which other items of the same judge have."""
    for judge, rows in table.groupby("judge", sort=False):
        orders = {order for order in rows["order"] if order}
        if len(orders) < 2:
            continue
        have = rows.groupby("item", sort=False)["order"].agg(set)
        for item, found in have[have.map(len) < len(orders)].items():
            lacking = ", ".join(sorted(orders - found))
            account.problem(-1, str(item), "mixed_order", True, f"{judge}: no verdict in the order {lacking}")


def views_by_part(view: View) -> tuple[View, ...]:
    """The view, and every part of it where its column ``part`` names more than one."""
    names = sorted({p for p in view.table.get("part", ()) if isinstance(p, str)})
    if len(names) < 2:
        return (view,)
    return view, *(replace(view, part=name, table=view.table[view.table["part"] == name]) for name in names)
