"""Scores of readouts at every token: aligned, averaged and normalised; drops, change points, commitment times."""

if __name__ != "verdictscope.traces":
    raise ImportError("import this room as verdictscope.traces: the bare folder name is not a package")

from verdictscope.traces.aggregate import aggregate
from verdictscope.traces.changepoint import change_point, change_points
from verdictscope.traces.cliff import cliff, drop_difference
from verdictscope.traces.cliff_nulls import exchange_null, shift_null
from verdictscope.traces.commitment import commitment, commitment_gap
from verdictscope.traces.forced_answers import forced_lengths
from verdictscope.traces.landmarks import align
from verdictscope.traces.lens import lens_logits, lens_readouts
from verdictscope.traces.normaliser import Normaliser
from verdictscope.traces.online import online_traces
from verdictscope.traces.score import Traces, trace
from verdictscope.traces.tokens import token_view

__all__ = [
    "Normaliser",
    "Traces",
    "aggregate",
    "align",
    "change_point",
    "change_points",
    "cliff",
    "commitment",
    "commitment_gap",
    "drop_difference",
    "exchange_null",
    "forced_lengths",
    "lens_logits",
    "lens_readouts",
    "online_traces",
    "shift_null",
    "token_view",
    "trace",
]
