"""The page about heads shows what was measured and names what is there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import verdictscope.interventions
import verdictscope.stats

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_tables_are_those_of_the_evidence() -> None:
    spec = importlib.util.spec_from_file_location("docs_heads", DOCS / "heads.py")
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    page = (DOCS / "heads.md").read_text(encoding="utf-8")
    assert writer.filled(page) == page
    for name in writer.TABLES:
        assert f"<!-- {name}:begin -->" in page


def test_every_call_the_page_names_is_there() -> None:
    page = (DOCS / "heads.md").read_text(encoding="utf-8")
    for name in ("sweep_heads", "readout_gap", "matched_sets", "cumulative_curve", "self_repair", "writer_control",
                 "transplanted"):  # fmt: skip
        assert name in page
        assert hasattr(verdictscope.interventions, name)
    assert hasattr(verdictscope.stats, "sign_flip_test")
