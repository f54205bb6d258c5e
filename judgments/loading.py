"""How rows of a file become items or recorded verdicts, with an account of every row that could not be used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from verdictscope import values
from verdictscope.errors import InputError, reason
from verdictscope.judgments.verdicts import correctness
from verdictscope.rows import Row as Positioned
from verdictscope.rows import RowError, shown

Row = Mapping[str, Any]

COLUMNS = ("row", "id", "kind", "used", "detail", "place")
"""Of a table of problems: row from 0 (-1: no single row), id, kind, whether something was read from the row all the
same, what it was, and where an editor shows the row (``line 7``, ``record 3``; empty for no single row)."""


class BadRow(Exception):
    """A row that is not of the format; the message says why."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """What every loader returns besides its items or verdicts: the problems of the rows, and their number."""

    name: str
    problems: pd.DataFrame
    rows: int

    kinds: ClassVar[tuple[str, ...]] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Problems by kind, the kinds without one included."""
        found = self.problems["kind"].value_counts()
        return {kind: int(found.get(kind, 0)) for kind in self.kinds}

    def _problems(self) -> str:
        return ", ".join(f"{n} {kind}" for kind, n in self.counts.items() if n) or "no problems"


@dataclass(frozen=True, eq=False)
class Record:
    """What was read from a row: an id, a value, and what distinguishes two rows of one id.

    A record without an id of its own (``has_id=False``) is numbered when its content occurs again.
    """

    id: str
    value: Any
    content: Any = None
    has_id: bool = True


class Notes:
    """Problems of one row that leave it usable."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, kind: str, detail: str) -> None:
        """Note a problem."""
        self.found.append((kind, detail))

    def label(self, value: Any, names: Mapping[Any, str]) -> str | None:
        """The gold label under its name; ``None``, noted, where the format does not know it."""
        if isinstance(value, Hashable) and not isinstance(value, bool) and value in names:
            return names[value]
        self.add("unknown_label", f"label {shown(value)}")
        return None

    def verdict(self, value: Any, names: Mapping[Any, str], unread: Iterable[Any] = (None, "")) -> tuple[Any, str]:
        """A verdict under its name with its status; ``None`` where it is unread or unknown."""
        if isinstance(value, Hashable) and value in names:
            return names[value], "ok"
        if value in tuple(unread):
            return None, "unparsed"
        self.add("unknown_verdict", f"verdict {shown(value)}")
        return None, "unknown_label"

    def right(self, value: Any) -> str | None:
        """``correct`` or ``incorrect``; ``None``, noted, where it is unknown."""
        try:
            found = correctness(value, "label")
        except InputError:
            found = None
        if found is None:
            self.add("unknown_label", f"label {shown(value)}")
        return found


class Account:
    """Collects records and problems row by row."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = 0
        self.records: dict[str, Record] = {}
        self._problems: list[tuple[int, str, str, bool, str, str]] = []
        self._positions: list[str] = []

    def read(self, rows: Iterable[Positioned], make: Callable[[Row, Notes, int], Iterable[Record]]) -> None:
        """Turn rows into records; what ``make`` cannot use is noted."""
        for number, (position, row) in enumerate(rows):
            self.rows += 1
            self._positions.append(position)
            notes, name = Notes(), str(number)
            try:
                if not isinstance(row, Mapping):
                    raise BadRow(str(row) if isinstance(row, RowError) else f"{type(row).__name__}, no object")
                name = str(row.get("id", number))
                made = list(make(row, notes, number))
            except (BadRow, InputError) as error:
                self.problem(number, name, "malformed", False, str(error))
                continue
            except (KeyError, IndexError, TypeError, ValueError, AttributeError, SyntaxError) as error:
                self.problem(number, str(number), "malformed", False, reason(error))
                continue
            for record in made:
                self._add(number, record, notes)

    def _add(self, number: int, record: Record, notes: Notes) -> None:
        name, before = record.id, self.records.get(record.id)
        if before is not None:
            if record.has_id and before.content == record.content:
                self.problem(number, name, "duplicate_id", False, "the same row as before: left out")
                return
            k = next(k for k in range(2, len(self.records) + 3) if f"{record.id}#{k}" not in self.records)
            name = f"{record.id}#{k}"
            if record.has_id:
                self.problem(number, record.id, "duplicate_id", True, f"other content: kept as {name}")
        self.records[name] = record
        for kind, detail in notes.found:
            self.problem(number, name, kind, True, detail)

    def problem(self, row: int, id: str, kind: str, used: bool, detail: str, place: str | None = None) -> None:
        """Note a problem; ``place`` where the row is another file's, and row -1 where there is none."""
        place = ("" if row < 0 else self._positions[row]) if place is None else place
        self._problems.append((row, id, kind, used, detail, place))

    def need(self, what: str) -> None:
        """Raises ``InputError`` where not one row could be used."""
        if not self.records:
            first = f" ({self._problems[0][5]}: {self._problems[0][4]})" if self._problems else ""
            raise InputError(f"not one of {self.rows} rows is {what} of {self.name}{first}: is it another format?")

    def problems(self) -> pd.DataFrame:
        """The problems as a table."""
        return pd.DataFrame(self._problems, columns=list(COLUMNS))


def content_id(*parts: Any) -> str:
    """A short name for rows of a format that gives them none: the same content, the same name."""
    text = json.dumps(parts, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def text(row: Row, *names: str, empty: bool = False) -> str:
    """The first of the columns that is there, as text."""
    for name in names:
        value = _cell(values.text, row, name)
        if value is not None:
            if not value.strip() and not empty:
                raise BadRow(f"{name} is blank")
            return value
    raise BadRow(f"no column {' or '.join(names)}")


def optional(row: Row, *names: str) -> str | None:
    """The first of the columns that holds text, or ``None``."""
    found = (_cell(values.text, row, name) for name in names)
    return next((value for value in found if value is not None and value.strip()), None)


def identity(row: Row, *names: str, default: str | None = None) -> str:
    """The first of the columns that holds an id: text, or a whole number by its digits."""
    found = next((value for name in names if (value := _cell(values.identity, row, name)) is not None), default)
    if found is None:
        raise BadRow(f"no {' or '.join(names)}")
    return found


def _cell(how: Callable[[Any, str], str | None], row: Row, name: str) -> str | None:
    try:
        return how(row.get(name), name)
    except InputError as error:
        raise BadRow(str(error)) from None


def rest(row: Row, *used: str) -> dict[str, Any]:
    """The columns an item has no field for."""
    return {str(key): value for key, value in row.items() if key not in used}
