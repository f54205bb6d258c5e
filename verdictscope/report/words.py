"""Numbers and foreign text as they stand in a page: dashes for what is missing, signs for what cannot be seen."""

from __future__ import annotations

import math
import unicodedata
from functools import lru_cache
from typing import Any

from verdictscope.stats import ends_to_show

_DIGITS = {"nats": 2, "logit": 2}
"""Decimals by unit; three elsewhere, since AUROCs and rates are read to the third."""

_JOINERS = "\u200c\u200d\u00ad"
"""Invisible marks that ordinary writing needs: Persian and Indic joiners, emoji sequences, soft hyphens."""

CLIP = 600
"""Characters of a model's text that are shown; the tables hold all of it."""

LONGEST = 20_000
"""Characters of any other text of a run's data, such as a caption or a name."""


def present(value: Any) -> bool:
    """Whether there is a finite number."""
    try:
        return value is not None and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def number(value: Any, unit: str = "", *, signed: bool = False) -> str:
    """A number with the decimals of its unit and a true minus sign; a dash where there is none."""
    if not present(value):
        return "–"
    digits = _DIGITS.get(unit, 3)
    value = round(float(value), digits) + 0.0  # + 0.0: no minus before a zero
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def interval(low: Any, high: Any, unit: str = "") -> str:
    """``0.870 to 0.898``; a dash where an end is missing."""
    return f"{number(low, unit)} to {number(high, unit)}" if present(low) and present(high) else "–"


def ends(value: Any, low: Any, high: Any, unit: str = "", *, signed: bool = False, n: Any = None) -> str:
    """``[0.870, 0.898]``; where all units are alike Wilson's interval or words, and nothing where an end is missing."""
    if not (present(value) and present(low) and present(high)):
        return ""
    shown = ends_to_show(value, low, high, n if present(n) else None, unit)
    if shown is None:
        return f"(the same in all {int(n):,})" if present(n) else "(the same in all)"
    return f"[{number(shown[0], unit, signed=signed)}, {number(shown[1], unit, signed=signed)}]"


def estimate(value: Any, low: Any, high: Any, unit: str = "", *, signed: bool = False, n: Any = None) -> str:
    """``0.885 [0.870, 0.898]``; see :func:`ends`."""
    return f"{number(value, unit, signed=signed)} {ends(value, low, high, unit, signed=signed, n=n)}".rstrip()


def heads(pairs: Any) -> str:
    """``L5H6, L3H1`` from (layer, head) pairs."""
    return ", ".join(f"L{int(layer)}H{int(head)}" for layer, head in pairs)


def some(n: int, one: str, many: str | None = None) -> str:
    """``1 run``, ``1,024 runs``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def visible(text: str) -> str:
    """Text in which nothing hides: control characters, direction overrides and lone surrogates become signs.

    A right-to-left override changes how what follows it is read, in this sentence and the next; here it is the sign
    ``⟨U+202E⟩``. Line feeds and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if _hidden(c) else c for c in text)


@lru_cache(4096)
def _hidden(char: str) -> bool:
    if char in "\n\t" or char in _JOINERS:
        return False
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def clip(text: Any, length: int = CLIP) -> str:
    """The beginning of a text, saying how much is left out."""
    text = str(text)
    return text if len(text) <= length else f"{text[:length]}… ({len(text) - length:,} more characters)"
