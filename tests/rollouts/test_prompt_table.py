"""Prompt lists: three formats, strict truth values, errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.public_data import some
from verdictscope.errors import InputError
from verdictscope.rollouts import read_prompts

ROWS = [
    {"id": "007", "user": "How?", "group": "a", "system": "Be.", "harm": "yes", "mode": "normal", "n": "3", "p": ""},
    {"id": "NA", "user": 'Say "é",\nplease', "group": "", "system": "", "harm": "No", "mode": "", "n": "4", "p": "0.5"},
]


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n\n", encoding="utf-8")
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_three_formats(tmp_path: Path, ending: str) -> None:
    table = read_prompts(write(tmp_path / f"p{ending}", ROWS))
    assert list(table.columns) == ["id", "group", "system", "user", "harm", "mode", "n", "p"]
    assert table["id"].tolist() == ["007", "NA"]
    assert table["group"].tolist() == ["a", "NA"]
    assert table["system"].tolist() == ["Be.", None]
    assert table["user"].tolist()[1] == 'Say "é",\nplease'
    assert table["harm"].tolist() == [True, False]
    if ending == ".csv":
        assert table["n"].tolist() == [3, 4]
        assert pd.isna(table["p"][0])
        assert table["p"][1] == 0.5


def test_jsonl_keeps_types(tmp_path: Path) -> None:
    rows = [{"id": 1, "user": "a", "harm": True, "t": 1}, {"id": "x", "user": "b", "harm": 0, "t": None}]
    table = read_prompts(write(tmp_path / "p.jsonl", rows))
    assert table["id"].tolist() == ["1", "x"]
    assert table["harm"].tolist() == [True, False]
    assert table["t"].tolist()[0] == 1


def test_defaults(tmp_path: Path) -> None:
    table = read_prompts(write(tmp_path / "p.csv", [{"id": "a", "user": "x"}]))
    assert table["group"].tolist() == ["a"]
    assert table["system"].tolist() == [None]
    assert table["harm"].isna().all()


@pytest.mark.parametrize("word", ["", "maybe", "2", "harmful", "tru"])
@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_harm_is_read_strictly(tmp_path: Path, word: str, ending: str) -> None:
    path = write(
        tmp_path / f"p{ending}", [{"id": "a", "user": "x", "harm": "1"}, {"id": "b", "user": "y", "harm": word}]
    )
    with pytest.raises(InputError, match=r"harm of prompt 'b' \(line [23]\) is .*write true or false"):
        read_prompts(path)


BAD = [
    ("p.csv", "idx,user\n1,a\n", "column 'id' is missing; the nearest is 'idx'"),
    ("p.csv", "id,prompt\n1,a\n", "column 'user' is missing; the nearest is 'prompt'"),
    ("p.csv", "id,User \n1,a\n", "the nearest is 'User'"),
    ("p.csv", "id,zzz\n1,a\n", "the file has 'id', 'zzz'"),
    ("p.csv", "id,user\n", "no rows"),
    ("p.csv", "", "empty"),
    ("p.csv", "id,user\na,x\nb,y\na,z\n", "line 4: id 'a' occurs in line 2 too"),
    ("p.csv", "id,user\na,x\nb,\n", "line 3: user is empty"),
    ("p.csv", "id,user\na,x,1,2\nb,y\n", "line 2 has 4 cells, the header 2"),
    ("p.jsonl", '{"id": 1, "user": "x"}\n{"id": 2', "line 2 is no JSON: "),
    ("p.jsonl", "[1]\n", "line 1 is no JSON object"),
    ("p.jsonl", "\n", "no rows"),
    ("p.parquet", "junk", "cannot be read as Parquet"),
    ("p.txt", "id,user\n", "cannot read .txt"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD)
def test_errors(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_prompts(tmp_path / "no.csv")


def test_a_real_list_after_renaming(tmp_path: Path) -> None:
    source = some("xstest/xstest_prompts.csv")
    with pytest.raises(InputError, match="the nearest is 'prompt'"):
        read_prompts(source)
    renamed = pd.read_csv(source, keep_default_na=False).rename(columns={"prompt": "user"})
    renamed.to_csv(tmp_path / "p.csv", index=False)
    assert read_prompts(tmp_path / "p.csv")["user"].tolist() == renamed["user"].tolist()
