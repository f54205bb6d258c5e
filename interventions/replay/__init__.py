"""Replay: the exact effect of any list of edits for the price of a few forward passes.

What an edit leaves untouched is not run again: nothing before its layer, nothing behind the readout's layer, and, where
it acts on the last tokens only, nothing before them.
"""

from verdictscope.interventions.replay.running import Computed, NotReplayed, Readings, replay

__all__ = ["Computed", "NotReplayed", "Readings", "replay"]
