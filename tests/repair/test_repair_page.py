"""docs/repair.md is what its command writes from the stored evidence."""

from __future__ import annotations

import json

from tools.docs.repair import DOCS, EVIDENCE, page


def test_the_page_is_written_from_the_evidence() -> None:
    data = json.loads(EVIDENCE.read_text(encoding="utf-8")) if EVIDENCE.is_file() else None
    assert (DOCS / "repair.md").read_text(encoding="utf-8") == page(data)
    assert data is None or (DOCS / "repair.png").is_file()
