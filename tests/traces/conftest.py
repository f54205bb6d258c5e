"""Fixtures of the traces room."""

from probe_worlds import world

__all__ = ["world"]
