"""Untrusted text made visible: what would move, hide or reorder other text is written as a code point instead."""

from __future__ import annotations

import re
import unicodedata

CLIP = 400
"""Characters of one token that are shown; a model can write a token as long as it likes."""

# Letters, marks and symbols that show nothing, beside the categories below (Unicode's Default_Ignorable_Code_Point
# and the blanks among letters).
_BLANK = {
    0x034F,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    0x2800,
    0x3164,
    0xFFA0,
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
}
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_MARKS = ("Mn", "Me", "Mc")
_PLAIN = re.compile(r"[ -~]*")
_STACK = 3  # combining marks on one letter; a longer stack paints over its neighbours


def visible(text: str) -> str:
    """One token's text as it may be shown: nothing in it acts on what stands around it."""
    if not text:
        return "∅"
    if len(text) > CLIP:
        return f"{visible(text[:CLIP])}⟨… the first {CLIP} of {len(text):,} characters⟩"
    if _PLAIN.fullmatch(text):
        return text
    shown: list[str] = []
    marks = _STACK
    for character in text:
        if unicodedata.category(character) in _MARKS:
            shown.append(_mark(character, marks, bool(shown)))
            marks += 1
        else:
            shown.append(_sign(character))
            marks = 0
    return "".join(shown)


def one_line(text: str) -> str:
    """The same where a token stands in a table or a label: the signs of line ends and tabs without their effect."""
    return visible(text).replace("\n", "").replace("\t", "")


def _sign(character: str) -> str:
    if character == "\n":
        return "⏎\n"
    if character == "\t":
        return "⇥\t"
    unusual_space = character != " " and unicodedata.category(character) == "Zs"
    if unusual_space or ord(character) in _BLANK or unicodedata.category(character) in _HIDDEN:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def _mark(character: str, before: int, follows: bool) -> str:
    """A combining mark: unchanged on a letter, on a circle at the token's start, spelled out in a high stack."""
    if ord(character) in _BLANK or (follows and before >= _STACK):
        return f"⟨U+{ord(character):04X}⟩"
    return character if follows else f"◌{character}"
