"""What slow tests measured, stored with commit and machine: ``docs/evidence/NAME.json``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from verdictscope import provenance

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "evidence"


def write_evidence(name: str, data: Mapping[str, Any]) -> Path:
    """Store what a test measured.

    Args:
        name: of the file, without its ending.
        data: settings and numbers; keys ``date``, ``commit``, ``machine`` and ``versions`` are added.

    Returns:
        The file.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": provenance.commit(),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }
    file = FOLDER / f"{name}.json"
    provenance.write_json(file, about | dict(data))
    return file
