"""docs/formats.md is what the declared tables say."""

from __future__ import annotations

import pandas as pd

from tools.docs.formats import PAGE, filled
from verdictscope.study.results import Result, Results
from verdictscope.study.tables import TABLES, faults


def test_the_page_is_generated_from_the_declarations() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run make formats"


def test_every_column_is_described() -> None:
    for table in TABLES.values():
        assert len(set(table.columns)) == len(table.columns)
        assert all(table.column(name).meaning for name in table.columns)
        assert set(table.own) <= set(table.columns)


def test_a_table_that_differs_is_named() -> None:
    results = Results([Result("trace", "base", "all", "x", 1.0)]).to_frame()
    assert faults("results", results) == []
    wrong = results.drop(columns="p").assign(n=0.5, extra=1)
    assert faults("results", wrong) == [
        "results lacks p",
        "results.extra is not declared",
        "results.n is float64, declared int",
    ]
    assert faults("nobody", pd.DataFrame()) == ["nobody is not declared"]
