"""What a reader gives: the items, and every row it could not use, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from verdictscope import values
from verdictscope.errors import InputError, reason
from verdictscope.judgments.items import Item
from verdictscope.judgments.problems import COLUMNS, counted, told
from verdictscope.judgments.verdicts import correctness
from verdictscope.rows import RowError

Row = Mapping[str, Any]
PROBLEMS = ("malformed", "unknown_label", "duplicate_id", "mixed_order", "blank")
"""Kinds of problem: the row has no item; its label is none the source knows (the item is kept, its label ``None``);
its id occurred before, with other content (kept under a new id) or with the same (left out); it contradicts itself
about the order of its answers (the item is kept, its label ``None``); an answer is blank (kept: a model may say
nothing)."""


class BadRow(Exception):
    """A row that is no item; the message says why."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Items of one source with the account of all its rows."""

    name: str
    items: tuple[Item, ...]
    problems: pd.DataFrame
    rows: int

    @property
    def counts(self) -> dict[str, int]:
        """Problems by kind, the kinds without one included."""
        return counted(self.problems, PROBLEMS)

    def __repr__(self) -> str:
        return f"Reading({self.name!r}: {len(self.items)} items of {self.rows} rows; {told(self.counts)})"


class Account:
    """Collects items and problems row by row."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = 0
        self._items: dict[str, Item] = {}
        self._problems: list[tuple[int, str, str, bool, str, str]] = []
        self._places: list[str] = []

    def problem(self, row: int, id: str, kind: str, used: bool, detail: str) -> None:
        """Write a problem down."""
        self._problems.append((row, id, kind, used, detail, self._places[row]))

    def read(self, rows: Iterable[tuple[str, Any]], make: Callable[[Row, Notes, int], Item | Iterable[Item]]) -> None:
        """Turn rows into items; what ``make`` cannot use is written down."""
        for number, (place, row) in enumerate(rows):
            self.rows += 1
            self._places.append(place)
            notes = Notes()
            if not isinstance(row, Mapping):
                why = str(row) if isinstance(row, RowError) else f"{type(row).__name__}, no object"
                self.problem(number, str(number), "malformed", False, why)
                continue
            try:
                made = make(row, notes, number)
                made = [made] if isinstance(made, Item) else list(made)
            except (BadRow, InputError) as error:
                self.problem(number, str(row.get("id", number)), "malformed", False, str(error))
                continue
            except (KeyError, IndexError, TypeError, ValueError, AttributeError, SyntaxError) as error:
                self.problem(number, str(number), "malformed", False, reason(error))
                continue
            for item in made:
                self._add(number, item, notes)

    def _add(self, number: int, item: Item, notes: Notes) -> None:
        blank = [name for name in item.answers if not getattr(item, name).strip()]
        for kind, detail in [*notes.found, *(("blank", name) for name in blank)]:
            self.problem(number, item.id, kind, True, detail)
        if item.id not in self._items:
            self._items[item.id] = item
            return
        if _content(self._items[item.id]) == _content(item):
            self.problem(number, item.id, "duplicate_id", False, "same content as before: left out")
            return
        k = 2
        while f"{item.id}#{k}" in self._items:
            k += 1
        self.problem(number, item.id, "duplicate_id", True, f"other content: kept as {item.id}#{k}")
        self._items[f"{item.id}#{k}"] = replace(item, id=f"{item.id}#{k}")  # the group stays: they share a name

    def done(self) -> Reading:
        """Everything read."""
        problems = pd.DataFrame(self._problems, columns=list(COLUMNS))
        if not self._items:
            first = f": {problems['place'][0]}: {problems['detail'][0]}" if len(problems) else ""
            raise InputError(f"not one of {self.rows} rows is an item of {self.name}{first}; is it another format?")
        return Reading(self.name, tuple(self._items.values()), problems, self.rows)


class Notes:
    """Problems of one row that leave it usable."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def unknown_label(self, value: Any) -> None:
        """The row's label is none the source knows."""
        self.found.append(("unknown_label", f"label {value!r}"))

    def right(self, value: Any) -> str | None:
        """Whether something is right, as ``correct`` or ``incorrect``; ``None``, written down, where it is not told."""
        try:
            found = correctness(value, "label")
        except InputError:
            found = None
        if found is None:
            self.unknown_label(value)
        return found

    def mixed_order(self, detail: str) -> None:
        """The row contradicts itself about the order of its answers."""
        self.found.append(("mixed_order", detail))


def _content(item: Item) -> dict[str, Any]:
    return {key: value for key, value in item.__dict__.items() if key != "tags"}


def text(row: Row, *names: str, empty: bool = False) -> str:
    """The first of the columns that is there, as text."""
    for name in names:
        value = _read(values.text, row, name)
        if value is not None:
            if not value.strip() and not empty:
                raise BadRow(f"{name} is blank")
            return value
    raise BadRow(f"no column {' or '.join(names)}")


def optional(row: Row, *names: str) -> str | None:
    """The first of the columns that holds text, or ``None``."""
    found = (_read(values.text, row, name) for name in names)
    return next((value for value in found if value is not None and value.strip()), None)


def identity(row: Row, *names: str, default: str | None = None) -> str:
    """The first of the columns that holds an id: text, or a whole number by its digits."""
    found = next((value for name in names if (value := _read(values.identity, row, name)) is not None), default)
    if found is None:
        raise BadRow(f"no {' or '.join(names)}")
    return found


def _read(how: Callable[[Any, str], str | None], row: Row, name: str) -> str | None:
    try:
        return how(row.get(name), name)
    except InputError as error:
        raise BadRow(str(error)) from None


def rest(row: Row, *used: str) -> dict[str, Any]:
    """The columns an item has no field for."""
    return {str(key): value for key, value in row.items() if key not in used}
