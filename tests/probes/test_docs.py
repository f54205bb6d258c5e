"""The page about probes shows what was measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import verdictscope.probes

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_probes", DOCS / "probes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_evidence(writer: ModuleType) -> None:
    page = (DOCS / "probes.md").read_text(encoding="utf-8")
    assert writer.filled(page) == page
    for name in writer.TABLES:
        assert f"<!-- {name}:begin -->" in page


def test_every_call_the_page_names_is_there() -> None:
    page = (DOCS / "probes.md").read_text(encoding="utf-8")
    for name in ("protocol", "lint", "merit", "calibrate", "calibrate_segments", "permuted_selection", "control_task",
                 "random_directions", "tfidf_auroc", "token_auroc"):  # fmt: skip
        assert name in page
        assert hasattr(verdictscope.probes, name)
