"""What the cards of all bundled models are written with."""

from __future__ import annotations

from collections.abc import Sequence

from tools.organisms.heads import Head


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as a card shows it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def head_names(heads: Sequence[Head]) -> str:
    """Heads as ``layer.head``."""
    return ", ".join(f"{layer}.{head}" for layer, head in heads)
