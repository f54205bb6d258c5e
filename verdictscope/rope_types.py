"""The kinds of rope scaling of a module, and which of them depend on the length of a row. A leaf."""

from __future__ import annotations

from typing import Any


def rope_types(module: Any) -> dict[str, str]:
    """Kind of scaling by kind of layer; of a module that serves all layers alike under an empty name."""
    found = getattr(module, "rope_type", None)
    return {"": found} if isinstance(found, str) else dict(found) if isinstance(found, dict) else {}


def depends_on_length(kind: str | None) -> bool:
    """Whether a kind of scaling takes other frequencies beyond a length."""
    return kind is not None and ("dynamic" in kind or kind == "longrope")
