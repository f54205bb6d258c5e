"""Fixtures of the repair room."""

from probe_worlds import world

__all__ = ["world"]
