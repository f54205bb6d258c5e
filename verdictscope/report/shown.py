"""What a page is made of, whatever was studied: tables, sentences, controls, examples, and the names of variants."""

from __future__ import annotations

from dataclasses import dataclass

VARIANTS = {
    "base": "model under study",
    "reference": "reference",
    "ablated": "found heads zeroed",
    "ablated_fixed": "found heads zeroed, same tokens",
}
"""Names of the variants for people; others keep theirs."""


@dataclass(frozen=True)
class Table:
    """A small table for the page: its caption, its head and its rows, the first cell of each naming it."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Finding:
    """A sentence and the file its numbers come from."""

    text: str
    source: str


@dataclass(frozen=True)
class Point:
    """A part of the answer in plain words: what it is about, the sentences, and the file their numbers come from."""

    name: str
    text: str
    source: str


@dataclass(frozen=True)
class Line:
    """A line of a control's table; a column that no line fills is not drawn.

    Attributes:
        what: what was measured.
        value: the estimate.
        interval: its 95 % interval.
        null: what it is held against: the range of its null.
        p: the p-value.
        n: how many, and of what.
        note: what else has to be known, under ``what``.
    """

    what: str
    value: str
    interval: str = ""
    null: str = ""
    p: str = ""
    n: str = ""
    note: str = ""


@dataclass(frozen=True)
class Control:
    """A comparison that should come out as expected if the reading is right.

    Attributes:
        name: what was done.
        expect: what it should show.
        rows: the numbers of this run.
        source: file of the run folder.
    """

    name: str
    expect: str
    rows: tuple[Line, ...]
    source: str

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Attribute and heading of the columns that some line fills."""
        return tuple((key, head) for key, head in COLUMNS if any(getattr(row, key) for row in self.rows))


COLUMNS = (("value", "estimate"), ("interval", "95 % interval"), ("null", "null range"), ("p", "p"), ("n", "n"))


@dataclass(frozen=True)
class Example:
    """One rollout as text.

    Attributes:
        title: what it is an example of.
        rollout: its id.
        texts: (what, text) in the order of reading.
    """

    title: str
    rollout: str
    texts: tuple[tuple[str, str], ...]
