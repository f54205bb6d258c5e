"""Estimates with their uncertainty. A leaf: it imports nothing of verdictscope."""

from verdictscope.stats.effect import Effect, effects_frame

__all__ = ["Effect", "effects_frame"]
