"""A study as TOML: the standard library reads it and writes none."""

from __future__ import annotations

import re
from typing import Any


def to_toml(data: dict[str, Any], prefix: str = "") -> str:
    """Nested dictionaries as TOML tables; ``None`` must have been left out."""
    lines = [f"{_key(key)} = {_value(value)}" for key, value in data.items() if not isinstance(value, dict)]
    for key, value in data.items():
        if isinstance(value, dict):
            place = f"{prefix}{_key(key)}"
            lines += ["", f"[{place}]", to_toml(value, f"{place}.").rstrip("\n")]
    return "\n".join(lines).lstrip("\n") + "\n"


def _key(key: str) -> str:
    """A column of the prompts may have any name; TOML wants all but the plainest in quotes."""
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(v) for v in value)}]"
    return '"' + "".join(_escape(c) for c in str(value)) + '"'


def _escape(char: str) -> str:
    # TOML basic strings escape the quote, the backslash and every control character.
    if char in '"\\':
        return "\\" + char
    return f"\\u{ord(char):04x}" if ord(char) < 32 or ord(char) == 127 else char
