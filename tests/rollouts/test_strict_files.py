"""Files are read strictly: equal rows or an error that names the row, never a shifted, merged or guessed one."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verdictscope.errors import InputError
from verdictscope.judgments import load_items
from verdictscope.rollouts import read_prompts
from verdictscope.rows import RowError, read_rows

Prompt = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


words = st.one_of(
    st.sampled_from(
        ["007", "1e5", "NA", "None", "null", "nan", "NaN", "True", "1.0", "-", "=1+1", " x ", "\u2028y", "#"]
    ),
    st.text("ab,;\"'\n\r\t\\ é😀0", min_size=1, max_size=8).filter(lambda s: s.strip()),
)


@st.composite
def prompts(draw: Callable[..., Any], least: int = 1) -> list[Prompt]:
    ids = draw(st.lists(words, min_size=least, max_size=4, unique=True))
    return [{"id": i, "user": draw(words), "note": draw(words)} for i in ids]


def equal(path: Path, rows: list[Prompt]) -> None:
    table = read_prompts(path)
    assert table[["id", "user"]].to_dict("records") == [{k: r[k] for k in ("id", "user")} for r in rows]
    assert [row.value for row in read_rows(path)] == rows


def refused(path: Path, place: str) -> None:
    with pytest.raises(InputError) as caught:
        read_prompts(path)
    message = str(caught.value)
    assert f"{path}" in message
    assert place in message.replace(":", " ").split("\n")[0] + " ", message
    assert len(message.splitlines()) == 1


def place(kind: str, number: int) -> str:
    return f"{kind} {number} "


# --- CSV and TSV --------------------------------------------------------------------------------------------------


def csv_lines(rows: list[Prompt], sep: str, end: str) -> list[str]:
    """Header and rows as the standard library writes them, one text a row."""
    made = []
    # the standard library writes a lone carriage return without quotes
    how = csv.QUOTE_ALL if any("\r" in v for row in rows for v in row.values()) else csv.QUOTE_MINIMAL
    for cells in (list(rows[0]), *(r.values() for r in rows)):
        line = io.StringIO()
        csv.writer(line, delimiter=sep, lineterminator=end, quoting=how).writerow(cells)
        made.append(line.getvalue())
    return made


def line_of(lines: list[str], k: int) -> int:
    """The line of an editor on which row ``k`` begins."""
    return 1 + len("".join(lines[:k]).replace("\r\n", "\n").replace("\r", "\n").split("\n")) - 1


@given(prompts(), st.sampled_from([",", "\t"]), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_well_formed_tables(folder: Path, rows: list[Prompt], sep: str, end: str, mark: bool, last: bool) -> None:
    path = folder / ("p.tsv" if sep == "\t" else "p.csv")
    lines = csv_lines(rows, sep, end)
    text = (end if len(rows) % 2 else "").join(lines)  # with blank lines between
    path.write_bytes((("\ufeff" if mark else "") + (text if last else text.removesuffix(end))).encode())
    equal(path, rows)


BREAKS: dict[str, Callable[[str, str], str | bytes]] = {
    "a cell too many": lambda line, end: line.removesuffix(end) + ",more" + end,
    "a cell too few": lambda line, end: "only" + end,
    "an unquoted comma": lambda line, end: "n,Hello, world,x" + end,
    "a quote never closed": lambda line, end: 'n,"open,x' + end,
    "text behind a quote": lambda line, end: 'n,"so" it is,x' + end,
    "a quote in a plain cell": lambda line, end: 'n,5" nail,x' + end,
    "another encoding": lambda line, end: ("n,caf\xe9,x" + end).encode("latin-1"),
    "a NUL byte": lambda line, end: "n,a\0b,x" + end,
    "half a row": lambda line, end: "n,Hel",
    "no text": lambda line, end: "n,,x" + end,
    "no id": lambda line, end: " ,u,x" + end,
}


@given(prompts(2), st.data(), st.sampled_from(sorted(BREAKS)), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=450, deadline=None)
def test_broken_tables(folder: Path, rows: list[Prompt], data: st.DataObject, how: str, end: str) -> None:
    path = folder / "broken.csv"
    k = len(rows) if how == "half a row" else data.draw(st.integers(1, len(rows)))
    plain = [{name: str(v).replace('"', "'") for name, v in row.items()} for row in rows]  # quotes could close it
    lines = csv_lines(plain if "quote" in how else rows, ",", end)
    number = line_of(lines, k)
    broken = BREAKS[how](lines[k], end)
    parts = [line.encode() for line in lines]
    parts[k] = broken if isinstance(broken, bytes) else broken.encode()
    path.write_bytes(b"".join(parts))
    refused(path, place("line", number))


# --- JSONL --------------------------------------------------------------------------------------------------------


@given(prompts(), st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_well_formed_lines(folder: Path, rows: list[Prompt], ascii: bool, end: str, last: bool) -> None:
    path = folder / "p.jsonl"
    path.write_bytes((end.join(json.dumps(r, ensure_ascii=ascii) for r in rows) + (end if last else "")).encode())
    equal(path, rows)


OBJECTS: dict[str, str | bytes] = {
    "cut": '{"id": "n", "user": "He',
    "a key twice": '{"id": "n", "user": "a", "user": "b"}',
    "a key twice inside": '{"id": "n", "user": "a", "more": {"k": 1, "k": 2}}',
    "NaN": '{"id": "n", "user": "a", "p": NaN}',
    "infinite": '{"id": "n", "user": "a", "p": -Infinity}',
    "too large": '{"id": "n", "user": "a", "p": 1e999}',
    "half a pair": '{"id": "n", "user": "cut \\ud83d"}',
    "half a pair in a key": '{"id": "n", "user": "a", "\\udc00": 1}',
    "list": '{"id": "n", "user": ["a"]}',
    "number": '{"id": "n", "user": 12}',
    "truth": '{"id": "n", "user": true}',
    "object": '{"id": "n", "user": {"text": "a"}}',
    "null": '{"id": "n", "user": null}',
    "no user": '{"id": "n"}',
    "system": '{"id": "n", "user": "a", "system": ["b"]}',
    "id true": '{"id": true, "user": "a"}',
    "id fraction": '{"id": 1.0, "user": "a"}',
    "id list": '{"id": ["n"], "user": "a"}',
    "id null": '{"id": null, "user": "a"}',
    "group": '{"id": "n", "user": "a", "group": 1.5}',
    "no object": '["n", "a"]',
    "text": '"n"',
    "bytes": b'{"id": "n", "user": "caf\xe9"}',
    "raw NUL": b'{"id": "n", "user": "a\x00"}',
    "two": '{"id": "n", "user": "a"} {"id": "m", "user": "b"}',
    "single quotes": "{'id': 'n', 'user': 'a'}",
    "deep": '{"id": "n", "user": "a", "x": ' + "[" * 100_000 + "}",
}


@given(prompts(2), st.data(), st.sampled_from(sorted(OBJECTS)))
@settings(max_examples=350, deadline=None)
def test_broken_lines(folder: Path, rows: list[Prompt], data: st.DataObject, how: str) -> None:
    path = folder / "broken.jsonl"
    k, bad = data.draw(st.integers(0, len(rows) - 1)), OBJECTS[how]
    lines: list[bytes] = [json.dumps(r).encode() for r in rows]
    lines[k] = bad if isinstance(bad, bytes) else bad.encode()
    path.write_bytes(b"\n".join(lines))
    refused(path, place("line", k + 1))


@given(prompts(2), st.data(), st.sampled_from(sorted(set(OBJECTS) - {"system", "id true", "no user"})))
@settings(max_examples=150, deadline=None)
def test_items_keep_the_good_lines_and_account_for_the_bad_one(
    folder: Path, rows: list[Prompt], data: st.DataObject, how: str
) -> None:
    path = folder / "items.jsonl"
    k, bad = data.draw(st.integers(0, len(rows) - 1)), OBJECTS[how]
    lines = [json.dumps({"id": r["id"], "question": r["user"], "answer_a": "a", "answer_b": ""}).encode() for r in rows]
    asked = (bad if isinstance(bad, bytes) else bad.encode()).replace(b'"user":', b'"question":')
    lines[k] = asked.replace(b"{", b'{"answer_a": "", "answer_b": "", ', 1)
    path.write_bytes(b"\n".join(lines))
    found = load_items(path, "pairs")
    good = [r for j, r in enumerate(rows) if j != k]
    assert [(i.id, i.question) for i in found.items] == [(r["id"], r["user"]) for r in good]
    lost = found.problems[~found.problems["used"]]
    assert lost["place"].tolist() == [f"line {k + 1}"]
    assert lost["detail"].str.len().min() > 3


# --- Parquet ------------------------------------------------------------------------------------------------------


@given(prompts(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_well_formed_parquet(folder: Path, rows: list[Prompt], by_pandas: bool) -> None:
    path = folder / "p.parquet"
    table = pa.Table.from_pandas(pd.DataFrame(rows)) if by_pandas else pa.Table.from_pylist(rows)
    pq.write_table(table, path)
    equal(path, rows)


COLUMNS: dict[str, Callable[[list[Prompt], int], tuple[str, list[Any]]]] = {
    "user missing": lambda rows, k: ("user", [None if j == k else r["user"] for j, r in enumerate(rows)]),
    "user a list": lambda rows, k: ("user", [["a"] if j == k else None for j in range(len(rows))]),
    "user a number": lambda rows, k: ("user", [1 for _ in rows]),
    "user bytes": lambda rows, k: ("user", [b"a" for _ in rows]),
    "id missing": lambda rows, k: ("id", [None if j == k else r["id"] for j, r in enumerate(rows)]),
    "ids with a gap as floats": lambda rows, k: ("group", [1.0 if j == k else float("nan") for j in range(len(rows))]),
    "id true": lambda rows, k: ("id", [True for _ in rows]),
    "harm 2": lambda rows, k: ("harm", [2 if j == k else 1 for j in range(len(rows))]),
    "harm a half": lambda rows, k: ("harm", [0.5 if j == k else 1.0 for j in range(len(rows))]),
    "harm missing": lambda rows, k: ("harm", [None if j == k else True for j in range(len(rows))]),
    "harm a word": lambda rows, k: ("harm", ["maybe" if j == k else "yes" for j in range(len(rows))]),
    "id twice": lambda rows, k: ("id", ["n" if j in (0, k) else r["id"] for j, r in enumerate(rows)]),
}
WHOLE = {"user a number", "user bytes", "id true"}


@given(prompts(2), st.data(), st.sampled_from(sorted(COLUMNS)))
@settings(max_examples=250, deadline=None)
def test_broken_parquet(folder: Path, rows: list[Prompt], data: st.DataObject, how: str) -> None:
    path = folder / "broken.parquet"
    k = data.draw(st.integers(1 if how == "id twice" else 0, len(rows) - 1))
    name, cells = COLUMNS[how](rows, k)
    columns = {**{c: [r[c] for r in rows] for c in rows[0]}, name: cells}
    pq.write_table(pa.table(columns), path)
    refused(path, f"record {1 if how in WHOLE else k + 1}")


# --- members, one by one ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.csv", "id,user\n", "no rows"),
        ("p.csv", "", "is empty"),
        ("p.csv", "id,user,user\n1,a,b\n", "line 1: column 'user' occurs twice"),
        ("p.csv", "id,user, user \n1,a,b\n", "line 1: column 'user' occurs twice"),
        ("p.csv", "id,user,\n1,Hello, world\n", "line 2 has a cell in a column without a name"),
        ("p.csv", "id;user\n1;a\n", "semicolons"),
        ("p.csv", "id,user\n1,a\n2,b\n1,c\n", "line 4: id '1' occurs in line 2 too"),
        ("p.csv", "id,user\n1,a\n2,b\n".encode("utf-16"), "is UTF-16, not UTF-8"),
        ("p.csv", "id,user\n1,a\n2,b\n".encode("utf-16-le"), "line 1 holds a NUL byte"),
        ("p.jsonl", '{"id": 1}'.encode("utf-32"), "is UTF-32, not UTF-8"),
        ("p.json", '{"id": 1}'.encode("utf-16"), "is UTF-16, not UTF-8"),
        ("p.json", '[{"id": 1, "user": "a"},\n {"id": 2, "user"', "line 2"),
        ("p.json", '[{"id": 1, "user": "a"}, {"id": 2, "id": 2}]', "record 2 has the key 'id' twice"),
        ("p.json", '[{"id": 1, "user": "a"}, 3]', "record 2 is no JSON object"),
        ("p.json", '{"id": 1, "user": "a"}\n{"id": 2, "user": "b"}', "a .jsonl file"),
        ("p.csv.gz", gzip.compress(b"id,user\n1,a\n", mtime=0)[:-4], "damaged gzip"),
        ("p.parquet", b"PAR1 and so on", "cannot be read as Parquet"),
        ("p.xlsx", b"PK", "cannot read .xlsx"),
    ],
)
def test_members(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_prompts(path)
    assert says in str(caught.value)


def test_parquet_columns_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, names=["id", "user", "user"]), path)
    with pytest.raises(InputError, match="column 'user' occurs twice"):
        read_prompts(path)
    pd.DataFrame({"id": [1, 2], "user": ["a", "b"]}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_prompts(path)
    kept = pd.DataFrame({"id": [3, 9, 2, 4], "user": list("xabc"), "group": pd.array([1, 2, None, 3], dtype="Int64")})
    kept.iloc[1:].set_index("id").to_parquet(path)  # the ids are the frame's index
    table = read_prompts(path)
    assert table[["id", "group", "user"]].to_numpy().tolist() == [["9", "2", "a"], ["2", "2", "b"], ["4", "3", "c"]]
    kept.iloc[1:].to_parquet(path)
    assert list(read_prompts(path).columns) == ["id", "group", "system", "user", "harm"]


def test_one_rule_for_ids_in_every_kind_of_file(tmp_path: Path) -> None:
    rows = [{"id": 7, "user": "a", "group": 10**20}, {"id": 8, "user": "b", "group": 3}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "p.json").write_text(json.dumps(rows))
    pd.DataFrame(rows).astype({"group": str}).to_csv(tmp_path / "p.csv.gz", index=False)
    for name in ("p.jsonl", "p.json", "p.csv.gz"):
        table = read_prompts(tmp_path / name)
        assert table[["id", "group"]].to_numpy().tolist() == [["7", str(10**20)], ["8", "3"]]


def test_a_first_column_without_a_name_is_row_numbers(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    pd.DataFrame({"id": ["a"], "user": ["x"]}).to_csv(path)
    assert list(read_prompts(path).columns) == ["id", "group", "system", "user", "harm"]


def test_rows_that_may_be_skipped_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('id,user\n1,"a\nb"\n2,b,c\n\n3,d\n')
    rows = read_rows(path)
    assert [row.place for row in rows] == ["line 2", "line 4", "line 6"]
    assert [isinstance(row.value, RowError) for row in rows] == [False, True, False]
