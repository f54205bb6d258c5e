"""Pages whose tables are made from stored evidence: the text between two markers is generated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

EVIDENCE = Path(__file__).resolve().parents[2] / "docs" / "evidence"
Tables = Mapping[str, tuple[str, Callable[[dict[str, Any]], str]]]
"""Blocks of a page: their names, their evidence and what makes them."""


def filled(page: str, tables: Tables) -> str:
    """The page with the text between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` regenerated.

    A block whose evidence was not measured says so.
    """
    for name, (evidence, make) in tables.items():
        file = EVIDENCE / f"{evidence}.json"
        text = "Not measured yet: `make evidence`."
        if file.is_file():
            data = json.loads(file.read_text(encoding="utf-8"))
            text = f"{make(data)}\n\n[evidence/{file.name}](evidence/{file.name}), commit `{data['commit'][:10]}`."
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        block = f"{begin}\n{text}\n{end}".replace("\\", r"\\")  # no escape of the replacement
        page = pattern.sub(block, page)
    return page
