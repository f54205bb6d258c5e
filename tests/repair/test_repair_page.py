"""docs/repair.md is what its command writes from the stored evidence."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_written_from_the_evidence() -> None:
    made = runpy.run_path(str(DOCS / "repair.py"))
    file = DOCS / "evidence" / "repair.json"
    data = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    assert (DOCS / "repair.md").read_text(encoding="utf-8") == made["page"](data)
    assert data is None or (DOCS / "repair.png").is_file()
