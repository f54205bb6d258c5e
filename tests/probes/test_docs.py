"""The page about probes shows what was measured."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

import verdictscope.probes

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def writer() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(DOCS)  # as for a script that is run there
        return runpy.run_path(str(DOCS / "probes.py"))


def test_the_tables_are_those_of_the_evidence(writer: dict[str, Any]) -> None:
    page = (DOCS / "probes.md").read_text(encoding="utf-8")
    assert writer["filled"](page, writer["TABLES"]) == page
    for name in writer["TABLES"]:
        assert f"<!-- {name}:begin -->" in page


def test_every_call_the_page_names_is_there() -> None:
    page = (DOCS / "probes.md").read_text(encoding="utf-8")
    for name in (
        "protocol",
        "check_leakage",
        "classification_metrics",
        "calibrate",
        "calibrate_segments",
        "permuted_selection",
        "control_task",
        "random_directions",
        "tfidf_auroc",
        "token_auroc",
    ):
        assert name in page
        assert hasattr(verdictscope.probes, name)
