"""Fixtures of the probes room."""

from probe_worlds import world

__all__ = ["world"]
