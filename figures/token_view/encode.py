"""Scores as compact text, and data in a page that cannot end its own block."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from jaxtyping import Float

HALF_MAX = float(np.finfo(np.float16).max)


def halves(scores: Float[np.ndarray, " token"]) -> Float[np.ndarray, " token"]:
    """Scores at half precision (a relative error of at most 2^-11, so three digits), which NaN and infinity survive."""
    scores = np.asarray(scores, dtype=np.float64)
    finite = np.isfinite(scores)
    return np.where(finite, np.clip(scores, -HALF_MAX, HALF_MAX), scores).astype("<f2")


def base64_halves(scores: Float[np.ndarray, " token"]) -> str:
    """Two bytes a score, little-endian IEEE halves, as base64."""
    return base64.b64encode(halves(scores).tobytes()).decode("ascii")


def json_block(data: Any) -> str:
    """JSON for a ``<script>`` block: no character of it can close the block or open a comment."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
