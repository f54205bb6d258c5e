"""Score cards: what a method found against what was planted. Nothing else reads an organism's ground truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def score_heads(found: Sequence[Sequence[int]], model_folder: str | Path) -> dict[str, Any] | None:
    """Share of the planted heads among the found ones.

    Args:
        found: ranked [layer, head] pairs.
        model_folder: the folder of the model that was studied.

    Returns:
        ``planted`` and ``recall``; ``None`` where the folder holds no ``truth.json``. The recall of a model in which
        nothing was planted is ``None``.
    """
    truth = Path(model_folder) / "truth.json"
    if not truth.is_file():
        return None
    planted = [tuple(head) for head in json.loads(truth.read_text(encoding="utf-8"))["heads"]]
    hits = len(set(planted) & {tuple(head) for head in found})
    return {"planted": [list(head) for head in planted], "recall": hits / len(planted) if planted else None}
