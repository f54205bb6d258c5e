"""Numbers and foreign text as they are shown: dashes for what is missing, signs for what cannot be seen."""

from __future__ import annotations

import math
import unicodedata
from functools import lru_cache
from typing import Any

from verdictscope.stats import ends_to_show
from verdictscope.study.results import Result

DIGITS = {"nats": 2, "logit": 2, "tokens": 1, "count": 0}
"""Decimals by unit where no interval says how many a number deserves; three elsewhere."""

SIGNED = ("nats", "logit")
"""Units of differences, shown with their sign."""

CLIP = 600
"""Characters of a model's text that are shown; the tables hold all of it."""

LONGEST = 20_000
"""Characters of any other text of a run's data, such as a caption or a name."""

VARIANTS = {
    "base": "model under study",
    "reference": "reference model",
    "ablated": "selected heads ablated",
    "ablated_fixed": "selected heads ablated, same tokens",
    "patched": "selected heads patched into the reference model",
}
"""Names of the variants; others keep theirs."""

_JOINERS = "\u200c\u200d\u00ad"
"""Invisible marks that ordinary writing needs: Persian and Indic joiners, emoji sequences, soft hyphens."""


def variant_name(variant: str) -> str:
    """A variant in words."""
    return VARIANTS.get(variant, variant)


def decimals(unit: str, low: float | None = None, high: float | None = None) -> int:
    """Decimals that show two significant digits of an interval's half width, or the unit's own."""
    if low is None or high is None or not high > low:
        return DIGITS.get(unit, 3)
    return min(max(1 - math.floor(math.log10((high - low) / 2)), 0), 3)


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """A number with a true minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    value = round(float(value), digits) + 0.0  # + 0.0: no minus before a zero
    return f"{value:{'+' if signed else ''},.{digits}f}".replace("-", "−")


def interval(row: Result) -> str:
    """``[0.870, 0.898]``; Wilson's interval, or words, where all units are alike; nothing where an end is missing."""
    if row.estimate is None or row.low is None or row.high is None:
        return ""
    shown = ends_to_show(row.estimate, row.low, row.high, row.n, row.unit)
    if shown is None:
        return f"(the same in all {row.n:,})" if row.n else "(the same in all)"
    digits = decimals(row.unit, *shown)
    return f"[{number(shown[0], digits)}, {number(shown[1], digits)}]"


def value(row: Result, *, signed: bool | None = None) -> str:
    """The estimate with the decimals its interval deserves."""
    digits = decimals(row.unit, row.low, row.high)
    return number(row.estimate, digits, signed=row.unit in SIGNED if signed is None else signed)


def estimate(row: Result, *, signed: bool | None = None) -> str:
    """``0.885 [0.870, 0.898]``."""
    return f"{value(row, signed=signed)} {interval(row)}".rstrip()


def null_range(row: Result) -> str:
    """``0.475 to 0.526``, the range of the null; nothing where there is none."""
    if row.null_low is None or row.null_high is None:
        return ""
    digits = decimals(row.unit, row.null_low, row.null_high)
    return f"{number(row.null_low, digits)} to {number(row.null_high, digits)}"


def p_value(p: float | None) -> str:
    """``0.005``, or a dash."""
    return "–" if p is None else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def counted(row: Result) -> str:
    """``128 prompt groups``; nothing where the number rests on nothing counted."""
    return "" if row.n is None else f"{row.n:,} {row.of}".rstrip()


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
