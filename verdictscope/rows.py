"""The rows of a user's file, read strictly: CSV, TSV, JSON, JSONL or Parquet, plain or gzipped.

A row is never shifted, merged or guessed at. What is wrong with the file as a whole is an error; what is wrong with one
row stands in its place as a :class:`RowError`, for the caller to raise (:func:`read_frame`) or to report. Places are
what an editor shows: the line on which a row begins, or the number of a record, from 1.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from verdictscope.errors import InputError, reason

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
"""Kinds of file, each also with ``.gz`` behind it."""

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_KINDS = {list: "a list", dict: "an object", bool: "a truth value", int: "a number", float: "a number", bytes: "bytes"}
HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which no tokenizer takes."""
_LINE = re.compile(r"\r\n|\n|\r")


class RowError(Exception):
    """What is wrong with one row, as a predicate: ``has 3 cells, the header 2``."""


class Row(NamedTuple):
    """A row with its place (``line 7``, ``record 3``): a dictionary, or what is wrong with it."""

    place: str
    value: Any


class _Flaw(NamedTuple):
    """Stands in a JSON value for what cannot be read."""

    why: str


def read_rows(path: str | Path, *, by_content: bool = False) -> list[Row]:
    """The rows of a file. Cells of CSV and TSV files stay text; JSON and Parquet values keep their types.

    A CSV file is read by RFC 4180: a cell with a separator, a quote or a line break stands in quotes, and quotes inside
    are doubled. Blank lines are no rows. A JSON file is a list of objects, an object with one such list, objects by id,
    or columns by row name. Missing Parquet values, NaN among them, are ``None``.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file of one of the kinds {', '.join(ENDINGS)}")
    kind = ending(path)
    if kind not in ENDINGS and not by_content:
        raise InputError(f"{path}: cannot read {kind or 'a file without an ending'}: use {', '.join(ENDINGS)}")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == _GZIP else data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is a damaged gzip file ({error}): copy it again") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if by_content and kind not in (".jsonl", ".ndjson"):
        kind = _kind(data)
    if kind != ".parquet" and (wide := next((name for mark, name in _WIDE.items() if data.startswith(mark)), None)):
        raise InputError(f"{path} is {wide}, not UTF-8: save it as UTF-8")
    if kind == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(pa.BufferReader(data)).read()
            names = [name.strip() for name in table.schema.names]
            if len(set(names)) < len(names):
                raise InputError(f"{path}: column {_twice(names)!r} occurs twice: rename one")
            rows = table.rename_columns(names).to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as Parquet: {reason(error)}") from None
        rows = [
            {
                n: (None if isinstance(v, float) and v != v else v)
                for n, v in row.items()
                if not re.fullmatch(r"__index_level_\d+__", n)
            }
            for row in rows
        ]
        found = [Row(f"record {number}", _named(row)) for number, row in enumerate(rows, 1)]
    elif kind in (".jsonl", ".ndjson"):
        found = _lines(data)
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = len(_LINE.findall(data[: error.start].decode("latin-1"))) + 1
            byte = f"byte 0x{data[error.start]:02x}"
            raise InputError(f"{path} line {line} is not UTF-8 ({byte}): save it as UTF-8") from None
        if (at := text.find("\0")) >= 0:
            line = len(_LINE.findall(text[:at])) + 1
            raise InputError(f"{path} line {line} holds a NUL byte: it is damaged, or not UTF-8")
        found = _json(text, path, or_lines=by_content) if kind == ".json" else _cells(text, kind, path)
    if not found:
        raise InputError(f"{path} holds no rows: give a file with at least one")
    return found


def read_frame(path: str | Path) -> pd.DataFrame:
    """The rows of a file as a table of objects, its index their places."""
    import pandas as pd

    rows = read_rows(path)
    for place, value in rows:
        if isinstance(value, RowError):
            raise InputError(f"{path} {place} {value}")
    names = list(dict.fromkeys(name for row in rows for name in row.value))
    # object columns keep 1, true and null apart, which pandas' own inference would merge into floats
    columns = {n: pd.Series([row.value.get(n) for row in rows], dtype=object) for n in names}
    return pd.DataFrame(columns).set_axis([row.place for row in rows], axis=0)


def ending(path: Path) -> str:
    """The ending that says what kind of file it is, in lower case, without ``.gz``."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return plain.suffix.lower()


