"""Score cards: what a method selected against what was planted. Nothing else reads an organism's ground truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def score_heads(found: Sequence[Sequence[int]], model_folder: str | Path) -> dict[str, Any] | None:
    """Recall of the planted heads among the selected ones.

    Args:
        found: selected [layer, head] pairs.
        model_folder: the folder of the model that was studied.

    Returns:
        ``planted`` and ``recall``; ``None`` where the folder holds no ``truth.json``. The recall of a model in which
        nothing was planted is ``None``.

    Example:
        >>> from verdictscope.sources import locate
        >>> score_heads([(5, 6), (3, 1), (0, 0)], locate("organism:cliff"))["recall"]
        0.6666666666666666
    """
    truth = Path(model_folder) / "truth.json"
    if not truth.is_file():
        return None
    planted = [tuple(head) for head in json.loads(truth.read_text(encoding="utf-8"))["heads"]]
    hits = len(set(planted) & {tuple(head) for head in found})
    return {"planted": [list(head) for head in planted], "recall": hits / len(planted) if planted else None}
