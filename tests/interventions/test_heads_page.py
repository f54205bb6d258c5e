"""The page about heads shows what was measured and names what is there."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import verdictscope.interventions
import verdictscope.stats

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_tables_are_those_of_the_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)  # as for a script that is run there
    writer = runpy.run_path(str(DOCS / "heads.py"))
    page = (DOCS / "heads.md").read_text(encoding="utf-8")
    assert writer["filled"](page, writer["TABLES"]) == page
    for name in writer["TABLES"]:
        assert f"<!-- {name}:begin -->" in page


def test_every_call_the_page_names_is_there() -> None:
    page = (DOCS / "heads.md").read_text(encoding="utf-8")
    for name in (
        "sweep_heads",
        "readout_gap",
        "matched_sets",
        "cumulative_curve",
        "self_repair",
        "writer_control",
        "transplanted",
    ):
        assert name in page
        assert hasattr(verdictscope.interventions, name)
    assert hasattr(verdictscope.stats, "sign_flip_test")