def json_value(text: str | bytes) -> Any:
    """One JSON value, read strictly."""
    value = _loaded(text)
    if (why := _flaw(value)) is not None:
        raise RowError(why)
    return value


def _kind(data: bytes) -> str:
    if data[:4] == _PARQUET:
        return ".parquet"
    start = data.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    head = data.lstrip().split(b"\n", 1)[0]
    return ".json" if start in (b"[", b"{") else ".tsv" if head.count(b"\t") > head.count(b",") else ".csv"


def _named(row: Mapping[str, Any]) -> Any:
    """A row under its columns' names without blanks around them; its flaw where there is one."""
    if (why := _flaw(row)) is not None:
        return RowError(why)
    names = [name.strip() for name in row]
    if len(set(names)) < len(names):
        return RowError(f"has the key {_twice(names)!r} twice")
    return dict(zip(names, row.values(), strict=True))


def _twice(names: Sequence[str]) -> str:
    return next(name for name, n in Counter(names).items() if n > 1)


# --- JSON ---------------------------------------------------------------------------------------------------------


def _loaded(text: str | bytes) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=_pairs,
            parse_constant=lambda word: _Flaw(f"holds {word}, which is no JSON: write null for a missing number"),
            parse_float=_number,
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} " if error.lineno > 1 else ""
        raise RowError(f"is no JSON: {error.msg} ({place}column {error.colno})") from None
    except RecursionError:
        raise RowError("is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise RowError(f"is not UTF-8 (byte 0x{error.object[error.start]:02x})") from None
    except ValueError as error:  # an integer of thousands of digits
        raise RowError(f"is no JSON: {error}") from None


def _pairs(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Flaw(f"has the key {_twice([k for k, _ in pairs])!r} twice")


def _number(digits: str) -> Any:
    value = float(digits)
    return value if abs(value) != float("inf") else _Flaw(f"holds {digits[:40]}, which is beyond every number")


def _flaw(value: Any) -> str | None:
    """The first thing wrong inside a value."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, _Flaw):
            return one.why
        if isinstance(one, str):
            if half := HALF.search(one):
                return f"holds half of a surrogate pair (\\u{ord(half[0]):x}): its text was cut inside a character"
        elif isinstance(one, Mapping):
            waiting += [*one.values(), *one]
        elif isinstance(one, list | tuple):
            waiting += one
    return None


def _lines(data: bytes) -> list[Row]:
    """One JSON object a line; what is wrong with one line says nothing of the others."""
    data = data.removeprefix(codecs.BOM_UTF8)
    return [
        Row(f"line {number}", _line(line)) for number, line in enumerate(data.split(b"\n"), 1) if line.strip(b" \t\r")
    ]


def _line(line: bytes) -> Any:
    if b"\0" in line:
        return RowError("holds a NUL byte: it is damaged, or not UTF-8")
    try:
        row = _loaded(line.decode("utf-8"))
    except (RowError, UnicodeDecodeError) as error:
        return error if isinstance(error, RowError) else RowError(f"is not UTF-8 (byte 0x{line[error.start]:02x})")
    return _object(row)


def _object(row: Any) -> Any:
    if isinstance(row, _Flaw):
        return RowError(row.why)
    return _named(row) if isinstance(row, dict) else RowError(f"is no JSON object but {shown(row)}")


def _json(text: str, path: Path, or_lines: bool) -> list[Row]:
    try:
        data = _loaded(text)
    except RowError as error:
        if or_lines and text.lstrip()[:1] == "{":
            return _lines(text.encode("utf-8"))
        raise InputError(f"{path} {error}; one object a line is a .jsonl file") from None
    if isinstance(data, _Flaw):
        raise InputError(f"{path} {data.why}")
    if not isinstance(data, list | dict):
        raise InputError(f"{path} is no JSON list: write [{{...}}, ...], or one object a line in a .jsonl file")
    rows = data if isinstance(data, list) else _inside(data)
    return [Row(f"record {number}", _object(row)) for number, row in enumerate(rows, 1)]


def _inside(data: dict[str, Any]) -> list[Any]:
    """The rows within one object: the only list of objects, pandas' columns by row name, objects by id, or itself."""
    lists = [v for v in data.values() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
    values = list(data.values())
    if values and all(isinstance(v, dict) for v in values):
        if len({tuple(v) for v in values}) == 1 and not any(isinstance(c, dict) for v in values for c in v.values()):
            names = list(values[0])
            if names and all(n.isdigit() for n in names):  # {"column": {"0": …}}
                return [{column: cells[n] for column, cells in data.items()} for n in names]
        return [{"id": key, **value} for key, value in data.items()]
    return list(lists[0]) if len(lists) == 1 and len(data) <= 3 else [data]


# --- tables -------------------------------------------------------------------------------------------------------


def _cells(text: str, kind: str, path: Path) -> list[Row]:
    sep = "\t" if kind == ".tsv" else ","
    records = _records(text, sep, path)
    if not records:
        raise InputError(f"{path} is empty: it needs a header and rows")
    (line, head), *rest = records
    names = [name.strip() for name in head]
    if kind == ".csv" and len(names) == 1 and (other := next((c for c in ";\t" if c in names[0]), None)):
        what = "semicolons" if other == ";" else "tabs"
        raise InputError(f"{path} separates its cells by {what}: save it with commas, or with tabs as a .tsv file")
    if len(set(named := [name for name in names if name])) < len(named):
        raise InputError(f"{path} line {line}: column {_twice(named)!r} occurs twice: rename one")
    unnamed = [k for k, name in enumerate(names) if k and not name]
    rows = []
    for number, cells in rest:
        value: Any = dict(zip(names, cells, strict=False))
        if len(cells) != len(names):
            value = RowError(_count(cells, names, sep))
        elif any(cells[k] for k in unnamed):
            value = RowError("has a cell in a column without a name: name the column in the header")
        elif unnamed and not names[0]:
            value[""] = cells[0]
        elif unnamed:
            del value[""]
        rows.append(Row(f"line {number}", value))
    return rows


def _records(text: str, sep: str, path: Path) -> list[tuple[int, list[str]]]:
    """The cells of every row and the line it begins on, by RFC 4180; blank lines are none.

    The standard library's reader takes a quote inside an unquoted cell as text and so merges rows; it is an error here.
    """
    cell = re.compile(rf'(?:"((?:[^"]++|"")*+)"|([^"\r\n{sep}]*+))({sep}|\r\n|\n|\r|\Z)')
    found: list[tuple[int, list[str]]] = []
    cells: list[str] = []
    at, line, begin = 0, 1, 1
    while at < len(text) or cells:
        match = cell.match(text, at)
        if match is None:
            # a quote that closed too late shows first as a row of too many or too few cells
            odd = next((row for row in found if len(row[1]) != len(found[0][1])), None)
            why = _count(odd[1], found[0][1], sep) if odd else _quote(text, at)
            raise InputError(f"{path} line {odd[0] if odd else begin if cells else line} {why}")
        quoted, plain, end = match.groups()
        cells.append(plain if quoted is None else quoted.replace('""', '"'))
        at = match.end()
        if end == sep:
            line += len(_LINE.findall(quoted)) if quoted else 0
            continue
        if len(cells) > 1 or quoted is not None or cells[0].strip(" "):
            found.append((begin, cells))
        line += len(_LINE.findall(quoted)) + 1 if quoted else 1
        begin, cells = line, []
    return found


def _count(cells: list[str], names: list[str], sep: str) -> str:
    what = "tab" if sep == "\t" else "comma"
    return f"has {len(cells)} cells, the header {len(names)}: put a cell with a {what} or a line break in quotes"


def _quote(text: str, at: int) -> str:
    if text[at] != '"':
        return "has a quote inside an unquoted cell: put the whole cell in quotes and double those inside"
    if re.compile(r'"(?:[^"]++|"")*+\Z').match(text, at):
        return "has a quote that is never closed"
    return "has text behind a closing quote: double the quotes inside a cell, or close the cell before"


def shown(value: Any) -> str:
    """A value for a message, with its kind and not longer than a line."""
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if isinstance(value, str) else f"{_KINDS.get(type(value), type(value).__name__)} ({text})"
