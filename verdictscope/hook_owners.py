"""Which packages a hook was written in: the one test of whether a hook is foreign. A leaf."""

from __future__ import annotations

from typing import Any

CHECKERS = frozenset({"beartype", "jaxtyping"})
"""Packages that wrap functions to check their types."""


def packages_of(fn: Any) -> set[str]:
    """The packages in which a function and all that it wraps were written, type checkers left out."""
    found: set[str] = set()
    while fn is not None:
        fn = getattr(fn, "__func__", fn)  # a method is where its function is
        # functools.wraps copies __module__; the globals are the function's own
        where = getattr(fn, "__globals__", {}).get("__name__") or getattr(fn, "__module__", None) or type(fn).__module__
        found.add(str(where).partition(".")[0])
        fn = getattr(fn, "__wrapped__", None)
    return found - CHECKERS
